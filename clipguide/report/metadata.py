"""What an image says about itself: our own JSON and the `parameters` text other tools read.

Two PNG text chunks: `clipguide`, a JSON object from which the image can be made again, and
`parameters`, the format of AUTOMATIC1111's web UI, which most image browsers show.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipguide.files import atomic_path
from clipguide.report.png_text import MetadataError, read_png_text

RECORD_KEY = "clipguide"
PARAMETERS_KEY = "parameters"
NEGATIVE = "Negative prompt: "
MOST_BREAKS = 200  # lines that the fields may be broken over,
MOST_LETTERS = 2**18  # in a text of at most so many letters: each line is tried as the first
PICTURES = "pictures"  # key of a record: the pictures that this one is made of
RESULTS = "results.jsonl"
_SHEET = re.compile(r"contact_sheet(-\d+)?\.png|\d{4,9}-.*-compare\.png")


@dataclass(frozen=True)
class Parameters:
    """A `parameters` text taken apart: fields keep their order and are text, as written."""

    prompt: str
    negative: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Metadata:
    """Whatever a PNG says about how it was made; both None for a picture from elsewhere."""

    record: Mapping[str, Any] | None
    parameters: Parameters | None


def format_parameters(parameters: Parameters) -> str:
    """The text AUTOMATIC1111 writes: prompt, `Negative prompt: ...`, `Steps: 20, Seed: 1, ...`.

    A value with a comma, colon, quote or newline is written as a JSON string, as there.
    """
    lines = [parameters.prompt]
    if parameters.negative:
        lines.append(NEGATIVE + parameters.negative)
    lines.append(", ".join(f"{key}: {_quote(text)}" for key, text in parameters.fields.items()))
    return "\n".join(lines)


def parse_parameters(text: str) -> Parameters:
    """The inverse of `format_parameters`; also reads what AUTOMATIC1111 and its kin wrote.

    The last line is fields when at least three `key: value` pairs fill it, else part of the prompt.
    A line break inside a quoted value does not end that line.
    """
    lines = text.strip().split("\n")
    fields, place = _find_fields(lines)
    lines = lines[:place]
    prompt, negative = lines, [""]
    for i, line in enumerate(lines):
        if line.startswith(NEGATIVE.rstrip()):
            prompt = lines[:i]
            negative = [line[len(NEGATIVE.rstrip()) :].strip(), *lines[i + 1 :]]
            break
    return Parameters("\n".join(prompt).strip(), "\n".join(negative).strip(), fields)


def _find_fields(lines: list[str]) -> tuple[dict[str, str], int]:
    """The fields and the number of the line that they begin on; none, and past the last line.

    They end the text. Lines before the last belong to them where a quoted value is broken there.
    """
    most = MOST_BREAKS if sum(map(len, lines)) <= MOST_LETTERS else 1
    for place in range(len(lines) - 1, max(-1, len(lines) - 1 - most), -1):
        fields = _parse_fields("\n".join(lines[place:]))
        if fields is not None:
            return fields, place
    fields = _parse_fields(lines[-1], _LENIENT)  # a single quote in a value without quotes
    return ({}, len(lines)) if fields is None else (fields, len(lines) - 1)


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    record: Mapping[str, Any] | None = None,
    parameters: Parameters | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes `image` with its metadata; the file appears whole or not at all, never over another.

    Args:
        texts: further text chunks, keyword to text, such as ComfyUI's graph.

    Raises: FileExistsError where there is something at `path`.
    """
    chunks = PngInfo()
    for keyword, text in (texts or {}).items():
        chunks.add_text(keyword, text)
    if parameters is not None:
        chunks.add_text(PARAMETERS_KEY, format_parameters(parameters))
    if record is not None:
        chunks.add_text(RECORD_KEY, json.dumps(record, allow_nan=False))
    with atomic_path(path, replace=False) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def save_drawing(image: Image.Image, path: str | os.PathLike[str], files: Sequence[str]) -> None:
    """Writes a picture made of others, marked as such, over an earlier drawing but no other file.

    Args:
        files: the names of the pictures in it.

    Raises: FileExistsError where there is something else at `path`.
    """
    chunks = PngInfo()
    chunks.add_text(RECORD_KEY, drawing_text(files))
    with atomic_path(path, replace=is_composite(path)) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def drawing_text(files: Sequence[str]) -> str:
    """The text of the chunk that marks a picture as made of others."""
    names = [name.encode("utf-8", errors="backslashreplace").decode("utf-8") for name in files]
    return json.dumps({"schema": 1, PICTURES: names})


def is_composite(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture made of others: a contact sheet, a pair, a drawing.

    Their records say so. Those of `generate --no-metadata` have none and are known by their names,
    in a folder with its results.jsonl, which lists the pictures.
    """
    file = Path(path)
    if file.suffix.lower() != ".png":
        return False
    try:
        record = read_metadata(file).record
    except MetadataError:
        return False
    if record is not None:
        return PICTURES in record
    return _SHEET.fullmatch(file.name) is not None and (file.parent / RESULTS).is_file()


MADE_OF_OTHERS = "made of other pictures (a contact sheet, a pair, a drawing)"


def why_left_out(path: str | os.PathLike[str]) -> str:
    """Why a picture is not counted as one (`is_composite`); "" where it is."""
    return MADE_OF_OTHERS if is_composite(path) else ""


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Both chunks of a PNG, parsed. MetadataError: no PNG, or damaged."""
    texts = read_png_text(path, (RECORD_KEY, PARAMETERS_KEY))
    record, parameters = texts.get(RECORD_KEY), texts.get(PARAMETERS_KEY)
    return Metadata(
        record=None if record is None else _parse_record(record, path),
        parameters=None if parameters is None else parse_parameters(parameters),
    )


def _parse_record(text: str, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        record: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{os.fspath(path)}: its clipguide record is damaged") from error
    if not isinstance(record, dict):
        raise MetadataError(f"{os.fspath(path)}: its clipguide record is not a JSON object")
    return cast("Mapping[str, Any]", record)


_VALUE = r'"(?:\\.|[^\\"])*"[ \t]*'  # in quotes
_FIELD = re.compile(rf'[ \t]*([^:,"\n]+):[ \t]*({_VALUE}|[^,\n"]*)(?:,|$)', re.DOTALL)
_LENIENT = re.compile(rf'[ \t]*([^:,"\n]+):[ \t]*({_VALUE}|[^,\n]*)(?:,|$)', re.DOTALL)


def _parse_fields(line: str, field: re.Pattern[str] = _FIELD) -> dict[str, str] | None:
    fields: dict[str, str] = {}
    position = 0
    while position < len(line):
        match = field.match(line, position)
        if match is None:
            return None
        fields[match[1].strip()] = _unquote(match[2].strip())
        position = match.end()
    return fields if len(fields) >= 3 else None


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n\r]', text) else text


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        value: object = json.loads(text, strict=False)  # others leave line breaks as they are
    except ValueError:
        return text
    return value if isinstance(value, str) else text
