"""What was given as options of `generate`, as nested settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clipguide.cli.mistakes import Mistake


def nested(
    plain: dict[str, Any], guidance: dict[str, Any], views: dict[str, Any]
) -> dict[str, Any]:
    """What was given (not None), as settings take it: LOW:HIGH is a pair, search "none" is None."""
    guidance = _given(guidance, pair="window")
    views = _given(views, pair="crop")
    plain = _given(plain)
    if plain.get("search") == "none":
        plain["search"] = None
    return plain | {"guidance": guidance, "views": views}


def search_options_of(given: list[str] | None) -> dict[str, Any]:
    """`funnel=0.7` as settings take it; a value that is no number is a text."""
    options: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in options:
            raise Mistake(f"got --search-option {text!r}, expected NAME=VALUE, each name once")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def start_of(
    init: Path | None, strength: float | None, mask: Path | None, edit: str | None
) -> dict[str, Any]:
    """What was given of the picture to start from, as settings take it. Mistake for a mask that is
    not there."""
    if mask is not None and not mask.exists():
        raise Mistake(f"{mask}: no such file; for a phrase give --segmenter NAME with --mask")
    given = {"image": init, "mask": mask}
    files = {name: str(file.resolve()) for name, file in given.items() if file is not None}
    return files | _given({"strength": strength, "edit": edit})


def target_of(edit: str | None) -> list[str] | None:
    """The prompt of an edit, where no other is given."""
    from clipguide.generation.start import parse_edit

    return None if edit is None else [parse_edit(edit)[1]]


def read_prompts(given: list[str] | None, file: Path | None) -> list[str]:
    """The prompts of the command line, or of a file or stdin. Mistake for neither or both."""
    if given == ["-"] and file is None:
        given, file = None, Path("-")
    if given and file is not None:
        raise Mistake("got PROMPT and --prompts, expected one of them")
    if given:
        return given
    if file is None:
        raise Mistake("Missing argument 'PROMPT...': what to show, or --prompts FILE")
    from clipguide.data.prompt_files import read_prompts as read

    return read(file, sys.stdin.buffer.read() if file == Path("-") else None)


def _given(options: dict[str, Any], pair: str = "") -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    if pair in given:
        given[pair] = parse_range(given[pair], pair)
    return given


def parse_range(text: str, name: str) -> tuple[float, float]:
    """`0.6:1` as (0.6, 1.0)."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise Mistake(f"got --{name} {text!r}, expected LOW:HIGH, for example 0.6:1") from error
    return low, high
