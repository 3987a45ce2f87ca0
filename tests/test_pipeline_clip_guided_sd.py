"""The call of the custom pipelines, on Stable Diffusion: guided, chosen, and what it refuses."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from tiny_clip import clip_parts
from tiny_pipelines import half_noise_is_rounded, tiny_pipeline, tiny_scheduler, tiny_taesd

from clipguide.clip.loading import load_scorer
from clipguide.images import to_tensor
from clipguide.seeds import make_generators

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
from clip_guided_stable_diffusion import CLIPGuidedStableDiffusionPipeline

STEPS = 3
STRONG = {"clip_guidance_strength": 0.5, "num_inference_steps": STEPS}
PLAIN = {"clip_guidance_strength": 0.0, "num_inference_steps": STEPS}


@pytest.fixture(scope="module")
def pipe(clip_dir: Path) -> Any:
    return made_by_class(clip_dir)


def made_by_class(clip_dir: Path, **changes: Any) -> Any:
    parts = {**tiny_pipeline("text").components, **clip_parts(clip_dir), **changes}
    made = CLIPGuidedStableDiffusionPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def call(pipe: Any, prompt: Any = "a b", seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    settings = {"output_type": "pt", "generator": make_generators(seeds), **settings}
    return pipe(prompt, **settings)


# ------------------------------------------------------------------- against the stock pipeline


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_strength_0_without_candidates_is_the_stock_pipeline(pipe: Any, output_type: str):
    settings: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "num_images_per_prompt": 2,
        "negative_prompt": ["c", "d"],
        "output_type": output_type,
    }
    generators = [make_generators(range(4)) for _ in range(2)]
    stock = tiny_pipeline("text")(["a", "b"], generator=generators[0], **settings).images
    ours = pipe(["a", "b"], generator=generators[1], clip_guidance_strength=0, **settings)
    assert type(ours.images) is type(stock)
    if output_type == "pil":
        assert [i.tobytes() for i in ours.images] == [i.tobytes() for i in stock]
    else:
        assert np.array_equal(np.asarray(ours.images), np.asarray(stock))
    assert ours.candidate_indices == [0, 1, 0, 1]
    assert (ours.clip_cosines is None) == (output_type == "latent")


def test_guidance_raises_the_score_of_the_same_seed(pipe: Any):
    for mode in ("x0", "xt"):
        plain = call(pipe, seeds=(0, 1, 2), num_images_per_prompt=3, **PLAIN)
        guided = call(
            pipe, seeds=(0, 1, 2), num_images_per_prompt=3, clip_guidance_mode=mode, **STRONG
        )
        assert sum(guided.clip_cosines) > sum(plain.clip_cosines)
        assert len(guided.clip_trace.steps) == STEPS
        assert plain.clip_trace is None
    again = call(pipe, seeds=(0, 1, 2), num_images_per_prompt=3, **PLAIN)
    assert torch.equal(again.images, plain.images)


def test_guidance_and_reranking_in_one_call(pipe: Any, clip_dir: Path):
    """The best two of five guided candidates per prompt, scored by the CLIP as loaded by name."""
    prompts, seeds = ["a b", "c"], tuple(range(10))
    everything = call(pipe, prompts, seeds, num_images_per_prompt=5, **STRONG)
    scorer = load_scorer(clip_dir)
    expected = scorer.score(everything.images, [p for p in prompts for _ in range(5)])
    assert everything.clip_cosines == pytest.approx(expected.tolist(), abs=1e-6)
    best = call(pipe, prompts, seeds, num_candidates=5, num_images_per_prompt=2, **STRONG)
    rows = [first + int(i) for first in (0, 5) for i in expected[first:][:5].argsort().flip(0)[:2]]
    assert torch.equal(best.images, everything.images[rows])
    assert best.clip_cosines == pytest.approx(expected[rows].tolist(), abs=1e-6)
    assert best.seeds == rows
    assert best.candidate_indices == [row % 5 for row in rows]


def test_one_text_for_clip_ranks_the_candidates_of_each_prompt(pipe: Any, clip_dir: Path):
    seeds, given = tuple(range(6)), {"clip_prompt": "d", **PLAIN}
    everything = call(pipe, ["a b", "c"], seeds, num_images_per_prompt=3, **PLAIN)
    values = load_scorer(clip_dir).score(everything.images, "d")
    rows = [int(values[:3].argmax()), 3 + int(values[3:].argmax())]
    best = call(pipe, ["a b", "c"], seeds, num_candidates=3, **given)
    assert best.seeds == rows
    assert torch.equal(best.images, everything.images[rows])
    assert best.clip_cosines == pytest.approx(values[rows].tolist(), abs=1e-6)


@pytest.mark.parametrize("output_type", ["pil", "np", "latent"])
def test_every_output_type_has_the_same_choice(pipe: Any, output_type: str):
    settings = {"seeds": (0, 1, 2, 3), "num_candidates": 4, "num_images_per_prompt": 2, **PLAIN}
    tensors = call(pipe, **settings)
    other = call(pipe, output_type=output_type, **settings)
    assert other.candidate_indices == tensors.candidate_indices
    assert other.clip_cosines == pytest.approx(tensors.clip_cosines, abs=1e-6)
    assert len(other.images) == 2
    if output_type == "pil":
        assert (to_tensor(other.images) - tensors.images).abs().max() <= 0.51 / 255
    if output_type == "np":
        assert np.array_equal(other.images, tensors.images.permute(0, 2, 3, 1).numpy())
    if output_type == "latent":
        assert torch.equal(pipe._decoded(other.images, {}), tensors.images)


def test_one_candidate_more_changes_no_other(pipe: Any):
    three = call(pipe, seeds=(0, 1, 2), num_candidates=3, num_images_per_prompt=3, **STRONG)
    for seed in range(3):
        single = call(pipe, seeds=(seed,), **STRONG)
        row = three.seeds.index(seed)
        assert (three.images[row] - single.images[0]).abs().max() < 1e-4
        assert three.clip_cosines[row] == pytest.approx(single.clip_cosines[0], abs=1e-4)


def test_one_generator_is_the_stock_batch_in_another_order(pipe: Any):
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    settings = {"num_inference_steps": STEPS, "output_type": "pt"}
    stock = tiny_pipeline("text")(
        "a b", num_images_per_prompt=4, generator=generators[0], **settings
    ).images
    ours = call(pipe, generator=generators[1], num_candidates=4, num_images_per_prompt=4, **PLAIN)
    assert torch.equal(ours.images, stock[ours.candidate_indices])
    assert ours.clip_cosines == sorted(ours.clip_cosines, reverse=True)
    assert ours.seeds is None


def test_callbacks_embeddings_decoder_and_tuple(pipe: Any):
    seen: list[int] = []

    def callback(_: Any, step: int, timestep: Any, tensors: Any) -> Any:
        seen.append(step)
        return tensors

    embeds, _ = pipe.encode_prompt("a b", "cpu", 1, False)
    negative, _ = pipe.encode_prompt("", "cpu", 1, False)
    images, flags, scores = call(
        pipe,
        None,
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        clip_prompt="a b",
        clip_negative_prompt="c",
        clip_guidance_decoder=tiny_taesd(),
        callback_on_step_end=callback,
        return_dict=False,
        **STRONG,
    )
    assert seen == list(range(STEPS))
    assert (len(images), flags, len(scores)) == (1, None, 1)
    same = call(pipe, clip_guidance_strength=0.0, num_inference_steps=STEPS)
    assert not torch.equal(images, same.images)


# ---------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_candidates": 1, "num_images_per_prompt": 2}, "num_candidates=1, expected at least"),
        ({"clip_guidance_strength": -1.0}, "strength"),
        ({"clip_guidance_strength": float("nan")}, "strength"),
        ({"clip_guidance_mode": "x1"}, "mode"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"num_candidates": 3, "generator": make_generators([0])}, "generators of length 1"),
        ({"clip_prompt": ["a", "b"]}, "got 2 texts in clip_prompt for 1 prompts"),
    ],
)
def test_mistakes_are_named(pipe: Any, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        call(pipe, **{"num_inference_steps": STEPS, **settings})


def test_embeddings_without_a_text_for_clip(pipe: Any):
    embeds, _ = pipe.encode_prompt("a b", "cpu", 1, False)
    with pytest.raises(ValueError, match="clip_prompt"):
        call(pipe, None, prompt_embeds=embeds, guidance_scale=1.0, **STRONG)


def test_a_stochastic_scheduler_and_half_precision(clip_dir: Path):
    scheduler = tiny_scheduler(EulerAncestralDiscreteScheduler)
    full = made_by_class(clip_dir, scheduler=scheduler)
    half = copy.deepcopy(full).to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    settings = {"seeds": (0, 1), "num_candidates": 2, **STRONG}
    scores = call(full, **settings).clip_cosines
    half = call(half, **settings)
    if half_noise_is_rounded():
        assert half.clip_cosines == pytest.approx(scores, abs=0.1)
    assert len(half.clip_trace.steps) == STEPS
    assert not half.clip_trace.skipped
