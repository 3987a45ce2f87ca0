"""Every file of pipelines/: what diffusers' own pipeline tests ask, with their tolerances.

Batch against single images 1e-4, dictionary against tuple 1e-4 (diffusers,
tests/pipelines/test_pipelines_common).
"""

from __future__ import annotations

import ast
import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import (
    CASES,
    CLIP,
    EACH,
    FOLDER,
    Case,
    call,
    difference,
    guided,
    made,
    quiet,
    stock,
)
from tiny_pipelines import half_noise_is_rounded
from torch import Tensor

from clipguide.clip.loading import load_scorer

# ----------------------------------------------------------------------------------- what it does


@EACH
def test_strength_0_is_the_stock_pipeline_to_the_bit(case: Case, clip_dir: Path) -> None:
    expected = call(case, stock(case), (0, 1)).images
    ours = call(case, made(case, clip_dir), (0, 1), clip_guidance_strength=0.0)
    assert torch.equal(ours.images, expected)
    scorer = load_scorer(clip_dir)
    assert ours.clip_cosines == pytest.approx(scorer.score(expected, "a fox").tolist(), abs=1e-6)


@EACH
def test_guidance_raises_the_score_of_the_same_seeds(case: Case, clip_dir: Path) -> None:
    pipe, seeds = made(case, clip_dir), (0, 1, 2, 3)
    plain = call(case, pipe, seeds, clip_guidance_strength=0.0).clip_cosines
    for mode in ("x0", "xt"):
        output = guided(case, pipe, seeds, clip_guidance_mode=mode)
        assert sum(output.clip_cosines) > sum(plain)
        # alpha is 0 in the first step of a flow, where mode xt is singular
        assert len(output.clip_trace.steps) == 2 - (mode == "xt" and case.flow)
        assert not output.clip_trace.skipped
    again = call(case, pipe, seeds, clip_guidance_strength=0.0).clip_cosines
    assert again == plain


@EACH
def test_the_best_of_several_latents_are_those_of_the_images(case: Case, clip_dir: Path) -> None:
    pipe, seeds = made(case, clip_dir), (0, 1, 2, 3)
    settings = {"num_candidates": 4, "num_images_per_prompt": 2, "clip_guidance_strength": 0.0}
    images = call(case, pipe, seeds, **settings)
    latents = call(case, pipe, seeds, output_type="latent", **settings)
    everything = call(case, pipe, seeds, clip_guidance_strength=0.0)
    best = torch.tensor(everything.clip_cosines).argsort(descending=True)[:2].tolist()
    assert images.candidate_indices == latents.candidate_indices == best
    assert torch.equal(images.images, everything.images[best])
    assert latents.clip_cosines == pytest.approx(images.clip_cosines, abs=1e-6)


# ------------------------------------------------------------------------------------- invariants


@EACH
def test_a_batch_is_its_single_images(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    batch = guided(case, pipe, (3, 4, 5)).images
    single = torch.cat([guided(case, pipe, (seed,)).images for seed in (3, 4, 5)])
    assert difference(batch, single) < 1e-4


@EACH
def test_tuple_and_dictionary_agree(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    output = guided(case, pipe)
    images, *beside, scores = guided(case, pipe, return_dict=False)
    assert difference(images, output.images) < 1e-4
    assert scores == pytest.approx(output.clip_cosines, abs=1e-6)
    assert len(beside) == hasattr(call(case, stock(case)), "nsfw_content_detected")


@EACH
def test_components_are_the_arguments_of_init(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    arguments = set(inspect.signature(type(pipe).__init__).parameters)
    stock_arguments = set(inspect.signature(case.stock_class.__init__).parameters)
    assert arguments == stock_arguments | set(CLIP)
    assert set(pipe.components) == set(stock(case).components) | set(CLIP)
    assert {*CLIP, *case.stock_class._optional_components} == set(pipe._optional_components)
    assert "clip_model" in pipe._exclude_from_cpu_offload
    again = quiet(case.own_class(**pipe.components, **case.config))
    assert torch.equal(guided(case, again).images, guided(case, pipe).images)


@EACH
def test_callbacks_are_the_stock_pipelines(case: Case, clip_dir: Path) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def callback(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> Any:
        seen.append((step, tuple(tensors["latents"].shape)))
        return tensors

    output = guided(case, made(case, clip_dir), callback_on_step_end=callback)
    assert [step for step, _ in seen] == [0, 1]
    plain = guided(case, made(case, clip_dir))
    assert torch.equal(output.images, plain.images)


@EACH
def test_half_precision(case: Case, clip_dir: Path) -> None:
    pipe = quiet(copy.deepcopy(made(case, clip_dir)).to(torch.bfloat16))
    output, full = guided(case, pipe, (0, 1)), guided(case, made(case, clip_dir), (0, 1))
    if half_noise_is_rounded():
        assert output.clip_cosines == pytest.approx(full.clip_cosines, abs=0.1)
    assert not output.clip_trace.skipped


@EACH
def test_the_file_is_one_pipeline_of_its_own(case: Case) -> None:
    """One class, absolute imports, no loop and no file beside it."""
    tree = ast.parse(case.path.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert classes == [case.name]
    assert all(node.level == 0 for node in imports)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
    siblings = {file.stem for file in FOLDER.glob("*.py")}
    assert not siblings & {str(node.module).split(".")[0] for node in imports}


def test_every_file_is_tested_and_in_the_readme() -> None:
    files = {file.stem for file in FOLDER.glob("*.py")} - {"modular_clip_guidance"}
    assert files == {case.file for case in CASES}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for case in CASES:
        assert f"| `{case.file}.py` | `{case.name}` |" in readme
        assert case.stock in readme
