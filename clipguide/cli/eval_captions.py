"""`clipguide eval captions`: BLEU, ROUGE-L and CIDEr-D of captions against references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, note, say


def captions(
    candidates: Annotated[
        Path,
        typer.Option(
            "--candidates", help="{image: caption}, COCO's results, or any file of --captions."
        ),
    ],
    references: Annotated[
        Path,
        typer.Option(
            "--references", help="{image: [captions]}, COCO's annotations, or any file of captions."
        ),
    ],
    json: JsonOption = False,
) -> None:
    """BLEU-1 to -4, ROUGE-L and CIDEr-D as the COCO code has them; METEOR where it and Java are."""
    from clipguide.data.caption_sets import paired, read_caption_set
    from clipguide.evaluation.caption_metrics import caption_report
    from clipguide.evaluation.meteor import meteor

    for file in (candidates, references):
        if not file.is_file():
            raise Mistake(f"{file}: no such file")
    try:
        mine, theirs = paired(read_caption_set(candidates), read_caption_set(references))
    except ValueError as error:
        if str(error).startswith((str(candidates), str(references))):
            raise
        raise Mistake(f"{candidates} against {references}: {error}") from error
    without = len([image for image in theirs if image not in mine])
    if without:
        note(f"clipguide: {without} images of {references} have no candidate and do not count")
    found = caption_report(mine, theirs)
    data: dict[str, Any] = {
        "measure": "COCO caption metrics, in [0, 1]; cider is CIDEr-D, 0 to 10",
        "candidates_file": str(candidates), "references_file": str(references),
        "images": len(mine), "references": sum(len(theirs[image]) for image in mine),
        **found, "meteor": meteor(mine, theirs),
    }  # fmt: skip
    if json:
        emit(data)
        return
    from clipguide.report.table import format_table

    names = [name for name in (*found, "meteor") if data[name] is not None]
    rows = [[name, 100 * data[name]] for name in names]
    typer.echo(format_table(["measure (x 100)", "value"], rows, digits=2))
    say(f"{len(mine)} images, {data['references']} references")
