"""The mask of `generate --mask PHRASE --segmenter NAME`: found in the picture to start from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note
from clipguide.cli.quiet import quiet_libraries

FILE = "mask.png"
MaskGrow = Annotated[
    int,
    typer.Option(
        "--mask-grow",
        min=0,
        metavar="PIXELS",
        help="Whiten so many pixels beside what --segmenter finds, too: its edges are coarse.",
    ),
]


def found_mask(
    init: Path | None, phrase: Path | None, segmenter: str, out: Path, grow: int = 0
) -> Path:
    """The file of a mask, in `out`, of what the phrase names in `init`, with the `grow`
    pixels beside it.

    One that is there already, of an earlier run of the same command, is taken.

    Raises: Mistake without a picture or a phrase, for a phrase that is nowhere in the picture, or
    over another mask that is there.
    """
    if init is None or phrase is None:
        raise Mistake("got --segmenter, expected --init PICTURE and --mask PHRASE with it")
    if not str(phrase).strip(" ."):  # Path("") is "."
        raise Mistake("got an empty --mask, expected a phrase")
    if phrase.is_file():
        raise Mistake(f"got --mask {phrase}, a file, with --segmenter: leave out --segmenter")
    from clipguide.images import load_image, pixel_hash
    from clipguide.language.segments import PhraseNotFound, load_segmenter, mask_picture
    from clipguide.report.metadata import save_drawing

    quiet_libraries()
    image = load_image(init)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhraseNotFound)
        found = load_segmenter(segmenter).segment([image], str(phrase))[0]
    mask, file = mask_picture(found, image.size, grow), out / FILE
    if mask.getbbox() is None:
        raise Mistake(f"{init}: {str(phrase)!r} is nowhere in it, as far as {segmenter} sees")
    if file.exists() and pixel_hash(load_image(file)) != pixel_hash(mask):
        raise Mistake(f"got --out {out} with another {FILE}, which is kept: choose another folder")
    if not file.exists():
        save_drawing(mask, file, [str(init)])
    note(f"clipguide: {file}: where {str(phrase)!r} is")
    return file
