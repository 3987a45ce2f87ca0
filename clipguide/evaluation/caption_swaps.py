"""Can a CLIP tell a photo's caption from the same caption with two words exchanged?

Yuksekgonul et al. 2023, When and Why Vision-Language Models Behave like Bags-of-Words
(https://arxiv.org/abs/2210.01936), section 2. For scenes whose contents are known:
`clipguide.evaluation.swaps`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from clipguide.clip.finite import check_finite
from clipguide.data.hard_negatives import SWAP_KINDS, hard_negative

_SAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Swapped:
    """Image `image`'s own caption, and the same with words of a class exchanged."""

    image: int
    right: str
    wrong: str


@dataclass(frozen=True)
class SwapAccuracy:
    """Share of images nearer their own caption, in percent; its 95 % interval; how many."""

    accuracy: float
    interval: tuple[float, float]
    images: int


def swap_cases(
    captions: Sequence[Sequence[str]], nouns: Collection[str], kind: str, seed: int = 0
) -> list[Swapped]:
    """One case for each image that has a caption to which `kind` applies: the first such caption.

    Args:
        captions: of each image.
        nouns: what `clipguide.data.hard_negatives.find_nouns` returned.
        kind: one of `clipguide.data.hard_negatives.SWAP_KINDS`.
        seed: of the words drawn; a caption's swap depends on it and on the caption alone.
    """
    cases: list[Swapped] = []
    for image, own in enumerate(captions):
        for caption in own:
            found = hard_negative(caption, nouns, Random(f"{seed}:{kind}:{caption}"), (kind,))
            if found is not None:
                cases.append(Swapped(image, caption, found[1]))
                break
    return cases


@torch.no_grad()
def caption_swaps(
    images: Tensor,
    captions: Sequence[Sequence[str]],
    encode_text: Callable[[list[str]], Tensor],
    nouns: Collection[str],
    kinds: Sequence[str] = SWAP_KINDS,
    seed: int = 0,
) -> dict[str, SwapAccuracy]:
    """How often an image is nearer its caption than the caption swapped, by kind, and over "all".

    Chance is 50 %, and so is a bag of words for every kind that only moves words; a tie is wrong.

    Args:
        images: (N, D) unit vectors.
        captions: of each image.
        encode_text: captions -> (P, D) unit vectors. **Cost**: one call per kind.
        nouns, kinds, seed: see `swap_cases`.

    Raises:
        ValueError: not one list of captions per image, or no caption to which any kind applies;
            a vector that is not finite.
    """
    if len(images) != len(captions):
        raise ValueError(f"got {len(captions)} lists of captions, expected {len(images)}")
    check_finite(images, "image vectors")
    right: dict[str, list[float]] = {}
    for kind in kinds:
        cases = swap_cases(captions, nouns, kind, seed)
        if not cases:
            continue
        vectors = encode_text([case.right for case in cases] + [case.wrong for case in cases])
        own, other = check_finite(vectors, "caption vectors").chunk(2)
        shown = images[[case.image for case in cases]]
        margin = ((own - other) * shown).sum(dim=1)
        right[kind] = (margin > 0).double().tolist()
    if not right:
        raise ValueError(f"got no caption to which any of {[*kinds]} applies, expected some")
    right["all"] = [value for values in right.values() for value in values]
    return {kind: _accuracy(values, seed) for kind, values in right.items()}


def _accuracy(values: Sequence[float], seed: int) -> SwapAccuracy:
    hits = 100 * np.asarray(values)
    drawn = np.random.default_rng(seed).integers(len(hits), size=(_SAMPLES, len(hits)))
    low, high = np.percentile(hits[drawn].mean(axis=1), [2.5, 97.5])
    return SwapAccuracy(float(hits.mean()), (float(low), float(high)), len(hits))
