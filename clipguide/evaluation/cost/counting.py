"""Floating-point operations of a step, counted on the meta device: no weights, no arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipguide.attach.decoders import find_decoder
from clipguide.evaluation.cost.rig import Rig
from clipguide.evaluation.cost.variants import VARIANTS, Variant, community_of, latent_edit


def step_flops(rig: Rig) -> dict[str, int]:
    """Variant -> operations of one step (2 per multiply-add), by matrix products and convolutions.

    The parts that `attach.session` runs are counted one by one and added: the denoiser forward, its
    backward pass to the latents (mode xt), and decoding and scoring with their backward pass.
    In mode noisy the score of a latent tower and its gradient take the place of those. Attention
    is two matrix products. Step rule and scheduler are elementwise and count nothing.
    """
    t = torch.tensor(500.0)
    parts: dict[Any, int] = {
        "forward": count_flops(lambda: _denoise(rig, t, exact=False)),
        "both": count_flops(lambda: _denoise(rig, t, exact=True)),
        True: count_flops(lambda: _climb(rig, rig.tiny)),
        False: count_flops(lambda: _climb(rig, rig.vae)),
    }
    x = rig.prepare_latents()
    parts |= {name: count_flops(lambda n=name: latent_edit(rig, n)(x, t, x)) for name in rig.latent}
    if rig.shape.community:
        parts["community"] = count_flops(lambda: community_of(rig)(x, t, x))
    chosen = {name: v for name, v in VARIANTS.items() if "community" in parts or not v.community}
    return {name: _sum(parts, variant) for name, variant in chosen.items()}


def _sum(parts: dict[Any, int], variant: Variant) -> int:
    denoising = parts["both" if variant.mode == "xt" else "forward"]
    if variant.community:
        return denoising + parts["community"]
    if variant.latent is not None:
        return denoising + parts[variant.latent]
    return denoising if variant.mode is None else denoising + parts[variant.tiny]


def count_flops(call: Callable[[], object]) -> int:
    """Operations of a call. Fused attention has no formula on every device: it is taken apart."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


def _denoise(rig: Rig, t: Tensor, *, exact: bool) -> None:
    x = rig.prepare_latents().requires_grad_(exact)
    with torch.set_grad_enabled(exact):
        out = rig.denoise(x, t)
    if exact:
        torch.autograd.grad(out.sum(), x)


def _climb(rig: Rig, vae: Any) -> None:
    """Decode, score, and the gradient to x0."""
    x0 = rig.prepare_latents().float().requires_grad_()
    decode = find_decoder(rig, vae)[0]
    torch.autograd.grad(rig.score(decode(x0)).sum(), x0)
