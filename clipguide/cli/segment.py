"""`clipguide segment`: a mask of what a phrase names, for each picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.folder import Folder, with_bad
from clipguide.cli.mask import MaskGrow
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, note
from clipguide.cli.quiet import quiet_libraries

SegmenterOption = Annotated[
    str,
    typer.Option(
        "--segmenter",
        help="clipseg:REPO_OR_DIR, or any CLIP of --scorer, which looks through windows.",
    ),
]


def segment(
    image: Annotated[Path, typer.Argument(metavar="IMAGE_OR_DIR", help="A file or a folder.")],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help='Such as "the hat".')],
    segmenter: SegmenterOption,
    out: Annotated[Path, typer.Option("--out", help="A folder for the masks, PNG.")],
    mask_grow: MaskGrow = 0,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Write a mask of what a phrase names, white where it is: for --mask of generate."""
    from clipguide.language.segments import PhraseNotFound, load_segmenter, mask_picture
    from clipguide.report.metadata import save_drawing

    if not phrase.strip():
        raise Mistake("got an empty PHRASE, expected a text")
    quiet_libraries(diffusers=False)
    folder = Folder([image])
    masks = _masks(folder.files, out)
    model = load_segmenter(segmenter, device=device)
    rows: list[dict[str, Any]] = []
    for batch in folder.batches():
        for path, picture in batch:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PhraseNotFound)  # it is said of the file below
                found = model.segment([picture], phrase)[0]
            mask = mask_picture(found, picture.size, mask_grow)
            if mask.getbbox() is None:
                note(f"clipguide: {path}: {phrase!r} is nowhere in it, its mask is empty")
            save_drawing(mask, masks[path], [str(path)])
            share = mask.histogram()[255] / (mask.width * mask.height)
            rows.append({"image": str(path), "mask": str(masks[path]), "share": share})
    data = {"phrase": phrase, "segmenter": segmenter, "results": rows}
    if json:
        emit(with_bad(data, folder))
        return
    from clipguide.report.table import format_table

    cells = [(row["image"], row["mask"], 100 * row["share"]) for row in rows]
    typer.echo(format_table(["image", "mask", "share %"], cells, digits=1))
    note(f"clipguide: {len(rows)} masks of {phrase!r} in {out}")


def _masks(pictures: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file of each picture's mask. Mistake where one is there, or would be of two pictures."""
    masks: dict[Path, Path] = {}
    first: dict[Path, Path] = {}
    for picture in pictures:
        masks[picture] = mask = out / f"{picture.stem}.png"
        if mask.exists():
            told = "which is there and is kept: choose another folder"
            raise Mistake(f"got --out {out} with {mask.name}, {told}")
        if mask in first:
            told = f"of {first[mask]} and of {picture}: give one of them at a time"
            raise Mistake(f"got --out {out}, where {mask.name} would be the mask {told}")
        first[mask] = picture
    return masks
