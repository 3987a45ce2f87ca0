"""`clipguide score A --against B`: two folders of the same captions, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import typer

from clipguide.cli.captions import CaptionsFile
from clipguide.cli.folder import Folder
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import emit, note, say
from clipguide.cli.score_rows import Row, score_folder
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from clipguide.clip.conventions import Scale
    from clipguide.clip.scorer import Scorer
    from clipguide.data.matching import Matches
    from clipguide.evaluation.paired import PairedDifference

Side = dict[Path, dict[str, float]]  # file -> text -> score


def compare(
    a: Sequence[Path],
    b: Path,
    captions: CaptionsFile,
    model: tuple[str | None, str],
    measure: tuple[str | None, str | None],
    *,
    json: bool,
) -> None:
    """Scores both and prints both means, and the paired difference A - B with its interval.

    A pair is an image that the captions name and that can be read on both sides; several captions
    of an image are averaged first, since they are not independent.

    Args:
        a, b: the files or folders of one side, the folder of the other.
        model: scorer (None: the starter for its own pictures) and device.
        measure: convention (None: the scorer's own) and prefix.
    """
    from clipguide.clip.conventions import scale_of
    from clipguide.evaluation.paired import paired_difference

    sources = ([*a], [b])
    folders = [Folder(some) for some in sources]
    found = [captions.match(f.files, some) for f, some in zip(folders, sources, strict=True)]
    pictures = (file for matched in found for file in matched.texts)
    texts = (text for matched in found for words in matched.texts.values() for text in words)
    scorer = load_scorer_for(model[0], pictures, texts, model[1])
    scale = scale_of(scorer, *measure)
    sides = [_side(scorer, f, m.texts, scale) for f, m in zip(folders, found, strict=True)]
    rows = _rows(found, sides)
    if not rows:
        raise Mistake(f"{captions.path}: no image that it names is on both sides")
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["image_a"], row["image_b"]), []).append(row)
    means = [[fmean(row[side] for row in some) for some in pairs.values()] for side in "ab"]
    difference = paired_difference(means[0], means[1])
    single = sum(len(side) for side in sides) - 2 * len(pairs)
    if single:
        note(f"clipguide: {single} images with a caption are on one side only and are left out")
    labels = [", ".join(map(str, some)) for some in sources]
    if json:
        data: Row = {"scorer": scorer.name, "convention": scale.convention, "prefix": scale.prefix}
        data |= {"a": labels[0], "b": labels[1], **vars(difference), "left_out": single}
        bad = [entry for folder in folders for entry in folder.bad]
        emit(data | {"results": rows, "bad": bad})
    else:
        _print(labels, difference, f"{scale}, {scorer.name}")


def _side(scorer: Scorer, folder: Folder, texts: dict[Path, list[str]], scale: Scale) -> Side:
    folder.files = [file for file in folder.files if file in texts]
    once = {file: [*dict.fromkeys(texts[file])] for file in folder.files}
    values: dict[str, list[float]] = {}
    for row in score_folder(scorer, folder, once, scale):
        values.setdefault(row["image"], []).append(row["value"])
    read = [file for file in folder.files if str(file) in values]
    return {file: dict(zip(once[file], values[str(file)], strict=True)) for file in read}


def _rows(found: Sequence[Matches], sides: Sequence[Side]) -> list[Row]:
    """One for each text of each image that is on both sides."""
    a, b = sides
    rows: dict[tuple[Path, Path, str], Row] = {}
    for name, first in found[0].files.items():
        second = found[1].files.get(name)
        if first not in a or second is None or second not in b:
            continue
        for text in [text for text in a[first] if text in b[second]]:
            row = {"image_a": str(first), "image_b": str(second), "text": text}
            rows[first, second, text] = row | {"a": a[first][text], "b": b[second][text]}
    return [*rows.values()]


def _print(labels: Sequence[str], found: PairedDifference, how: str) -> None:
    from clipguide.report.table import format_table

    rows = zip(("A", "B"), labels, (found.mean_a, found.mean_b), strict=True)
    typer.echo(format_table(["", "images", "mean"], [*rows], digits=4))
    sure = "one pair says nothing about the spread"
    if found.interval is not None:
        low, high = found.interval
        sure = f"{found.confidence:.0%} interval {low:+.4f} to {high:+.4f}"
    say(f"A - B: {found.difference:+.4f}, {sure} ({found.pairs} pairs, {how})")
