"""One picture: what it says of itself, whether it can be made again."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor

from clipguide.clip.similarity_map import shade, similarity_map
from clipguide.generation.record import Recipe, read_recipe
from clipguide.generation.repeat import Repetition, reproduce
from clipguide.images import load_image
from clipguide.report.metadata import Metadata, read_metadata
from clipguide.report.png_text import MetadataError
from clipguide.rewards.expression import Term, parse_reward
from clipguide.texts import printable
from clipguide.web.site import Site

_SETTINGS = "settings"


def metadata_of(file: Path) -> Metadata:
    """What a picture says of itself; nothing for one that is no PNG. ImageError: no picture."""
    load_image(file)
    try:
        return read_metadata(file)
    except MetadataError:
        return Metadata(None, None)


def metadata_table(metadata: Metadata) -> str:
    """HTML: the record's main lines, or the `parameters` of another program."""
    fields: dict[str, Any] = {}
    if metadata.record is not None:
        fields = _of_record(metadata.record)
    elif metadata.parameters is not None:
        fields = {"prompt": metadata.parameters.prompt, **metadata.parameters.fields}
    if not fields:
        return "<p>This picture says nothing of how it was made.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(printable(str(name)))}</td>"
        f'<td class="words">{html.escape(_shown(value))}</td></tr>'
        for name, value in fields.items()
        if name != _SETTINGS
    )
    settings = html.escape(printable(fields.get(_SETTINGS, "")))
    more = f"<details class='settings'><summary>settings</summary><pre>{settings}</pre></details>"
    table = f'<table class="scores"><tbody>{rows}</tbody></table>'
    return table + (more if settings else "")


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: record.get(name) for name in ("prompt", "seed", "role", "sampler")}
    models: object = record.get("models")
    if isinstance(models, dict):
        named = cast("dict[str, Any]", models)
        fields |= {
            role: cast("dict[str, Any]", model).get("name")
            for role, model in named.items()
            if isinstance(model, dict)
        }
    scores: object = record.get("scores")
    for score in cast("list[Any]", scores) if isinstance(scores, list) else []:
        if isinstance(score, dict):
            row = cast("dict[str, Any]", score)
            fields[f"score by {row.get('scorer')}"] = row.get("value")
    settings: object = record.get("settings")
    if isinstance(settings, dict):
        fields[_SETTINGS] = json.dumps(settings)
    return {name: value for name, value in fields.items() if value not in (None, "")}


def made_again(site: Site, file: Path) -> Repetition:
    """The picture, run again by its own record.

    Only of the page's own models: a record names files of the machine that made it, and that of a
    stranger must not make this one read them.

    Raises:
        ValueError: no record, other models, or a picture or file among what it was made of.
    """
    record = metadata_of(file).record
    if record is None:
        raise ValueError("this picture has no clipguide record, so it cannot be made again")
    recipe = read_recipe(record)
    _check_own(site, recipe)
    return reproduce(file)


def _check_own(site: Site, recipe: Recipe) -> None:
    then, now = recipe.settings, site.run_settings
    for name in ("model", "scorer", "decoder"):
        got: str | None = getattr(then, name)
        own: str | None = getattr(now, name)
        if got is not None and got != own and not _bundled(got):
            raise ValueError(
                f"made with {name} {printable(str(got))!r}, and this page has {own!r}: run "
                "`clipguide reproduce` where that model is"
            )
    terms = [
        term
        for text in (then.reward, then.preview, then.final)
        if text is not None
        for term in parse_reward(text)
    ]
    reads = [term.label for term in terms if not _in_package(term)]
    if reads or then.start.image is not None:
        what = reads[0] if reads else "a picture to start from"
        raise ValueError(f"made with {printable(what)}: run `clipguide reproduce` where it is")
    if then.budget > site.limits.budget:
        raise ValueError(f"made by a search of {then.budget}, and this page takes at most "
                         f"{site.limits.budget}")  # fmt: skip


def shaded(site: Site, file: Path, phrase: str) -> tuple[Image.Image, str]:
    """The picture, dark where nothing speaks for the phrase, and the range of the map in words."""
    picture = load_image(file)
    values = similarity_map(site.models.picture_scorer, picture, phrase)
    line = (
        f"Covered where it is light, its cosine with {phrase!r} changes by "
        f"{_signed(-values.max())}; where it is dark, by {_signed(-values.min())}."
    )
    return shade(picture, values), line


def _signed(value: Tensor) -> str:
    return f"{round(float(value), 2) + 0.0:+.2f}"  # + 0.0: no -0.00


def _bundled(name: str) -> bool:
    return name.partition(":")[0] == "starter"


def _in_package(term: Term) -> bool:
    """Whether a term of a reward reads nothing but what is in the package."""
    ours = term.name == "scorer" and _OUR_SCORERS.fullmatch(term.argument) is not None
    return ours or not term.argument or term.name in _NO_FILES


_OUR_SCORERS = re.compile(r"(caption-back:|log-prob:)?starter(:\w+)?(@(starter(:\w+)?|[\d.]+))?")
"""Names of bundled scorers, and of the bundled captioner as a judge."""
_NO_FILES = frozenset({"contrast", "teacher.contrast", "parts"})
"""Rewards whose argument names no file."""


def repetition_line(repetition: Repetition) -> str:
    """What came of it."""
    if repetition.edited:
        return "The file was edited after it was made; made again below."
    if repetition.largest_difference == 0:
        return "Made again: the same picture, to the last bit."
    return (
        f"Made again: largest pixel difference {repetition.largest_difference} of 255, "
        f"{repetition.differing_pixels} pixels differ."
    )
