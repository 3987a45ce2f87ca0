"""Packed latents, pixels and small decodes: what is unpacked, and what is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import Flux2Pipeline, UnCLIPPipeline
from families.registry import FAMILIES
from families.runs import images, reward
from torch import Tensor

from clipguide.attach.decoders import find_decoder
from clipguide.attach.guide import guide
from clipguide.attach.layouts import PIXEL_SPACE, REFUSED, Prepared, reduced, unpacked
from clipguide.rewards.base import Reward


def family(name: str) -> Any:
    return next(f for f in FAMILIES if f.pipeline == name)


def test_flux2_patches_become_latents_as_in_its_own_tail() -> None:
    """Against the pipeline's own functions, one after the other."""
    pipe = family("Flux2Pipeline").build()
    z = torch.randn(2, 16, 3, 5, generator=torch.Generator().manual_seed(0))
    ids = Flux2Pipeline._prepare_latent_ids(z)
    packed = Flux2Pipeline._pack_latents(z)
    decode, _ = find_decoder(pipe, None, Prepared(beside=(ids,)))
    std = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    plain = Flux2Pipeline._unpatchify_latents(z * std + pipe.vae.bn.running_mean.view(1, -1, 1, 1))
    expected = (pipe.vae.decode(plain).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decode(packed), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["FluxPipeline", "QwenImagePipeline"])
def test_packed_latents_of_a_picture_that_is_not_square(name: str) -> None:
    pipe = family(name).build()
    z = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    packed = type(pipe)._pack_latents(z, 2, 4, 6, 8)
    size = {"height": 6 * pipe.vae_scale_factor, "width": 8 * pipe.vae_scale_factor}
    found = unpacked(pipe, Prepared(size), packed)
    assert torch.equal(found.reshape(z.shape), z)


@pytest.mark.parametrize("name", ["FluxPipeline", "Flux2Pipeline"])
def test_packed_latents_of_an_own_loop_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="before its prepare_latents told"):
        unpacked(family(name).build(), Prepared(), torch.zeros(1, 4, 16))


def test_packed_latents_of_a_pipeline_without_a_row_are_refused() -> None:
    pipe = family("StableDiffusionPipeline").build()
    with pytest.raises(NotImplementedError, match=r"\(1, 4, 16\).*register_decoder"):
        unpacked(pipe, Prepared(), torch.zeros(1, 4, 16))


def test_pixels_must_be_three_channels() -> None:
    decode, module = find_decoder(family("DDPMPipeline").build())
    assert module is None
    assert torch.equal(decode(torch.full((1, 3, 2, 2), -0.5)), torch.full((1, 3, 2, 2), 0.25))
    with pytest.raises(NotImplementedError, match="register_decoder"):
        decode(torch.zeros(1, 1, 2, 2))


def test_unclip_is_refused_with_the_reason() -> None:
    """Before anything else is looked at, so an empty pipeline of the class is enough."""
    pipe = object.__new__(UnCLIPPipeline)
    with (
        pytest.raises(NotImplementedError, match=r"samples three times.*register_decoder"),
        guide(pipe, reward()),
    ):
        pass


@pytest.mark.parametrize("name", [*PIXEL_SPACE, *REFUSED])
def test_every_pipeline_named_exists(name: str) -> None:
    assert getattr(diffusers, name)


class OtherPipeline(diffusers.DiffusionPipeline):
    """A pipeline of someone else's, without prepare_latents."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)


def test_mode_xt_needs_a_place_to_start() -> None:
    """A pipeline class that is not known to give its denoiser the very sample it steps."""
    own = family("DDPMPipeline").build()
    other = OtherPipeline(own.unet, own.scheduler)
    with (
        pytest.raises(NotImplementedError, match=r"no prepare_latents.*mode='x0'"),
        guide(other, reward(), mode="xt", decoder=lambda z: z / 2 + 0.5),
    ):
        pass


def test_a_reduced_latent_is_antialiased_and_keeps_its_form() -> None:
    z = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    assert reduced(z, 8) is z
    small = reduced(z, 4)
    assert small.shape == (2, 4, 4, 8)
    # a triangle of twice the width, by hand along each axis: weights 1 3 3 1 over 8
    rows = (z[:, :, 1] + 3 * z[:, :, 2] + 3 * z[:, :, 3] + z[:, :, 4]) / 8  # second row out
    found = (rows[..., 3] + 3 * rows[..., 4] + 3 * rows[..., 5] + rows[..., 6]) / 8
    torch.testing.assert_close(small[:, :, 1, 2], found)
    frames = reduced(z.unsqueeze(2), 4)
    assert torch.equal(frames, small.unsqueeze(2))


def test_a_size_of_nothing_is_refused() -> None:
    pipe = family("StableDiffusionPipeline").build()
    with pytest.raises(ValueError, match="got decode_size 0"), guide(pipe, reward(), decode_size=0):
        pass


def test_pixel_pipelines_take_the_generator_of_their_step() -> None:
    """The reward's views follow the seeds of the call, also where no prepare_latents tells them."""
    chosen = family("DDPMPipeline")
    seen: list[list[int]] = []

    class Watching(Reward):
        def __call__(self, images: Tensor, *, generators: Any = None) -> Tensor:
            seen.append([generator.initial_seed() for generator in generators])
            return reward()(images)

    with guide(chosen.build(), Watching()):
        for seeds in ((0, 1), (0, 1), (7, 8)):
            images(chosen, seeds)
    first, second, third = seen[0], seen[chosen.steps], seen[2 * chosen.steps]
    assert first == second != third
