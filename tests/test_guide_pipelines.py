"""What users do with pipelines, done inside `guide`: every call works as it does outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image
from tiny_pipelines import (
    ProjectionReward,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_scorer,
    tiny_taesd,
)
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.trace import Trace
from clipguide.rewards import ClipReward

MODES = pytest.mark.parametrize("mode", ["x0", "xt"])
PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
MASK = Image.linear_gradient("L").resize((16, 16))


def guided(pipe: Any, mode: Any, *args: Any, **call: Any) -> tuple[Any, Any, Trace]:
    """The same call unguided and guided, both with the noise of the same seeds."""
    call.setdefault("num_inference_steps", 3)
    call.setdefault("output_type", "pt")
    seeds = call.pop("seeds", (0,))
    plain = pipe(*args, generator=generators(*seeds), **call).images
    with guide(pipe, ProjectionReward(), 0.5, mode=mode) as trace:
        images = pipe(*args, generator=generators(*seeds), **call).images
    assert torch.is_grad_enabled()
    return plain, images, trace


def scores(images: Tensor) -> Tensor:
    return ProjectionReward()(images)


@MODES
@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, HeunDiscreteScheduler])
def test_image_to_image_runs_its_part_of_the_steps(mode: Any, scheduler: Any) -> None:
    pipe = tiny_pipeline("img2img", tiny_scheduler(scheduler))
    plain, images, trace = guided(
        pipe, mode, "a fox", image=PICTURE, strength=0.5, num_inference_steps=6
    )
    assert scores(images) > scores(plain)
    expected = {"HeunDiscreteScheduler": 5, "PNDMScheduler": 3}.get(scheduler.__name__, 3)
    assert len(trace.steps) in (expected, expected + 1)
    assert trace.steps[0].sigma < 0.9  # it begins in the middle


@MODES
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting(mode: Any, channels: int) -> None:
    pipe = tiny_pipeline("inpaint", in_channels=channels)
    plain, images, trace = guided(
        pipe, mode, "a fox", image=PICTURE, mask_image=MASK, height=16, width=16, strength=1.0
    )
    assert scores(images) > scores(plain)
    assert len(trace.steps) == 3


@MODES
def test_many_images_per_prompt_lists_and_negative_prompts(mode: Any) -> None:
    pipe = tiny_pipeline()
    plain, images, trace = guided(
        pipe,
        mode,
        ["a fox", "snow"],
        negative_prompt=["a cat", "rain"],
        num_images_per_prompt=2,
        seeds=(1, 2, 3, 4),
    )
    assert (scores(images) > scores(plain)).all()
    assert trace.steps[0].score.shape == trace.steps[0].grad_norm.shape == (4,)


@MODES
def test_without_classifier_free_guidance_and_with_rescaling(mode: Any) -> None:
    for call in ({"guidance_scale": 1.0}, {"guidance_rescale": 0.7}):
        plain, images, _ = guided(tiny_pipeline(), mode, "a fox", **call)
        assert scores(images) > scores(plain)


@MODES
def test_images_that_are_not_square(mode: Any) -> None:
    pipe, reward = tiny_pipeline(), ClipReward(tiny_scorer(), "a fox")
    call = {"height": 16, "width": 32, "num_inference_steps": 3, "output_type": "pt"}
    with guide(pipe, reward, 0.5, mode=mode) as trace:
        images = pipe("a fox", generator=generators(0), **call).images
    plain = pipe("a fox", generator=generators(0), **call).images
    assert images.shape == (1, 3, 16, 32)
    assert reward(images) > reward(plain)
    assert len(trace.steps) == 3


@MODES
def test_callbacks_see_and_replace_latents(mode: Any) -> None:
    """A callback that writes into the latents, and one that returns others, both work."""
    seen: list[int] = []

    def callback(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(index)
        tensors["latents"][:, 0] += 0.1
        return {"latents": tensors["latents"] * 0.99}

    pipe = tiny_pipeline()
    plain, images, _ = guided(pipe, mode, "a fox", callback_on_step_end=callback)
    assert scores(images) > scores(plain)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_a_callback_that_detaches_is_told_in_mode_xt() -> None:
    def callback(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"].detach()}

    with pytest.raises(RuntimeError, match=r"without a graph.*mode='x0'"):
        guided(tiny_pipeline(), "xt", "a fox", callback_on_step_end=callback)
    assert torch.is_grad_enabled()


@MODES
def test_an_interrupted_call_still_returns_its_image(mode: Any) -> None:
    def stop(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = index == 0
        return tensors

    for output_type in ("np", "latent"):
        _, images, trace = guided(
            tiny_pipeline(), mode, "a fox", callback_on_step_end=stop, output_type=output_type
        )
        assert len(trace.steps) == 1
        assert output_type == "np" or not images.requires_grad


@MODES
@pytest.mark.parametrize("output_type", ["latent", "np", "pil"])
def test_output_types_carry_no_graph(mode: Any, output_type: str) -> None:
    _, images, _ = guided(tiny_pipeline(), mode, "a fox", output_type=output_type)
    if output_type == "latent":
        assert images.shape == (1, 4, 8, 8)
        assert not images.requires_grad


@MODES
def test_learned_variance_keeps_its_half_of_the_output(mode: Any) -> None:
    scheduler = tiny_scheduler(DDPMScheduler, variance_type="learned_range")
    pipe = tiny_pipeline(scheduler=scheduler, out_channels=8)
    plain, images, trace = guided(pipe, mode, "a fox")
    assert torch.isfinite(images).all()
    assert scores(images) > scores(plain)
    assert len(trace.steps) == 3


@MODES
def test_the_window_is_in_noise_levels_and_every_counts_inside_it(mode: Any) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(DPMSolverMultistepScheduler))
    config = GuidanceConfig(0.5, mode, window=(0.2, 0.97), every=2)
    with guide(pipe, ProjectionReward(), config=config) as trace:
        for _ in range(2):
            pipe("a fox", num_inference_steps=8, generator=generators(0))
    with guide(pipe, ProjectionReward(), 0.0) as everything:
        pipe("a fox", num_inference_steps=8, generator=generators(0))
    inside = [s.step for s in everything.steps if 0.2 <= s.sigma <= 0.97]
    assert [s.step for s in trace.steps] == inside[::2] * 2
    assert 2 <= len(inside) < 8


def test_unguided_steps_and_the_final_decode_build_no_graph() -> None:
    pipe = tiny_pipeline()
    built: list[tuple[str, bool]] = []
    handles = [
        module.register_forward_hook(
            lambda m, a, out, name=name: built.append((name, out[0].requires_grad))
        )
        for name, module in (("unet", pipe.unet), ("decoder", pipe.vae.decoder))
    ]
    try:
        with guide(pipe, ProjectionReward(), 0.5, mode="xt", window=(0.5, 0.9)) as trace:
            pipe("a fox", num_inference_steps=6, generator=generators(0))
    finally:
        for handle in handles:
            handle.remove()
    unet = [graph for name, graph in built if name == "unet"]
    assert [i for i, graph in enumerate(unet) if graph] == [s.step for s in trace.steps]
    assert 0 < len(trace.steps) < 6
    decodes = [graph for name, graph in built if name == "decoder"]
    assert decodes == [True] * len(trace.steps) + [False]


@MODES
@pytest.mark.parametrize("size", [16, 8])
def test_a_tiny_decoder_of_another_resolution(mode: Any, size: int) -> None:
    """The reward sees what the tiny autoencoder decodes, here also at half the resolution."""
    pipe, sizes = tiny_pipeline(), set()
    clip = ClipReward(tiny_scorer(), "a fox")

    def watched(images: Tensor) -> Tensor:
        sizes.add(images.shape[-1])
        return clip(images)

    with guide(pipe, watched, 0.5, mode=mode, decoder=tiny_taesd(upsampled=size // 16)) as trace:
        pipe("a fox", num_inference_steps=3, generator=generators(0))
    assert sizes == {size}
    assert trace.steps[-1].score > trace.steps[0].score


def test_a_decoder_may_be_any_function() -> None:
    pipe = tiny_pipeline()
    reward = ProjectionReward(size=8)
    with guide(pipe, reward, 0.5, decoder=lambda z: (z[:, :3] / 4 + 0.5).clamp(0, 1)) as trace:
        pipe("a fox", num_inference_steps=4, generator=generators(0))
    assert trace.steps[-1].score > trace.steps[0].score


@MODES
@pytest.mark.parametrize("normalize", ["rms", "raw", "cfg", "clamp"])
def test_every_normalisation_climbs(mode: Any, normalize: Any) -> None:
    pipe = tiny_pipeline()
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "guidance_scale": 5.0}
    strength = 100.0 if normalize in ("raw", "clamp") else 0.5
    with guide(pipe, ProjectionReward(), strength, mode=mode, normalize=normalize, damping=1.0):
        images = pipe("a fox", generator=generators(0), **call).images
    assert scores(images) > scores(pipe("a fox", generator=generators(0), **call).images)


def test_cfg_units_need_classifier_free_guidance() -> None:
    pipe = tiny_pipeline()
    with (
        pytest.raises(ValueError, match="normalize='cfg'"),
        guide(pipe, ProjectionReward(), 0.5, normalize="cfg"),
    ):
        pipe("a fox", num_inference_steps=2, guidance_scale=1.0)
