"""The files of a training run: its configuration, its history, and which run may go on where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from clipguide.data.pairs import Pairs
from clipguide.files import write_json
from clipguide.training.checkpoint import STATE
from clipguide.training.run_config import renamed

HISTORY, CONFIG, RESULTS = "history.json", "run.json", "results.json"


class Settings(Protocol):
    """The configuration of a run."""

    def plain(self) -> dict[str, Any]:
        """What decides the run, as JSON; not where it is written."""
        ...


def open_run(
    output: Path, config: Settings, data: str, resume: bool, write: bool = True
) -> dict[str, Any]:
    """The history of the run in `output`, empty for a new one, whose configuration is kept there.

    Args:
        output: folder of the run.
        config: of this run.
        data: what `fingerprint` says of its pairs.
        resume: whether a run there is gone on with.
        write: whether this process may write.

    Raises:
        ValueError: a run is there without `resume`; none is there with it; or one of other
            settings, each of which is named with both values.
    """
    now = {**config.plain(), "captions_sha256": data}
    if not resume and (output / STATE).exists():
        raise ValueError(f"{output}: got a run already there, expected --resume or another output")
    if resume:
        _check_same(output, now)
    if not (output / STATE).exists():  # a new run, or one that was killed before its checkpoint
        if write:
            write_json(output / CONFIG, now)
        return {}
    path = output / HISTORY
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _check_same(output: Path, now: Mapping[str, Any]) -> None:
    if not (output / CONFIG).exists():
        place = output.absolute()
        raise ValueError(f"{place}: got no run to resume, expected one there, or no --resume")
    before: dict[str, Any] = json.loads((output / CONFIG).read_text(encoding="utf-8"))
    before["train"] = renamed(before["train"])
    before.pop("root", None)  # runs of version 0.1 kept it, and no captions
    before.setdefault("captions_sha256", now["captions_sha256"])
    old, new = _leaves(before), _leaves(now)
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if changed:
        pairs = (f"{key} ({new.get(key)!r}, it has {old.get(key)!r})" for key in changed)
        raise ValueError(
            f"{output}: got another {', '.join(pairs)} than its run: --set the run's own, or "
            "another output"
        )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by keys a.b, as `--set` has them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _leaves(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def fingerprint(splits: Iterable[Pairs]) -> str:
    """SHA-256 of the captions of the splits and of the pictures they belong to, by number."""
    digest = hashlib.sha256()
    for pairs in splits:
        digest.update(json.dumps([pairs.captions, pairs.owners]).encode())
    return digest.hexdigest()


def flat_figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested figures, by their path."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_figures(value, f"{name} ")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat
