"""The best of several captions of a picture, by a scorer: our search, on the side of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from PIL import Image

from clipguide.clip.scorer import Scorer
from clipguide.images import pixel_hash
from clipguide.language.captioner import Captioner, Request, Written, doubt_of


@dataclass(frozen=True)
class Chosen:
    """A caption, what the scorer gave it (None: none was asked), and what is wrong with it."""

    caption: Written
    score: float | None = None
    doubt: str = ""


def choose(image: Image.Image, written: Sequence[Written], scorer: Scorer | None) -> Chosen:
    """The first caption, or the best by a scorer, of those that nothing is wrong with.

    Args:
        image: what they describe.
        written: one or more, the likeliest first.
        scorer: scores image against caption.

    Returns:
        Where something is wrong with all of them, the first with its `doubt`.

    Cost: one pass of the scorer's image tower, one of its text tower for each caption.
    """
    good = [one for one in written if not doubt_of(one.text)]
    if not good:
        return Chosen(written[0], None, doubt_of(written[0].text))
    if scorer is None:
        return Chosen(good[0])
    scores = scorer.similarity([image], [one.text for one in good])[0]  # (P,)
    best = int(scores.argmax())
    return Chosen(good[best], float(scores[best]))


def request_of(count: int, method: str, rerank: bool) -> Request:
    """How captions are written that one is chosen of.

    Raises:
        ValueError: several captions that nobody chooses from; see `Request`.
    """
    if count > 1 and not rerank:
        raise ValueError(f"got --count {count} without --rerank SCORER, which chooses among them")
    return Request(count, method)


def caption_all(
    captioner: Captioner, images: Sequence[Image.Image], request: Request, seed: int
) -> list[list[Written]]:
    """Captions of images. Those of "sample" are drawn for each image alone, from the seed and its
    pixels: they do not depend on what else is in a folder, nor on where a stopped run goes on."""
    import torch

    with torch.no_grad():
        if request.method != "sample":
            return captioner.write(images, request, None)
        return [
            captioner.write([image], request, torch.Generator().manual_seed(_seed(seed, image)))[0]
            for image in images
        ]


def _seed(seed: int, image: Image.Image) -> int:
    """One of an image's own, below 2^60."""
    return int(sha256(f"{seed} {pixel_hash(image)}".encode()).hexdigest()[:15], 16)
