"""Can a CLIP tell a caption from the same words in other places?

As ARO asks of real photos (Yuksekgonul et al. 2023, section 2, https://arxiv.org/abs/2210.01936).

A bag of words scores 50 %: the swapped caption holds exactly the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from clipguide.clip.finite import check_finite
from clipguide.data.scene_captions import SWAPS, SceneSpec, swap, write_caption


@torch.no_grad()
def swap_accuracy(
    image_features: Tensor,
    specs: Sequence[SceneSpec],
    encode_text: Callable[[list[str]], Tensor],
    seed: int = 0,
) -> dict[str, float]:
    """How often each image is nearer its own caption than the swapped one, by kind of swap.

    Args:
        image_features: (N, D) unit vectors; image i shows ``specs[i]``.
        specs: what each image shows; a swap that would change nothing is left out of the count.
        encode_text: captions -> (P, D) unit vectors. **Cost**: one call per kind of swap.
        seed: of the choice of phrasings.

    Returns:
        Accuracy in [0, 1] by kind, the names of :data:`clipguide.data.scene_captions.SWAPS`; chance
        is 0.5, and a tie counts as wrong.

    Raises:
        ValueError: not one image per spec, or no spec that some kind of swap changes; a
            vector that is not finite.
    """
    if len(image_features) != len(specs):
        raise ValueError(f"got {len(image_features)} images, expected {len(specs)}, one per spec")
    check_finite(image_features, "image vectors")
    accuracy: dict[str, float] = {}
    for kind in SWAPS:
        rng = Random(seed)
        swapped = [(i, spec, swap(spec, kind)) for i, spec in enumerate(specs)]
        cases = [(i, spec, other) for i, spec, other in swapped if other is not None]
        if not cases:
            raise ValueError(f"specs: got none that a {kind} swap changes, expected at least one")
        captions = [write_caption(spec, rng) for _, spec, _ in cases]
        captions += [write_caption(other, rng) for _, _, other in cases]
        right, wrong = check_finite(encode_text(captions), "caption vectors").chunk(
            2
        )  # (N', D) each
        features = image_features[[i for i, _, _ in cases]]
        margin = ((right - wrong) * features).sum(dim=-1)
        accuracy[kind] = float((margin > 0).float().mean())
    return accuracy
