"""The ways to take a step that are compared."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.evaluation.cost.community import CommunityGuidance, CutoutDistance
from clipguide.evaluation.cost.rig import MEAN, STD, Edit, Rig


@dataclass(frozen=True)
class Variant:
    """One way.

    Attributes:
        mode: of `guide`; None takes the step without it.
        tiny: decodes with the tiny autoencoder.
        community: edits with the restated community algorithm.
        latent: the tower, one of the rig's, whose gradient at the noisy latent edits.
    """

    mode: str | None = None
    tiny: bool = False
    community: bool = False
    latent: str | None = None


UNGUIDED, CHEAPEST, COMMUNITY = "unguided", "x0 + tiny AE", "community"
LATENT, LATENT_VIT = "noisy + teacher's tower", "noisy + ViT tower"

VARIANTS: dict[str, Variant] = {
    UNGUIDED: Variant(),
    LATENT: Variant(latent="teacher's"),
    LATENT_VIT: Variant(latent="ViT"),
    CHEAPEST: Variant("x0", tiny=True),
    "x0 + VAE": Variant("x0"),
    "xt + tiny AE": Variant("xt", tiny=True),
    "xt + VAE": Variant("xt"),
    COMMUNITY: Variant(community=True),
}


def entered(rig: Rig, variant: Variant) -> AbstractContextManager[Any]:
    """The context in which calls of the rig are of this variant."""
    if variant.mode is None:
        return nullcontext()
    pipe: Any = rig
    decoder: Any = rig.tiny if variant.tiny else rig.vae
    return guide(pipe, rig.score, 0.1, mode=variant.mode, decoder=decoder)


def run(rig: Rig, variant: Variant) -> Tensor:
    """One call of the rig, the same noise every time."""
    edit = community_of(rig) if variant.community else None
    if variant.latent is not None:
        edit = latent_edit(rig, variant.latent)
    return rig(torch.Generator().manual_seed(0), edit)


def latent_edit(rig: Rig, tower: str) -> Edit:
    """Moves the model output by the gradient of a latent tower's score, as mode noisy does."""

    def edit(x: Tensor, _t: Tensor, out: Tensor) -> Tensor:
        with torch.enable_grad():
            latents = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(rig.score_latents(latents * 1, tower).sum(), latents)
        return out - gradient

    return edit


def community_of(rig: Rig) -> CommunityGuidance:
    """The restated algorithm on a rig's modules."""
    device = next(rig.unet.parameters()).device
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    dimension: int = rig.clip.config.projection_dim
    target = torch.nn.functional.normalize(torch.ones(dimension, device=device), dim=0)
    distance = CutoutDistance(
        embed=lambda pixels: rig.embed(pixels).float(),
        normalize=lambda images: (images.float() - mean) / std,
        side=rig.clip_side,
        target=target,
    )
    return CommunityGuidance(rig.denoise_prompted, rig.vae, distance, rig.scheduler.alphas_cumprod)
