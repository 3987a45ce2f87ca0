"""The Modular Diffusers block: the hook's images and scores, to the bit."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    FluxAutoBlocks,
    FluxPipeline,
    StableDiffusion3AutoBlocks,
    StableDiffusion3Pipeline,
    StableDiffusionXLAutoBlocks,
    StableDiffusionXLPipeline,
)
from diffusers.modular_pipelines.modular_pipeline import LoopSequentialPipelineBlocks
from families.flows_packed import flux
from families.latent_unets import MASK, PICTURE, sdxl
from families.stable_diffusion_3 import sd3
from tiny_pipelines import ProjectionReward, generators, tiny_scorer

from clipguide.attach.guide import guide
from clipguide.attach.modular import NAME, ClipGuidanceStep, add_clip_guidance
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards import ClipReward, LatentReward
from clipguide.rewards.views import Views

REWARD = ProjectionReward()
REWARD_OF_ANY_SIZE = ClipReward(tiny_scorer(), "a fox")
STRONG = GuidanceConfig(0.5)
BLOCKS = {
    "xl": StableDiffusionXLAutoBlocks,
    "sd3": StableDiffusion3AutoBlocks,
    "flux": FluxAutoBlocks,
}
EACH = pytest.mark.parametrize("name", BLOCKS)


@cache
def components(name: str) -> dict[str, Any]:
    made = {
        "xl": lambda: sdxl(StableDiffusionXLPipeline),
        "sd3": lambda: sd3(StableDiffusion3Pipeline),
        "flux": lambda: flux(FluxPipeline),
    }
    return made[name]().components


def pipeline(name: str, blocks: Any = None) -> Any:
    """A modular pipeline of tiny components, guided unless other blocks are given."""
    pipe = (blocks or add_clip_guidance(BLOCKS[name]())).init_pipeline()
    known = {key: part for key, part in components(name).items() if part is not None}
    pipe.update_components(**{key: known[key] for key in pipe.component_names if key in known})
    pipe.set_progress_bar_config(disable=True)
    for block in (*tree(pipe._blocks),):
        if isinstance(block, LoopSequentialPipelineBlocks):
            block.set_progress_bar_config(disable=True)
    return pipe


def tree(block: Any) -> list[Any]:
    return [block, *(part for below in block.sub_blocks.values() for part in tree(below))]


def call(pipe: Any, seeds: tuple[int, ...] = (0,), **settings: Any) -> tuple[Any, Any]:
    """Images and trace."""
    settings = {"num_inference_steps": 3, "height": 16, "width": 16, **settings}
    state = pipe(
        prompt="a fox",
        generator=generators(*seeds),
        num_images_per_prompt=len(seeds),
        output_type="pt",
        **settings,
    )
    return state.get("images"), state.get("clip_trace")


def same_trace(one: Any, other: Any) -> None:
    assert len(one.steps) == len(other.steps) > 0
    for a, b in zip(one.steps, other.steps, strict=True):
        assert (a.step, a.timestep, a.sigma) == (b.step, b.timestep, b.sigma)
        assert torch.equal(a.score, b.score)
        assert torch.equal(a.grad_norm, b.grad_norm)


@pytest.mark.parametrize("name", ["xl", "sd3"])
def test_the_block_is_the_hook_to_the_bit(name: str) -> None:
    reward = ClipReward(tiny_scorer(), "a fox", views=Views(count=2, crop=(0.5, 1.0), flip=True))
    block = pipeline(name)
    images, trace = call(block, (0, 1), clip_reward=reward, clip_guidance=STRONG)
    plain = pipeline(name, BLOCKS[name]())
    with guide(plain, reward, 0.5, generator=generators(0, 1)) as hooked:
        expected, none = call(plain, (0, 1))
    assert none is None
    assert torch.equal(images, expected)
    same_trace(trace, hooked)


@pytest.mark.parametrize(
    ("name", "cls", "settings", "own"),
    [
        ("xl", StableDiffusionXLPipeline, {"height": 16, "guidance_scale": 7.5}, {}),
        ("flux", FluxPipeline, {"height": 24}, {}),
        ("sd3", StableDiffusion3Pipeline, {"height": 16}, {"negative_prompt": ""}),
    ],
)
def test_the_block_is_the_hook_on_the_classic_pipeline(
    name: str, cls: Any, settings: Any, own: Any
) -> None:
    """The same components in diffusers' pipeline of that model; Flux packs its latents.

    Modular SD3 runs classifier-free guidance only where a negative prompt is given, be it empty.
    """
    classic = cls(**components(name))
    classic.set_progress_bar_config(disable=True)
    height = settings["height"]
    call_settings = {"num_inference_steps": 3, "width": 16, "output_type": "pt", **settings}
    with guide(classic, REWARD_OF_ANY_SIZE, 0.5) as hooked:
        expected = classic("a fox", generator=generators(0), **call_settings).images
    images, trace = call(
        pipeline(name), clip_reward=REWARD_OF_ANY_SIZE, clip_guidance=STRONG, height=height, **own
    )
    assert images.shape[-2:] == (height, 16)
    assert (images - expected).abs().max() < 1e-5
    assert [step.sigma for step in trace.steps] == [step.sigma for step in hooked.steps]
    for one, other in zip(trace.steps, hooked.steps, strict=True):
        assert (one.score - other.score).abs().max() < 1e-5


@EACH
def test_without_a_reward_nothing_changes(name: str) -> None:
    plain, _ = call(pipeline(name, BLOCKS[name]()))
    pipe = pipeline(name)
    assert torch.equal(call(pipe)[0], plain)
    watched, trace = call(pipe, clip_reward=REWARD, clip_guidance=GuidanceConfig(0.0))
    assert torch.equal(watched, plain)
    assert len(trace.steps) == 3
    guided, _ = call(pipe, clip_reward=REWARD, clip_guidance=STRONG)
    assert REWARD(guided) > REWARD(plain)
    assert all(p.requires_grad for p in components(name)["vae"].parameters())
    assert torch.equal(call(pipe)[0], plain)


def test_image_to_image_and_inpainting() -> None:
    pipe = pipeline("xl")
    for more in ({"image": PICTURE}, {"image": PICTURE, "mask_image": MASK}):
        settings = {"strength": 0.99, **more}
        plain, _ = call(pipe, **settings)
        images, trace = call(pipe, clip_reward=REWARD, clip_guidance=STRONG, **settings)
        assert REWARD(images) > REWARD(plain)
        assert 2 <= len(trace.steps) <= 3


@EACH
def test_what_cannot_be_right_is_refused(name: str) -> None:
    pipe = pipeline(name)
    with pytest.raises(NotImplementedError, match=r"mode='xt'.*torch\.no_grad"):
        call(pipe, clip_reward=REWARD, clip_guidance=GuidanceConfig(0.5, "xt"))
    with pytest.raises(NotImplementedError, match="normalize='cfg'"):
        call(pipe, clip_reward=REWARD, clip_guidance=GuidanceConfig(0.5, normalize="cfg"))
    with pytest.raises(RuntimeError, match="covers none of the 3 steps"):
        call(pipe, clip_reward=REWARD, clip_guidance=GuidanceConfig(0.5, window=(0.5, 0.5001)))
    with (
        pytest.raises(RuntimeError, match="already inside a guide"),
        guide(pipe, REWARD, 0.5),
    ):
        call(pipe, clip_reward=REWARD)
    with (
        pytest.raises(NotImplementedError, match="has no prepare_latents"),
        guide(pipe, REWARD, 0.5, mode="xt"),
    ):
        call(pipe)


@pytest.mark.parametrize(
    "settings",
    [{"target": "next"}, {"target": "clean"}, {"recurrence": 1}, {"mode": "tilt"}],
    ids=str,
)
def test_what_acts_after_the_step_is_refused(settings: dict[str, Any]) -> None:
    pipe = pipeline("xl")
    with pytest.raises(ValueError, match="the block ends before the scheduler's step"):
        call(pipe, clip_reward=REWARD, clip_guidance=GuidanceConfig(0.5, **settings))


def test_what_the_block_can_do_of_the_other_settings_is_the_hooks() -> None:
    settings: dict[str, Any] = {"scale": "increase", "smoothing": 2, "refine": 1}
    config = GuidanceConfig(0.5, refine_strength=0.1, **settings)
    images, trace = call(pipeline("xl"), clip_reward=REWARD, clip_guidance=config)
    plain = pipeline("xl", BLOCKS["xl"]())
    with guide(plain, REWARD, config=config, generator=generators(0)) as hooked:
        expected, _ = call(plain)
    assert torch.equal(images, expected)
    same_trace(trace, hooked)
    pipe = pipeline("xl")
    pipe.update_components(scheduler=diffusers.DPMSolverMultistepScheduler())
    with pytest.raises(ValueError, match="expected a single-step scheduler"):
        call(pipe, clip_reward=REWARD, clip_guidance=config)


@EACH
def test_every_loop_of_the_auto_blocks_is_guided_and_the_blocks_given_are_not(name: str) -> None:
    blocks = BLOCKS[name]()
    before = repr(blocks)
    guided = add_clip_guidance(blocks)
    assert repr(blocks) == before
    assert repr(BLOCKS[name]()) == before  # blocks are shared between instances of a class
    loops = [b for b in tree(guided) if isinstance(b, LoopSequentialPipelineBlocks)]
    assert len(loops) == {"xl": 4, "sd3": 2, "flux": 1}[name]
    for loop in loops:
        names = list(loop.sub_blocks)
        assert isinstance(loop.sub_blocks[NAME], ClipGuidanceStep)
        assert names.index(NAME) == len(names) - 2
    assert {"clip_reward", "clip_guidance", "clip_decoder"} <= set(guided.input_names)
    with pytest.raises(ValueError, match="with a 'clip_guidance' block"):
        add_clip_guidance(guided)


def test_unverified_loops_and_no_loops_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="in no verified block"):
        add_clip_guidance(diffusers.WanBlocks())
    with pytest.raises(NotImplementedError, match="holds no denoising loop"):
        add_clip_guidance(StableDiffusionXLAutoBlocks().sub_blocks["text_encoder"])


def test_a_failing_reward_leaves_nothing_behind() -> None:
    def fail(images: Any) -> Any:
        raise KeyError("on purpose")

    pipe = pipeline("xl")
    plain, _ = call(pipe)
    with pytest.raises(KeyError, match="on purpose"):
        call(pipe, clip_reward=fail)
    assert all(p.requires_grad for p in components("xl")["vae"].parameters())
    assert torch.equal(call(copy.copy(pipe))[0], plain)


@EACH
def test_a_reward_of_latents_is_read_unpacked_in_the_block(name: str) -> None:
    """In mode noisy, which is taken by itself: with the strength of the hook, its pictures."""
    shapes: list[tuple[int, ...]] = []

    def seen(latents: torch.Tensor, sigma_bar: float) -> torch.Tensor:
        shapes.append((*latents.shape,))
        return latents.flatten(1)[:, ::3].sin().mean(1) * (2 - sigma_bar)

    reward = LatentReward(seen)
    images, trace = call(pipeline(name), clip_reward=reward)
    plain = pipeline(name, BLOCKS[name]())
    unguided, _ = call(plain)
    assert {len(shape) for shape in shapes} == {4}
    assert trace.steps
    assert not torch.equal(images, unguided)
    still, _ = call(pipeline(name), clip_reward=reward, clip_guidance=GuidanceConfig(0.0, "noisy"))
    assert torch.equal(still, unguided)
    if name != "flux":  # whose size the hook cannot know in a modular pipeline
        with guide(plain, reward) as hooked:
            expected, _ = call(plain)
        assert torch.equal(images, expected)
        same_trace(trace, hooked)
