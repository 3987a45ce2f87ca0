"""Stage 1: the autoencoder (8x down, 4 channels), on crops of scenes that grow as it trains.

Its encoder is done after :func:`train_vae`; :func:`finish_decoder` goes on with the decoder alone,
from latents that are computed once: what small stars and stripes want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from clipguide.data.scenes import IMAGE_SIZE, Scene, pick, sample_scene
from clipguide.training.loop import LoopSettings, train

from . import models
from .data import TRAIN_SEED, draw_indices, draw_seed

SETTINGS = LoopSettings(
    steps=2600, learning_rate=2e-3, warmup=50, weight_decay=0.0, ema_decay=0.99, seed=11
)
BATCH = 16
CROPS = ((0.0, 32), (0.62, 64), (0.97, 128))
"""From this share of the steps on, crops of this many pixels."""
LATENT_NOISE = 0.1
"""Deviation of the noise that latents carry in training: keeps them smooth enough to diffuse."""
PAPER = 0.75
"""A typical background's brightness in [-1, 1]: the zero of the latents."""


def crop_size(step: int) -> int:
    """Pixels on each side of the crops of this step."""
    return max(size for start, size in CROPS if step >= start * SETTINGS.steps)


def object_corner(scene: Scene, size: int, rng: Random) -> tuple[int, int]:
    """Left and top, in latent cells of 8 pixels, of a crop of ``size`` pixels around an object."""
    item = pick(rng, scene.objects)
    left, top = (
        min(max(int((centre + (rng.random() - 0.5) * size - size / 2) / 8), 0),
            (IMAGE_SIZE - size) // 8)
        for centre in (item.x, item.y)
    )  # fmt: skip
    return left, top


def object_crops(images: Tensor, scenes: Sequence[Scene], size: int, seed: int) -> Tensor:
    """(B,3,128,128) uint8 -> (B,3,size,size) in [-1, 1], around an object, on the stripes' grid."""
    rng, cuts = Random(seed), list[Tensor]()
    for image, scene in zip(images, scenes, strict=True):
        left, top = (8 * cell for cell in object_corner(scene, size, rng))
        cuts.append(image[:, top : top + size, left : left + size])
    return torch.stack(cuts).float() / 127.5 - 1.0


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of pixels and their 8-pixel means, absolute error of pixels and edges.

    The first two are for colours, the others for sharpness. Absolute error alone sits for hundreds
    of steps at the median colour: grey.
    """
    coarse = functional.mse_loss(functional.avg_pool2d(output, 8), functional.avg_pool2d(target, 8))
    loss = 10.0 * coarse + 4.0 * functional.mse_loss(output, target)
    loss = loss + 0.2 * functional.l1_loss(output, target)
    for dim in (-2, -1):
        loss = loss + 0.4 * functional.smooth_l1_loss(
            output.diff(dim=dim), target.diff(dim=dim), beta=0.2
        )
    return loss


def latent_loss(latents: Tensor, images: Tensor) -> Tensor:
    """Holds three channels to the mean colour of each cell, and the fourth to a small scale.

    Left alone, the autoencoder packs all colours along one line in latent space (red, green, blue,
    cyan, purple, pink, paper): every average of two of them is a third, and the diffusion model
    paints objects of several colours.

    Args:
        latents: (B, 4, h, w).
        images: (B, 3, 8h, 8w) in [-1, 1].
    """
    colors = functional.avg_pool2d(images, 8) - PAPER
    held = functional.mse_loss(latents[:, :3], colors)
    return 2.0 * held + 0.02 * latents[:, 3].pow(2).mean()


def train_vae(scenes: Tensor, folder: Path, log: Callable[[str], None]) -> AutoencoderTiny:
    """The trained autoencoder, its ``scaling_factor`` set so that latents have unit variance."""
    torch.manual_seed(SETTINGS.seed)
    vae = models.build_vae().to(memory_format=torch.channels_last)
    layouts = [sample_scene(TRAIN_SEED + i) for i in range(len(scenes))]

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(scenes), BATCH, generator)
        picked = [layouts[i] for i in chosen.tolist()]
        images = object_crops(scenes[chosen], picked, crop_size(index), draw_seed(generator))
        latents = vae.encode(images.contiguous(memory_format=torch.channels_last)).latents
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
        rebuilt = reconstruction_loss(vae.decode(noisy).sample, images)
        return {"loss": rebuilt + latent_loss(latents, images), "rebuilt": rebuilt}

    average = train({"vae": vae}, step, SETTINGS, folder, log)
    vae.load_state_dict({name.removeprefix("vae."): value for name, value in average.items()})
    vae = vae.eval().requires_grad_(False)
    latents = encode(vae, scenes[:512])
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 5))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderTiny, scenes: Tensor, batch: int = 64) -> Tensor:
    """(N,3,128,128) uint8 -> (N,4,16,16) latents, unscaled."""
    return torch.cat(
        [vae.encode(part.float() / 127.5 - 1.0).latents for part in scenes.split(batch)]
    )


FINISH_SETTINGS = LoopSettings(
    steps=2500, learning_rate=1.5e-3, warmup=50, weight_decay=0.0, ema_decay=0.995, seed=13
)
FINISH_NOISE = 0.06
"""Deviation of the noise on latents while the decoder is finished: about the diffusion's own."""


def ink_loss(output: Tensor, target: Tensor) -> Tensor:
    """Error of the darkest channel, which tells objects from paper; pink differs in it alone."""
    error = output.amin(dim=1) - target.amin(dim=1)
    return 0.4 * (error.abs().mean() + error.pow(2).mean())


def finish_decoder(
    vae: AutoencoderTiny, latents: Tensor, scenes: Tensor, folder: Path,
    log: Callable[[str], None],
) -> AutoencoderTiny:  # fmt: skip
    """Train the decoder of ``vae`` on, from its unscaled ``latents`` (N,4,16,16) of ``scenes``.

    On crops of 64 pixels around an object, in the last twentieth of the steps on whole pictures.
    """
    torch.manual_seed(FINISH_SETTINGS.seed)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True).to(memory_format=torch.channels_last)
    layouts = [sample_scene(TRAIN_SEED + i) for i in range(len(scenes))]

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(scenes), BATCH, generator)
        rng = Random(draw_seed(generator))
        size = IMAGE_SIZE if index > 0.95 * FINISH_SETTINGS.steps else 64
        cuts, targets = list[Tensor](), list[Tensor]()
        for i in chosen.tolist():
            left, top = object_corner(layouts[i], size, rng)
            right, bottom = left + size // 8, top + size // 8
            cuts.append(latents[i, :, top:bottom, left:right])
            targets.append(scenes[i, :, 8 * top : 8 * bottom, 8 * left : 8 * right])
        cut = torch.stack(cuts)
        cut = cut + FINISH_NOISE * torch.randn(cut.shape, generator=generator)
        output = vae.decode(cut.contiguous(memory_format=torch.channels_last)).sample
        target = torch.stack(targets).float() / 127.5 - 1.0
        return {"loss": reconstruction_loss(output, target) + ink_loss(output, target)}

    average = train({"vae": vae}, step, FINISH_SETTINGS, folder, log)
    vae.load_state_dict(
        {name.removeprefix("vae."): value for name, value in average.items()}, strict=False
    )
    return vae.eval().requires_grad_(False)


PREVIEW_SETTINGS = LoopSettings(
    steps=1200, learning_rate=2e-3, warmup=50, weight_decay=0.0, ema_decay=0.99, seed=12
)


def train_preview(
    latents: Tensor, scenes: Tensor, folder: Path, log: Callable[[str], None]
) -> AutoencoderTiny:
    """A decoder from unscaled ``latents`` (N,4,16,16) to 64-pixel images; its encoder is unused."""
    torch.manual_seed(PREVIEW_SETTINGS.seed)
    tiny = models.build_preview_decoder()
    tiny.encoder.requires_grad_(False)
    tiny.decoder.to(memory_format=torch.channels_last)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(scenes), BATCH, generator)
        target = functional.avg_pool2d(scenes[chosen].float() / 127.5 - 1.0, 2)
        noise = LATENT_NOISE * torch.randn((BATCH, 4, 16, 16), generator=generator)
        output = tiny.decode(latents[chosen] + noise).sample
        return {"loss": reconstruction_loss(output, target)}

    average = train({"tiny": tiny}, step, PREVIEW_SETTINGS, folder, log)
    tiny.load_state_dict(
        {name.removeprefix("tiny."): value for name, value in average.items()}, strict=False
    )
    return tiny.eval().requires_grad_(False)
