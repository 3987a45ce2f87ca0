"""Images with their captions for the commands that compare them, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguide.batching import batches
from clipguide.cli.folder import note_composites
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.scorer import Scorer
    from clipguide.data.pairs import Pairs, Picture

PART = 32  # images or captions between two ticks of the bar

CaptionsFile = Annotated[
    Path, typer.Option("--captions", help="TSV, CSV or JSON with columns image and caption.")
]
ImagesFolder = Annotated[Path, typer.Option("--images", help="The folder the images are in.")]
NamesFile = Annotated[
    Path | None, typer.Option("--names", help="A split: one image name a line. [all images]")
]


@dataclass(frozen=True)
class Embedded:
    """The pairs whose images can be read, and unit vectors of both sides; `bad` are the others."""

    pairs: Pairs
    images: Tensor  # (N, D)
    texts: Tensor  # (C, D)
    bad: list[dict[str, str]]

    @property
    def owners(self) -> Tensor:
        """(C,) the image of each caption."""
        import torch

        return torch.tensor(self.pairs.owners)


def read_pairs(captions: Path, images: Path, names: Path | None) -> Pairs:
    """Pairs of files that are there; what is left out is said on stderr."""
    from clipguide.data.pairs import from_captions
    from clipguide.report.metadata import is_composite

    for place in (captions, images, *([names] if names else [])):
        if not place.exists():
            raise Mistake(f"{place}: no such file or folder")
    composites: list[Path] = []

    def left_out(file: Path) -> bool:
        if is_composite(file):
            composites.append(file)
        return file in composites[-1:]

    pairs = from_captions(captions, images, names, left_out)
    note_composites(len(composites))
    for line in pairs.notes:
        note(f"clipguide: {line}")
    return pairs


def embed_pairs(model: Scorer, pairs: Pairs) -> Embedded:
    """Both sides of the pairs, with bars; images that cannot be read are named and left out."""
    images, kept, bad = embed_pictures(model, pairs.pictures)
    pairs = pairs.of(kept)
    return Embedded(pairs, images, embed_texts(model, pairs.captions), bad)


def embed_pictures(
    model: Scorer, pictures: Sequence[Picture]
) -> tuple[Tensor, list[int], list[dict[str, str]]]:
    """(N', D) unit vectors, the places they belong to, and why each of the others cannot be read.

    Raises: Mistake where none can be read.
    """
    import torch
    from tqdm import tqdm

    from clipguide.images import ImageError

    kept: list[int] = []
    bad: list[dict[str, str]] = []
    vectors: list[Tensor] = []
    parts = batches(range(len(pictures)), PART)
    for part in tqdm(parts, desc="images", unit=f"x{PART}", leave=False, delay=1.0):
        loaded = []
        for place in part:
            try:
                loaded.append(pictures[place].load())
            except ImageError as error:
                bad.append({"image": pictures[place].name, "reason": error.reason})
                note(f"clipguide: skipped {pictures[place].name}: {error.reason}")
            else:
                kept.append(place)
        if loaded:
            vectors.append(model.encode_image(loaded))
    if not vectors:
        raise Mistake(f"none of the {len(pictures)} images can be read")
    return torch.cat(vectors), kept, bad


def embed_texts(model: Scorer, texts: Sequence[str], desc: str = "captions") -> Tensor:
    """(P, D) unit vectors; texts of like length together, each different one once."""
    import torch
    from tqdm import tqdm

    unique = sorted(dict.fromkeys(texts), key=len)
    vectors = [
        model.encode_text(part)
        for part in tqdm(batches(unique, PART), desc=desc, unit=f"x{PART}", leave=False, delay=1.0)
    ]
    rows = torch.cat(vectors)
    place = {text: index for index, text in enumerate(unique)}
    return rows[[place[text] for text in texts]]
