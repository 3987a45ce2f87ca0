"""Pictures that are there, ordered by how well they follow a prompt."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipguide.images import list_images, load_image
from clipguide.report.metadata import is_composite
from clipguide.rerank import rerank
from clipguide.texts import printable
from clipguide.web.site import Site


@dataclass(frozen=True)
class Choice:
    """What was ranked.

    Attributes:
        files: best first.
        scores: name of a scorer -> a score for each file, in that order.
        left_out: names of files that are no pictures, each with the reason.
    """

    files: tuple[Path, ...]
    scores: dict[str, tuple[float, ...]]
    left_out: tuple[str, ...] = ()


def choose(
    site: Site, prompt: str, files: Sequence[Path], scorers: Sequence[str], diversity: float = 0.0
) -> Choice:
    """`rerank` by the first scorer, with what the others say beside it.

    Args:
        site: the models and limits.
        prompt: a text.
        files: pictures; those that cannot be read are left out and named.
        scorers: names of the site's; the first decides.
        diversity: as of `rerank`.

    Raises:
        ValueError: no prompt, picture or scorer, or more pictures than the page takes.
    """
    prompt = site.limits.checked_text(prompt, "prompt")
    chosen = site.chosen(scorers)
    if not files:
        raise ValueError("no pictures: drop some, or choose a folder")
    most = site.limits.pictures
    if len(files) > most:
        raise ValueError(f"got {len(files)} pictures, expected {most} at most")
    good, left_out = _readable(files)
    if not good:
        raise ValueError("none of these files is a picture: " + "; ".join(left_out[:3]))
    order = [row.index for row in rerank(good, prompt, chosen[0], diversity=diversity)]
    ranked = tuple(good[place] for place in order)
    scores = {scorer.name: tuple(scorer.score(list(ranked), prompt).tolist()) for scorer in chosen}
    return Choice(ranked, scores, tuple(left_out))


def pictures_of(site: Site, name: str) -> list[Path]:
    """The pictures of a folder of the site, sheets left out; at most as many as are ranked."""
    found = [file for file in list_images([site.sources.folder(name)]) if not is_composite(file)]
    return found[: site.limits.pictures]


def _readable(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    good: list[Path] = []
    bad: list[str] = []
    for file in files:
        try:
            load_image(file)
        except ValueError as error:
            reason = str(error).removeprefix(f"{file}: ")
            bad.append(f"{printable(file.name)}: {printable(reason)}")
        else:
            good.append(file)
    return good, bad


def choice_table(choice: Choice) -> str:
    """HTML: a row per picture, best first."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in choice.scores)
    rows = "".join(
        f'<tr><td>{place + 1}</td><td class="words">{html.escape(printable(file.name))}</td>'
        + "".join(f"<td>{values[place]:.3f}</td>" for values in choice.scores.values())
        + "</tr>"
        for place, file in enumerate(choice.files)
    )
    bad = "".join(f"<li>{html.escape(line)}</li>" for line in choice.left_out)
    out = f'<p>left out:</p><ul class="bad">{bad}</ul>' if bad else ""
    head = f"<tr><th>rank</th><th>picture</th>{names}</tr>"
    return f'<table class="scores"><thead>{head}</thead><tbody>{rows}</tbody></table>{out}'
