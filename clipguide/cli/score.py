"""`clipguide score`: how well images follow one prompt, or each its own captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguide.cli.captions import (
    CaptionColumnOption,
    CaptionsFile,
    CaptionsOption,
    ImageColumnOption,
    captions_file,
    counts_of,
)
from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import (
    DeviceOption,
    EngineOption,
    JsonOption,
    ScorerOption,
    emit,
    note,
    say,
)
from clipguide.cli.score_rows import Row, score_folder
from clipguide.cli.starter import load_scorer_for
from clipguide.cli.versus import compare

if TYPE_CHECKING:
    from clipguide.clip.conventions import Scale

ConventionOption = Annotated[
    str | None,
    typer.Option(
        "--convention",
        help="cosine; clipscore 2.5*max(cos,0) with 'A photo depicts' before each text; "
        "torchmetrics 100*max(cos,0); logit. [cosine; a cross-encoder's own]",
    ),
]


def score(
    images: ImagesArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One text for all images.")] = None,
    captions: CaptionsOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Another folder, of the same captions: the difference."),
    ] = None,
    scorer: ScorerOption = None,
    convention: ConventionOption = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            help='Put before each text; "" for nothing. [default: what the convention puts there]',
        ),
    ] = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = "here",
    json: JsonOption = False,
) -> None:
    """Score images against a prompt or their captions; every number says how it was made.

    Under `accelerate launch` or with --engine ray several processes share the images.
    """
    if (prompt is None) == (captions is None):
        raise Mistake("give either --prompt TEXT or --captions FILE")
    if prompt is not None and not prompt.strip():
        raise Mistake("got an empty --prompt, expected a text")
    from clipguide.clip.conventions import CONVENTIONS, scale_of
    from clipguide.workers import find_workers

    if convention is not None and convention not in CONVENTIONS:
        choices = ", ".join(CONVENTIONS)
        raise Mistake(f"got --convention {convention!r}, expected one of {choices}")
    file = captions_file(captions, image_column, caption_column)
    if against is not None:
        if file is None:
            raise Mistake("got --against, expected --captions FILE that names images of both")
        compare(images, against, file, (scorer, device), (convention, prefix), json=json)
        return
    folder = Folder(images)
    texts, counted = texts_of(folder, images, prompt, file)
    asked = (text for words in texts.values() for text in words)
    model = load_scorer_for(scorer, folder.files, asked, device)
    scale = scale_of(model, convention, prefix)
    workers = find_workers(engine)
    results = score_folder(model, folder, texts, scale, workers)
    if not workers.main:
        return
    mean = sum(row["value"] for row in results) / len(results) if results else None
    data: Row = {"scorer": model.name, "convention": scale.convention, "prefix": scale.prefix}
    data["mean"] = mean
    if json:
        emit(with_bad(data | counted | {"results": results}, folder))
    else:
        _print(results, scale, mean)


def texts_of(
    folder: Folder, sources: list[Path], prompt: str | None, captions: CaptionsFile | None
) -> tuple[dict[Path, list[str]], Row]:
    """The different texts of every image, and counts; images without any leave the folder."""
    if captions is None:
        return {file: [prompt or ""] for file in folder.files}, {}
    found = captions.match(folder.files, sources)
    without = [file for file in folder.files if file not in found.texts]
    if without:
        note(f"clipguide: {len(without)} images have no caption, e.g. {without[0]}")
    folder.files = [file for file in folder.files if file in found.texts]
    texts = {file: [*dict.fromkeys(words)] for file, words in found.texts.items()}
    return texts, {"captions": counts_of(found)}


def _print(results: list[Row], scale: Scale, mean: float | None) -> None:
    from clipguide.report.table import format_table

    rows = [(row["image"], row["value"], row["text"]) for row in results]
    typer.echo(format_table(["image", scale.convention.partition(":")[0], "text"], rows, digits=4))
    if mean is not None and len(rows) > 1:
        say(f"mean of {len(rows)}: {mean:.4f} ({scale}, {results[0]['scorer']})")
