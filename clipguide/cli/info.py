"""`clipguide info`: how a picture was made, as it says itself."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, say
from clipguide.texts import printable


def info(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG file.")],
    json: JsonOption = False,
) -> None:
    """Show how a picture was made: our own metadata, and AUTOMATIC1111's."""
    from clipguide.report.metadata import read_metadata

    if not image.is_file():
        raise Mistake(f"{image}: no such file")
    metadata = read_metadata(image)
    parameters = metadata.parameters
    if json:
        shown = None
        if parameters is not None:
            shown = {"prompt": parameters.prompt, "negative": parameters.negative}
            shown |= {"fields": dict(parameters.fields)}
        emit({"image": str(image), "clipguide": metadata.record, "parameters": shown})
        return
    if metadata.record is not None:
        typer.echo("\n".join(_lines(metadata.record)))
    elif parameters is not None:
        fields = {"prompt": parameters.prompt, "negative": parameters.negative}
        typer.echo("\n".join(_lines(fields | dict(parameters.fields))))
    else:
        say(f"{image}: no metadata about how it was made")


def _lines(record: Mapping[str, Any], indent: str = "") -> list[str]:
    """A JSON object as indented `key: value` lines; control characters are not printed."""
    lines: list[str] = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_safe(key)}:", *_lines(value, indent + "  ")]  # type: ignore[arg-type]
        else:
            lines.append(f"{indent}{_safe(key)}: {_safe(value)}")
    return lines


def _safe(value: object) -> str:
    text = "-" if value is None or value == "" else str(value)
    if isinstance(value, list):
        text = dumps(value, ensure_ascii=False)
    return printable(text)
