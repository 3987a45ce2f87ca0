"""Weights that come and go while guidance needs them: accelerate's and diffusers' offloading.

Without an accelerator the weights go from the CPU to the meta device (accelerate) or to a file
(diffusers' groups) and come back; what is read after they left is garbage here too.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline

from clipguide.attach.guide import guide

MODULES = ("text_encoder", "unet", "vae")
CPU = torch.device("cpu")


def own_pipeline() -> Any:
    pipe = tiny_pipeline()
    for name in MODULES:
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    return pipe


def guided(pipe: Any, mode: Any = "x0", **settings: Any) -> torch.Tensor:
    with guide(pipe, ProjectionReward(), 0.5, mode=mode, **settings):
        call = {"num_inference_steps": 3, "output_type": "pt"}
        return pipe("a fox", generator=generators(0), **call).images


def sequential(pipe: Any, folder: Path) -> None:
    """As `enable_sequential_cpu_offload` does, with the CPU in the accelerator's place."""
    for name in MODULES:
        cpu_offload(getattr(pipe, name), execution_device=CPU)


def by_model(pipe: Any, folder: Path) -> None:
    """As `enable_model_cpu_offload` does."""
    hook = None
    for name in MODULES:
        _, hook = cpu_offload_with_hook(getattr(pipe, name), CPU, prev_module_hook=hook)


def by_group(kind: str) -> Any:
    """As `enable_group_offload` does, to files: what is read later is not the weights."""

    def offload(pipe: Any, folder: Path) -> None:
        blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        for name in MODULES:
            apply_group_offloading(
                getattr(pipe, name),
                onload_device=CPU,
                offload_device=CPU,
                offload_type=kind,
                offload_to_disk_path=str(folder / name),
                **blocks,
            )

    return offload


OFFLOADS = {
    "sequential": sequential,
    "model": by_model,
    "group, leaves": by_group("leaf_level"),
    "group, blocks": by_group("block_level"),
}


@pytest.mark.parametrize("offload", OFFLOADS)
def test_mode_x0_gives_the_same_bits(offload: str, tmp_path: Path) -> None:
    pipe = own_pipeline()
    expected = guided(pipe)
    OFFLOADS[offload](pipe, tmp_path)
    assert torch.equal(guided(pipe), expected)
    assert torch.equal(guided(pipe), expected)  # and nothing was left changed
    parameters = [p for name in MODULES for p in getattr(pipe, name).parameters()]
    assert all(p.requires_grad for p in parameters)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_checkpointing_gives_the_same_bits_or_is_refused(offload: str, tmp_path: Path) -> None:
    """diffusers' groups are away again when a recomputed block is gone back through."""
    pipe = own_pipeline()
    expected = guided(pipe, checkpoint=True)
    OFFLOADS[offload](pipe, tmp_path)
    if not offload.startswith("group"):
        assert torch.equal(guided(pipe, checkpoint=True), expected)
        return
    with pytest.raises(RuntimeError, match="group offloading on AutoencoderKL"):
        guided(pipe, checkpoint=True)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_mode_xt_is_refused(offload: str, tmp_path: Path) -> None:
    pipe = own_pipeline()
    OFFLOADS[offload](pipe, tmp_path)
    with pytest.raises(RuntimeError, match=r"offloading on vae.*mode='x0'"):
        guided(pipe, "xt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading proper needs an accelerator")
@pytest.mark.parametrize("offload", ["sequential", "model", "group"])
def test_on_an_accelerator(offload: str) -> None:
    pipe = own_pipeline().to("cuda")
    expected = guided(pipe)
    pipe = own_pipeline()
    if offload == "sequential":
        pipe.enable_sequential_cpu_offload()
    elif offload == "model":
        pipe.enable_model_cpu_offload()
    else:
        pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True)
    assert (guided(pipe) - expected).abs().max() < 1e-4  # diffusers' tolerance of offloading
