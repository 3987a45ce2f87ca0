"""CLIPScore and RefCLIPScore of captions, image similarity, and directional similarity of an edit.

Hessel et al. 2021, CLIPScore (https://arxiv.org/abs/2104.08718), section 3; Gal et al. 2021,
StyleGAN-NADA (https://arxiv.org/abs/2108.00946), section 4.1.

Convention: every text, references too, stands behind "A photo depicts"; CLIP-S = 2.5 max(cos, 0);
RefCLIP-S = the harmonic mean of CLIP-S and max(0, the best cosine with a reference). Numbers of two
CLIPs cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipguide.clip.conventions import scale_of
from clipguide.clip.finite import check_finite
from clipguide.clip.image_arrays import Images
from clipguide.clip.scorer import Scorer
from clipguide.evaluation.samples import Names, as_unit_samples


@torch.no_grad()
def clip_scores(scorer: Scorer, images: Images, captions: Sequence[str]) -> Tensor:
    """(B,) CLIP-S in [0, 2.5], image i with caption i.

    **Cost**: one pass of each tower per pair.

    Raises:
        ValueError: as `Scorer.score`: not as many of each, a vector that is not finite (whose).

    Example:
        >>> clip_scores(scorer, ["fox.png"], ["a red fox"]).shape
        torch.Size([1])
    """
    scale = scale_of(scorer, "clipscore")
    return scale.of(scorer.score(images, [scale.text(caption) for caption in captions]))


@torch.no_grad()
def ref_clip_scores(
    scorer: Scorer, images: Images, captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Tensor:
    """(B,) RefCLIP-S: does a caption fit its image, and what people wrote of it?

    Args:
        scorer: any CLIP; published figures are ViT-B/32's.
        images: B.
        captions: B, the ones that are scored.
        references: B lists of one or more texts.

    Raises:
        ValueError: as `clip_scores`; not as many lists of references, or an empty one (its place).

    Example:
        >>> ref_clip_scores(scorer, ["fox.png"], ["a fox"], [["a red fox", "an animal"]]).shape
        torch.Size([1])
    """
    if len(references) != len(captions):
        raise ValueError(f"got {len(captions)} captions, references for {len(references)}")
    for place, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"got {texts!r} as references {place}, expected a list of texts")
    scores = clip_scores(scorer, images, captions)
    read = scale_of(scorer, "clipscore").text
    own = scorer.encode_text([read(caption) for caption in captions])  # (B, D)
    best = [
        (scorer.encode_text([read(text) for text in texts]) @ vector).max()
        for texts, vector in zip(references, own, strict=True)
    ]
    return harmonic_with_references(scores, torch.stack(best))


def harmonic_with_references(scores: Tensor, reference_cosines: Tensor) -> Tensor:
    """RefCLIP-S out of CLIP-S (B,) and the best cosines with a reference (B,); 0 where either is 0.

    Example:
        >>> harmonic_with_references(torch.tensor([0.6]), torch.tensor([0.6]))
        tensor([0.6000])
    """
    check_finite(scores, "CLIP scores")
    best = check_finite(reference_cosines, "reference cosines").clamp(min=0)
    total = scores + best
    return torch.where(total > 0, 2 * scores * best / total.clamp(min=1e-30), 0.0)


@torch.no_grad()
def image_similarity(scorer: Scorer, images: Images, others: Images) -> Tensor:
    """(B,) cosine of image i with other image i, in [-1, 1]: CLIP-I, DreamBooth's measure.

    Ruiz et al. 2023 (https://arxiv.org/abs/2208.12242), section 4.1.

    Raises:
        ValueError: as `Scorer.encode_image`, or not as many of each.

    Example:
        >>> image_similarity(scorer, ["fox.png"], ["fox.png"])
        tensor([1.0000])
    """
    a, b = scorer.encode_image(images), scorer.encode_image(others)
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} images, expected as many")
    return (a * b).sum(dim=1)


@torch.no_grad()
def directional_similarity(
    scorer: Scorer, images: tuple[Images, Images], texts: tuple[Sequence[str], Sequence[str]]
) -> Tensor:
    """(B,) cosine of the edit in the image with the edit in the text, in [-1, 1].

    cos(E_I(after) - E_I(before), E_T(after) - E_T(before)), of unit vectors before the difference,
    as InstructPix2Pix reports it (https://arxiv.org/abs/2211.09800, section 4).

    Args:
        scorer: any CLIP.
        images: B before, and B after.
        texts: B descriptions before, and B after.

    Raises:
        ValueError: as `Scorer.encode_image`; not as many of each; an edit that changes nothing and
            so has no direction (its place).

    Example:
        >>> pair = (["cat.png"], ["fox.png"])
        >>> directional_similarity(scorer, pair, (["a cat"], ["a fox"])).shape
        torch.Size([1])
    """
    before, after = (scorer.encode_image(side) for side in images)
    old, new = (scorer.encode_text(side) for side in texts)
    if len({len(side) for side in (before, after, old, new)}) != 1:
        got = ", ".join(str(len(side)) for side in (before, after, old, new))
        raise ValueError(f"got {got} images and texts before and after, expected as many of each")
    seen = _direction(before, after, [f"edited image {i}" for i in range(len(before))])
    said = _direction(old, new, [f"edited text {i}" for i in range(len(old))])
    return (seen * said).sum(dim=1).float()


def _direction(before: Tensor, after: Tensor, names: Names) -> Tensor:
    return as_unit_samples(after - before, names, least=1)
