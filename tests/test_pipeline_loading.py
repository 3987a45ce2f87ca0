"""Every file of pipelines/ saved, loaded and made from another, with diffusers' own tolerances.

Save and load 5e-4, from_pipe 1e-3 (diffusers, tests/pipelines/test_pipelines_common).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from pipeline_cases import EACH, Case, call, difference, guided, made, quiet, stock
from tiny_clip import clip_parts
from torch import nn


def dtypes(pipe: Any) -> set[torch.dtype]:
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return {p.dtype for module in modules for p in module.parameters()}


@EACH
def test_save_and_load_by_class_and_by_path(case: Case, clip_dir: Path, tmp_path: Path) -> None:
    pipe = made(case, clip_dir)
    expected = guided(case, pipe, (0, 1)).images
    pipe.save_pretrained(tmp_path)
    by_class = quiet(case.own_class.from_pretrained(tmp_path))
    assert difference(guided(case, by_class, (0, 1)).images, expected) < 5e-4
    by_path = quiet(
        DiffusionPipeline.from_pretrained(
            tmp_path, custom_pipeline=str(case.path), trust_remote_code=True
        )
    )
    assert type(by_path).__name__ == case.name
    assert difference(guided(case, by_path, (0, 1)).images, expected) < 5e-4
    half = case.own_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert dtypes(half) == {torch.bfloat16}


@EACH
def test_a_stock_model_gets_its_clip_while_loading(
    case: Case, clip_dir: Path, tmp_path: Path
) -> None:
    """And without one it is the stock pipeline, saved and loaded with the components None."""
    stock(case).save_pretrained(tmp_path / "stock")
    loaded = quiet(
        DiffusionPipeline.from_pretrained(
            tmp_path / "stock",
            custom_pipeline=str(case.path),
            trust_remote_code=True,
            **clip_parts(clip_dir),
        )
    )
    expected = guided(case, made(case, clip_dir)).images
    assert difference(guided(case, loaded).images, expected) < 5e-4
    bare = quiet(case.own_class.from_pretrained(tmp_path / "stock"))
    bare.save_pretrained(tmp_path / "bare")
    bare = quiet(case.own_class.from_pretrained(tmp_path / "bare"))
    assert bare.clip_model is bare.clip_processor is None
    output = call(case, bare, clip_guidance_strength=0.0)
    # weights read from a file lie elsewhere in memory: the last bits of a product may differ
    assert difference(output.images, call(case, stock(case)).images) < 5e-4
    assert output.clip_cosines is None
    with pytest.raises(ValueError, match="without clip_model and clip_processor"):
        guided(case, bare)


@EACH
def test_from_pipe_and_back(case: Case, clip_dir: Path) -> None:
    parts = clip_parts(clip_dir)
    ours = quiet(case.own_class.from_pipe(stock(case), dtype=torch.float32, **parts))
    assert ours.vae is stock(case).vae
    expected = guided(case, made(case, clip_dir)).images
    assert difference(guided(case, ours).images, expected) < 1e-3
    back = quiet(case.stock_class.from_pipe(ours, dtype=torch.float32))
    assert torch.equal(call(case, back).images, call(case, stock(case)).images)
    half = copy.deepcopy(made(case, clip_dir)).to(torch.bfloat16)
    stays = case.own_class.from_pipe(half, dtype=torch.bfloat16)
    assert dtypes(stays) == {torch.bfloat16}
