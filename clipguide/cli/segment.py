"""`clipguide segment`: a mask of what a phrase names, for each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.folder import Folder, with_bad
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
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Write a mask of what a phrase names, white where it is: for --mask of generate."""
    from clipguide.language.segments import load_segmenter, mask_picture

    if not phrase.strip():
        raise Mistake("got an empty PHRASE, expected a text")
    quiet_libraries(diffusers=False)
    folder = Folder([image])
    masks = {file: out / f"{file.stem}.png" for file in folder.files}
    there = [mask for mask in masks.values() if mask.exists()]
    if there or len(set(masks.values())) < len(masks):
        name = there[0] if there else next(iter(masks.values()))
        told = "which is there and is kept" if there else "for two pictures of one name"
        raise Mistake(f"got --out {out} with {name.name}, {told}: choose another folder")
    model = load_segmenter(segmenter, device=device)
    rows: list[dict[str, Any]] = []
    for batch in folder.batches():
        for path, picture in batch:
            mask = mask_picture(model.segment([picture], phrase)[0], picture.size)
            _save(mask, masks[path])
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


def _save(mask: Any, file: Path) -> None:
    from clipguide.files import atomic_path

    with atomic_path(file, replace=False) as temporary:
        mask.save(temporary)
