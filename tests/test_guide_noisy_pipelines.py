"""Mode noisy on every family of pipelines, and however the denoiser is run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from families.registry import FAMILIES
from families.runs import images, unguided
from test_guide_noisy import contrast
from tiny_pipelines import (
    call,
    draw,
    tiny_pipeline,
)
from tiny_rewards import any_shape

from clipguide import LatentReward
from clipguide.attach.guide import guide

EACH = pytest.mark.parametrize("family", FAMILIES, ids=str)


@EACH
def test_every_family_climbs_and_is_undone_to_the_bit(family: Any) -> None:
    reward, before = LatentReward(any_shape), unguided(family)
    with guide(family.build(), reward, 0.0) as plain:
        assert torch.equal(images(family), before)
    with guide(family.build(), reward, 0.3) as trace:
        images(family)
    assert not trace.skipped
    gain = trace.steps[-1].score - plain.steps[-1].score
    assert gain.mean() > 0
    assert torch.equal(images(family), before)


def in_inference_mode(pipe: Any) -> Any:
    with torch.inference_mode():
        return call(pipe)


def compiled(pipe: Any) -> Any:
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    return call(pipe)


def offloaded(pipe: Any) -> Any:
    for name in ("text_encoder", "unet", "vae"):
        cpu_offload(getattr(pipe, name), execution_device=torch.device("cpu"))
    return call(pipe)


def with_lora(pipe: Any) -> Any:
    peft = pytest.importorskip("peft")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    return call(pipe)


@pytest.mark.parametrize("run", [in_inference_mode, compiled, offloaded, with_lora])
def test_no_denoiser_is_in_the_graph(run: Callable[[Any], Any]) -> None:
    pipe = tiny_pipeline()
    for name in ("text_encoder", "unet", "vae"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    with guide(pipe, contrast(), 2.0) as trace:
        expected = call(pipe)
    with guide(pipe, contrast(), 2.0) as again:
        found = run(pipe)
    torch.testing.assert_close(found.clone(), expected, rtol=0, atol=1e-5)
    assert len(again.steps) == len(trace.steps)
    assert torch.allclose(again.steps[0].score, trace.steps[0].score, atol=1e-6)
    with guide(pipe, contrast(), 2.0):  # the autoencoder is known, also offloaded
        run(pipe) if run is in_inference_mode else call(pipe)


def test_a_batch_is_its_parts() -> None:
    pipe = tiny_pipeline()
    with guide(pipe, contrast(), 2.0):
        both = draw(pipe, 0, 1)
        parts = torch.cat([draw(pipe, seed) for seed in (0, 1)])
    torch.testing.assert_close(both, parts, rtol=0, atol=1e-4)
