"""Guidance beside the other things one does to a Stable Diffusion pipeline, each one tried."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from tiny_pipelines import (
    ProjectionReward,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_scorer,
)
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.guidance.trace import Trace
from clipguide.rewards import ClipReward
from clipguide.rewards.views import Views

MODES = pytest.mark.parametrize("mode", ["x0", "xt"])
REWARD = ProjectionReward()
VIEWS = Views(count=2, crop=(0.5, 1.0), flip=True)


def own_pipeline(**settings: Any) -> Any:
    """A pipeline whose modules are shared with no other test."""
    pipe = tiny_pipeline(**settings)
    for name in ("unet", "vae", "text_encoder"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    return pipe


def plain(pipe: Any, prompt: Any = "a fox", seeds: tuple[int, ...] = (0,), **call: Any) -> Any:
    call = {"num_inference_steps": 3, "output_type": "pt", **call}
    return pipe(prompt, generator=generators(*seeds), **call).images


def guided(
    pipe: Any, mode: Any = "x0", *args: Any, reward: Any = REWARD, **call: Any
) -> tuple[Tensor, Trace]:
    with guide(pipe, reward, 0.5, mode=mode) as trace:
        images = plain(pipe, *args, **call)
    return images, trace


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


# --------------------------------------------------------------------------- arguments of the call


@MODES
def test_image_i_depends_on_generator_i_alone(mode: Any) -> None:
    """Also its views and a stochastic scheduler's noise: a batch is its single images."""
    pipe = tiny_pipeline(scheduler=tiny_scheduler(EulerAncestralDiscreteScheduler))
    reward = ClipReward(tiny_scorer(), ["a fox", "snow"], views=VIEWS)
    batch, _ = guided(
        pipe, mode, ["a fox", "snow"], (5, 6, 7, 8), reward=reward, num_images_per_prompt=2
    )
    for row, (prompt, seed) in enumerate(
        zip(["a fox", "a fox", "snow", "snow"], (5, 6, 7, 8), strict=True)
    ):
        alone = ClipReward(tiny_scorer(), prompt, views=VIEWS)
        single, _ = guided(pipe, mode, prompt, (seed,), reward=alone)
        assert difference(batch[row], single[0]) < 1e-4  # diffusers' tolerance of batch and single


@MODES
def test_embeddings_are_the_prompts_they_encode(mode: Any) -> None:
    pipe = tiny_pipeline()
    embeds, negative = pipe.encode_prompt("a fox", "cpu", 1, True, negative_prompt="rain")
    by_text, _ = guided(pipe, mode, "a fox", negative_prompt="rain")
    by_embeds, _ = guided(pipe, mode, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.equal(by_text, by_embeds)


@MODES
def test_given_latents_are_the_ones_of_their_seed(mode: Any) -> None:
    pipe = tiny_pipeline()
    latents = pipe.prepare_latents(1, 4, 16, 16, torch.float32, "cpu", generators(0)[0])
    by_seed, _ = guided(pipe, mode)
    by_latents, _ = guided(pipe, mode, latents=latents)
    assert torch.equal(by_seed, by_latents)
    assert not latents.requires_grad


@MODES
def test_every_output_type_is_the_same_image(mode: Any) -> None:
    pipe = tiny_pipeline()
    images, _ = guided(pipe, mode)
    latents, _ = guided(pipe, mode, output_type="latent")
    array, _ = guided(pipe, mode, output_type="np")
    pictures, _ = guided(pipe, mode, output_type="pil")
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert torch.equal(pipe.image_processor.postprocess(decoded, output_type="pt"), images)
    assert np.array_equal(array, images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pictures[0]), (array[0] * 255).round().astype("uint8"))


@MODES
def test_a_callback_that_puts_other_latents_in_their_place(mode: Any) -> None:
    """Latents from nowhere: the steps after it are those of a run that began with them."""
    pipe = tiny_pipeline()
    other = torch.randn(1, 4, 8, 8, generator=generators(9)[0])

    def swap(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] * 0 + other} if index == 0 else tensors

    one, _ = guided(pipe, mode, "a fox", (0,), callback_on_step_end=swap)
    two, trace = guided(pipe, mode, "a fox", (1,), callback_on_step_end=swap)
    assert torch.equal(one, two)
    assert len(trace.steps) == 3


# ------------------------------------------------------------------------ how the modules compute


@pytest.mark.parametrize(("mode", "backend"), [("x0", "aot_eager"), ("xt", "eager")])
def test_a_compiled_denoiser(mode: Any, backend: str) -> None:
    pipe = own_pipeline()
    expected, _ = guided(pipe, mode, num_inference_steps=2)
    pipe.unet = torch.compile(pipe.unet, backend=backend)
    found, trace = guided(pipe, mode, num_inference_steps=2)
    assert difference(found, expected) < 1e-5
    assert len(trace.steps) == 2
    torch.compiler.reset()


@MODES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(mode: Any, dtype: torch.dtype) -> None:
    """The score climbs at every step as it does in float32, and nothing is skipped."""
    full, half = tiny_pipeline(), own_pipeline().to(dtype)
    call = {"seeds": (0, 1, 2, 3), "num_images_per_prompt": 4}
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, exact = guided(full, mode, latents=noise, **call)
    call["latents"] = noise.to(dtype)
    images, trace = guided(half, mode, **call)
    assert not trace.skipped
    gain = REWARD(images.float()) - REWARD(plain(half, **call).float())
    assert (gain > 0).all()
    torch.testing.assert_close(trace.steps[0].score, exact.steps[0].score, atol=5e-2, rtol=0)
    assert difference(images, expected) < 0.5
    assert {p.dtype for p in half.vae.parameters()} == {dtype}


@MODES
def test_attention_slicing(mode: Any) -> None:
    pipe = own_pipeline()
    expected, _ = guided(pipe, mode)
    pipe.enable_attention_slicing(1)
    assert difference(guided(pipe, mode)[0], expected) < 1e-4  # diffusers' own: 1e-3


@MODES
def test_sliced_and_tiled_decoding(mode: Any) -> None:
    pipe = own_pipeline()
    call = {"seeds": (0, 1), "num_images_per_prompt": 2}
    expected, _ = guided(pipe, mode, **call)
    pipe.vae.enable_slicing()
    assert difference(guided(pipe, mode, **call)[0], expected) < 1e-5
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4  # four tiles and more
    tiled, trace = guided(pipe, mode, **call)
    assert (REWARD(tiled) > REWARD(plain(pipe, **call))).all()
    assert len(trace.steps) == 3
    with torch.no_grad():  # the reward saw the pipeline's own tiles
        assert REWARD(tiled).mean() > trace.steps[0].score.mean()


@MODES
def test_channels_last(mode: Any) -> None:
    pipe = own_pipeline()
    expected, _ = guided(pipe, mode)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    assert difference(guided(pipe, mode)[0], expected) < 1e-4


@MODES
def test_free_u_and_fused_projections(mode: Any) -> None:
    pipe = own_pipeline()
    expected, _ = guided(pipe, mode)
    pipe.fuse_qkv_projections()
    assert difference(guided(pipe, mode)[0], expected) < 1e-4
    pipe.unfuse_qkv_projections()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    found, _ = guided(pipe, mode)
    assert REWARD(found) > REWARD(plain(pipe))
