"""`clipguide reproduce`: make a picture again from its own metadata and compare the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguide.cli.mistakes import Mistake, need_free
from clipguide.cli.output import JsonOption, emit, note, say
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from clipguide.generation.repeat import Repetition


def reproduce(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG made by generate.")],
    model: Annotated[str | None, typer.Option("--model", help="Where the model is now.")] = None,
    scorer: Annotated[str | None, typer.Option("--scorer", help="Where the scorer is now.")] = None,
    decoder: Annotated[
        str | None, typer.Option("--decoder", help="Where the tiny decoder is now.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Another device.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Save the new picture here.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a picture again and report the largest pixel difference. Exit code 1 if it is not 0."""
    if not image.is_file():
        raise Mistake(f"{image}: no such file")
    if out is not None:
        need_free("--out", out)
    from clipguide.generation.repeat import reproduce as repeat
    from clipguide.report.metadata import save_png

    quiet_libraries()
    given = {"model": model, "scorer": scorer, "decoder": decoder, "device": device}
    repetition = repeat(image, {key: value for key, value in given.items() if value is not None})
    if repetition.edited:
        note(f"clipguide: {image} was edited after it was made: its pixels are not those recorded")
    for package, (then, now) in repetition.changed_versions.items():
        note(f"clipguide: {package} was {then}, now {now}: the last bit of a sum may differ")
    if out is not None:
        save_png(repetition.image, out)
    if json:
        emit(_data(image, repetition))
    else:
        say(_sentence(image, repetition))
    if repetition.largest_difference > 0:
        raise typer.Exit(1)


def _data(image: Path, repetition: Repetition) -> dict[str, object]:
    return {
        "image": str(image),
        "largest_difference": repetition.largest_difference,
        "differing_pixels": repetition.differing_pixels,
        "identical": repetition.largest_difference == 0,
        "edited": repetition.edited,
        "changed_versions": {k: list(v) for k, v in repetition.changed_versions.items()},
    }


def _sentence(image: Path, repetition: Repetition) -> str:
    if repetition.largest_difference == 0:
        return f"{image}: largest pixel difference 0 of 255 (identical)"
    share = repetition.differing_pixels / (repetition.image.width * repetition.image.height)
    return (
        f"{image}: largest pixel difference {repetition.largest_difference} of 255, "
        f"{share:.1%} of the pixels differ"
    )
