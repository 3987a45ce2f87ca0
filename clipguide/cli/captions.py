"""Captions of the images a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

if TYPE_CHECKING:
    from clipguide.data.matching import Matches

CaptionsOption = Annotated[
    Path | None,
    typer.Option(
        "--captions",
        help="TSV, CSV, JSON or JSONL with image and caption (or file_name and text); COCO's, "
        "Karpathy's; results.jsonl.",
    ),
]
ImageColumnOption = Annotated[
    str | None, typer.Option("--image-column", help="The captions' column of image names.")
]
CaptionColumnOption = Annotated[
    str | None, typer.Option("--caption-column", help="The captions' column of texts.")
]


@dataclass(frozen=True)
class CaptionsFile:
    """A captions file and the names of its columns (None: the usual ones)."""

    path: Path
    image_column: str | None = None
    caption_column: str | None = None

    def match(self, files: Sequence[Path], sources: Sequence[Path]) -> Matches:
        """The texts of `files`, found below `sources`; what could not be placed is said on stderr.

        Raises: Mistake where no caption is of any of the files.
        """
        from clipguide.data.captions import read_captions
        from clipguide.data.matching import match_captions

        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        read = read_captions(self.path, **columns)
        found = match_captions(read, files, sources, self.path.parent)
        if not found.texts:
            where = "; ".join([f"the first is {read[0].image!r}", *found.notes(self.path)[:1]])
            raise Mistake(f"{self.path}: none of its images is among the files given ({where})")
        for line in found.notes(self.path):
            note(f"clipguide: {line}")
        if found.repeated:
            note(f"clipguide: {found.repeated} rows of {self.path} stand there twice, counted once")
        return found


def captions_file(
    path: Path | None, image_column: str | None, caption_column: str | None
) -> CaptionsFile | None:
    """What was given. Mistake for columns of no file."""
    if path is not None:
        return CaptionsFile(path, image_column, caption_column)
    if image_column is not None or caption_column is not None:
        raise Mistake("got --image-column or --caption-column, expected --captions FILE with them")
    return None


def counts_of(found: Matches) -> dict[str, int]:
    """For the JSON output."""
    return {
        "used": sum(len(set(texts)) for texts in found.texts.values()),
        "repeated": found.repeated,
        "absent": len(found.absent),
        "ambiguous": len(found.ambiguous),
        "by_name": len(found.by_name),
    }
