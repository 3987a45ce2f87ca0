"""The mask of `generate --mask PHRASE --segmenter NAME`: found in the picture to start from."""

from __future__ import annotations

import warnings
from pathlib import Path

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note
from clipguide.cli.quiet import quiet_libraries

FILE = "mask.png"


def found_mask(init: Path | None, phrase: Path | None, segmenter: str, out: Path) -> Path:
    """The file of a mask, in `out`, of what the phrase names in `init`.

    Raises: Mistake without a picture or a phrase, for a phrase that is nowhere in the picture, or
    over a mask that is there.
    """
    if init is None or phrase is None:
        raise Mistake("got --segmenter, expected --init PICTURE and --mask PHRASE with it")
    if phrase.is_file():
        raise Mistake(f"got --mask {phrase}, a file, with --segmenter: leave out --segmenter")
    from clipguide.files import atomic_path
    from clipguide.images import load_image
    from clipguide.language.segments import PhraseNotFound, load_segmenter, mask_picture

    file = out / FILE
    if file.exists():
        raise Mistake(f"got --out {out} with a {FILE}, which is kept: choose another folder")
    quiet_libraries()
    image = load_image(init)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhraseNotFound)
        mask = load_segmenter(segmenter).segment([image], str(phrase))[0]
    if not bool(mask.any()):
        raise Mistake(f"{init}: {str(phrase)!r} is nowhere in it, as far as {segmenter} sees")
    with atomic_path(file, replace=False) as temporary:
        mask_picture(mask, image.size).save(temporary)
    note(f"clipguide: {file}: where {str(phrase)!r} is")
    return file
