"""What `clipguide filter` writes and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipguide.cli.filter_rules import Rules
from clipguide.cli.output import note, say

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.evaluation.threshold import PickedThreshold
    from clipguide.report.gallery import Card
    from clipguide.retrieval.rules import Rule

Row = dict[str, Any]


def rows_of(found: Rules, kept: Tensor, root: Path) -> list[Row]:
    """A row an image; of an image with captions one for each that stays, or its best."""
    rows: list[Row] = []
    captions = _captions_that_stay(found)
    for place, path in enumerate(found.items.paths):
        dropped = [rule.name for rule in found.rules if not rule.kept[place]]
        row: Row = {"image": str(root / path)}
        numbers = {rule.name: _number(rule.cut.values[place]) for rule in found.rules if rule.cut}
        rest = {"keep": bool(kept[place]), "dropped_by": " ".join(dropped)} | numbers
        if captions is None:
            rows.append(row | rest)
            continue
        for text, cosine in captions.get(place) or [(None, None)]:
            rows.append(row | {"caption": text} | rest | {"agreement": cosine})
    return rows


def _captions_that_stay(found: Rules) -> dict[int, list[tuple[str, float]]] | None:
    """Of each item its captions at the threshold or above; where none is, the best one."""
    if found.captions is None or found.agreements is None:
        return None
    rule = next(rule for rule in found.rules if rule.name == "agreement")
    least = rule.cut.threshold if rule.cut else 0.0
    own: dict[int, list[tuple[str, float]]] = {}
    owners: list[int] = found.captions.owners.tolist()
    cosines: list[float] = found.agreements.double().tolist()
    for owner, text, cosine in zip(owners, found.captions.texts, cosines, strict=True):
        own.setdefault(owner, []).append((text, cosine))
    return {
        owner: [pair for pair in pairs if pair[1] >= least] or [max(pairs, key=lambda p: p[1])]
        for owner, pairs in own.items()
    }


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def write_page(file: Path, found: Rules, kept: int, root: Path) -> None:
    """The pictures on either side of each threshold. Of a safety checker none is shown."""
    from clipguide.files import write_text
    from clipguide.report.filter_page import SHOWN, Sides, cards_of, filter_page

    sides: list[Sides] = []
    for rule in found.rules:
        if rule.cut is None:
            continue
        inside, outside = rule.cut.sides(SHOWN)
        kinds = [
            cards_of(places, lambda place, rule=rule: _cards(found, rule, place, root))
            for places in (inside, outside)
        ]
        picked = found.picked.get(rule.name)
        says = rule.says if picked is None else f"{rule.says}, {_told(picked)}"
        sides.append(Sides(says, kinds[0], kinds[1]))
    title = f"clipguide filter: {kept} of {len(found.items.paths)} images kept"
    write_text(file, filter_page(title, sides, file.parent))
    note(f"clipguide: wrote {file}")


def _cards(found: Rules, rule: Rule, place: int, root: Path) -> Sequence[Card]:
    """The picture, with its number and, of duplicates, the picture that it is like."""
    from clipguide.report.gallery import Card

    paths = found.items.paths
    others = [one.name for one in found.rules if one is not rule and not one.kept[place]]
    number = rule.cut.values[place] if rule.cut else 0.0
    lines = [paths[place], f"{rule.name} {float(number):.4g}"]
    lines += [f"dropped by {', '.join(others)}"] if others else []
    if rule.name == "agreement":
        lines += [text for text, _ in (_captions_that_stay(found) or {}).get(place, [])]
    cards = [Card(root / paths[place], tuple(lines))]
    if rule.name == "duplicates" and found.repeats and (twin := found.repeats.twins[place]) >= 0:
        cards.append(Card(root / paths[twin], (paths[twin], f"is like {paths[place]}")))
    return cards


def summary_of(found: Rules, kept: Tensor) -> Row:
    """For JSON: how many each rule takes."""
    from clipguide.retrieval.rules import taken

    rules: list[Row] = []
    for rule, counts in zip(found.rules, taken(found.rules), strict=True):
        row: Row = {"rule": rule.name, "keeps": rule.says}
        row |= {"threshold": rule.cut.threshold} if rule.cut else {}
        row |= vars(counts)
        picked = found.picked.get(rule.name)
        rules.append(row | ({} if picked is None else {"picked": vars(picked)}))
    return {"images": len(found.items.paths), "kept": int(kept.sum()), "rules": rules}


def _told(picked: PickedThreshold) -> str:
    how = f"picked from {picked.examples} examples"
    return f"{how}: precision {picked.precision:.3f}, recall {picked.recall:.3f} of them"


def print_summary(data: Row) -> None:
    """A row a rule, and what was picked from examples."""
    from clipguide.evaluation.threshold import PickedThreshold
    from clipguide.report.table import format_table

    rows = [(one["rule"], one["keeps"], one["dropped"], one["alone"]) for one in data["rules"]]
    typer.echo(format_table(["rule", "keeps", "drops", "alone"], rows))
    for one in data["rules"]:
        if "picked" in one:
            say(f"{one['rule']}: {_told(PickedThreshold(**one['picked']))}")
    say(f"{data['kept']} of {data['images']} images kept, by {data['scorer']}")
