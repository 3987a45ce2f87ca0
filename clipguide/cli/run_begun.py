"""What a folder already has of a run that goes on (`--resume`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipguide.cli.run_folder import BASELINE, PAIR, RunFolder, number_of
from clipguide.cli.run_job import Batch
from clipguide.cli.run_request import RunRequest
from clipguide.generation.settings import Settings
from clipguide.report.metadata import MetadataError, read_metadata

Row = dict[str, Any]
BY_MODEL = ("steps", "cfg_scale")
"""Settings that the model says where they are not given."""


@dataclass(frozen=True)
class Begun:
    """Where a run's numbers begin, and what is done.

    Attributes:
        number: of the file of its first picture.
        rows: of each batch whose pictures are all there, by its first picture.
    """

    number: int
    rows: dict[int, list[Row]] = field(default_factory=dict[int, list[Row]])

    @property
    def models(self) -> dict[str, Any] | None:
        """Those that made what is there; None: nothing is."""
        first = next(iter(self.rows.values()), None)
        return None if first is None else first[0]["models"]

    def to_json(self) -> dict[str, Any]:
        """As it is told to other processes."""
        return {"number": self.number, "rows": {str(k): rows for k, rows in self.rows.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Begun:
        """The inverse."""
        return cls(value["number"], {int(k): rows for k, rows in value["rows"].items()})


def find_begun(
    folder: RunFolder, settings: Settings, request: RunRequest, planned: Sequence[Batch]
) -> Begun:
    """Where a run begins: at the next free number, or, where it goes on, where it began."""
    if not request.resume:
        return Begun(folder.free_number())
    role = "guided" if settings.guided else "unguided"
    wanted = {
        _key([r.prompt for r in b.requests], [r.seed for r in b.requests]): b for b in planned
    }

    def batch_of(record: Mapping[str, Any]) -> Batch | None:
        """Which of the run's batches a picture is of."""
        own = record.get("batch", {})
        same = record.get("role") == role and own.get("keep") == request.seeds.num
        if settings.search is None:
            same = record.get("role") == role
        if not (same and _same(settings, record.get("settings", {}))):
            return None
        return wanted.get(_key(own.get("prompts", []), own.get("seeds", [])))

    begins: list[int] = []
    found: dict[int, dict[int, list[Row]]] = {}
    for group in _groups(folder, compare=request.compare):
        batch = batch_of(group[0])
        if batch is None:
            continue
        index = int(group[0]["batch"]["index"])
        begins.append((number_of(group[0]["file"]) or 0) - batch.first - index)
        if len(group) == request.files:
            found.setdefault(batch.first, {}).setdefault(index, group)
    each = 1 if settings.search is None else request.seeds.num
    rows = {
        batch.first: [row for i in sorted(own) for row in own[i]]
        for batch in planned
        if len(own := found.get(batch.first, {})) == each * len(batch.requests)
    }
    return Begun(min(begins) if begins else folder.free_number(), rows)


def _groups(folder: RunFolder, *, compare: bool) -> Iterator[list[Row]]:
    """The rows of every picture of the folder, by its own metadata; with its baseline's, if it is
    there with the two beside each other."""
    for file in sorted(folder.path.glob("*.png")):
        if number_of(file.name) is None or file.stem.endswith((BASELINE, PAIR)):
            continue
        beside = [file.with_name(f"{file.stem}{end}.png") for end in (BASELINE, PAIR)]
        files = [file, beside[0]] if compare and all(one.is_file() for one in beside) else [file]
        try:
            records = [read_metadata(one).record for one in files]
        except MetadataError:
            continue
        yield [
            {"file": one.name, **record}
            for one, record in zip(files, records, strict=True)
            if record is not None
        ] or [{}]


def _same(settings: Settings, recorded: Mapping[str, Any]) -> bool:
    """Whether a picture was made by these settings; what the model says may be anything."""
    asked = settings.to_json()
    free = [name for name in BY_MODEL if asked[name] is None]
    return _plain(asked, free) == _plain(recorded, free)


def _plain(settings: Mapping[str, Any], free: Sequence[str]) -> Any:
    left = {name: value for name, value in settings.items() if name not in (*free, "device")}
    return _lists(left)


def _lists(value: Any) -> Any:
    """With lists for tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _lists(part) for name, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _key(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(prompts), tuple(seeds)
