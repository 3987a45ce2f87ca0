"""What `generate` and `demo` share: from a request to files, a contact sheet and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import json_text, keeping, note
from clipguide.cli.run_begun import Begun, find_begun
from clipguide.cli.run_folder import RunFolder
from clipguide.cli.run_job import SECONDS, Batch, PictureJob
from clipguide.cli.run_request import RunRequest, SeedPlan, check_request
from clipguide.cli.run_sheet import write_sheet
from clipguide.cli.tables import pair_table, single_table
from clipguide.generation.sampling import ImageRequest, method_of
from clipguide.generation.settings import Settings
from clipguide.search import seeds_of
from clipguide.workers import Here, Workers

__all__ = ["RunRequest", "RunResult", "SeedPlan", "refuse_idle", "run"]


def refuse_idle(guidance: Mapping[str, Any], settings: Settings) -> None:
    """Mistake for options of gradients that were given where no gradient is taken."""
    idle = sorted(guidance.keys() - {"strength"})
    if idle and settings.guidance.strength == 0:
        raise Mistake(f"got --{idle[0]} without gradients: give a --strength above 0")


@dataclass
class RunResult:
    """What was made: a row per picture, in order; a baseline follows its picture.

    Attributes:
        request: what was asked for.
        rows: as in results.jsonl.
        seconds: of each row; None: it was there.
        sheet: the contact sheet.
    """

    request: RunRequest
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: list[float | None] = field(default_factory=list[float | None])
    sheet: Path | None = None

    @property
    def pictures(self) -> int:
        """How many there are, baselines aside."""
        return len(self.rows) // self.request.files

    def shown(self, *, as_json: bool) -> str:
        """For stdout: JSON, or a table."""
        if as_json:
            data = {"out": str(self.request.out), "contact_sheet": str(self.sheet)}
            return json_text(data | {"seconds": self.seconds, "results": self.rows})
        told = zip(self.rows, self.seconds, strict=True)
        rows = [row | {SECONDS: seconds} for row, seconds in told]
        return pair_table(rows) if self.request.compare else single_table(rows)

    def take(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of a batch, with their seconds or without; those of results.jsonl."""
        plain = [{k: v for k, v in row.items() if k != SECONDS} for row in rows]
        self.rows += plain
        self.seconds += [row.get(SECONDS) for row in rows]
        return plain


def run(settings: Settings, request: RunRequest, workers: Workers | None = None) -> RunResult:
    """Makes everything `request` asks for with `settings`.

    Every file appears whole or not at all, and none over another, also where several runs write
    to one folder; results.jsonl is extended in order, with the pictures of each batch (of launched
    processes once all are done: till then their pictures' own metadata says the same).

    Args:
        settings: how pictures are made.
        request: which, and where to.
        workers: who makes them; None: this process.
    """
    workers = workers or Here()
    check_request(settings, request)
    planned = _batches(settings, request)
    folder = RunFolder(request.out)
    begun = Begun.from_json(
        workers.agreed(lambda: find_begun(folder, settings, request, planned).to_json())
    )
    goes_on = request.resume or workers.repeats
    elsewhere = replace(request, out=request.out.resolve())
    job = PictureJob(settings, elsewhere, begun.number, goes_on, begun.models)
    result = RunResult(request)
    missing = [batch for batch in planned if batch.first not in begun.rows]
    with keeping(lambda: f"{result.pictures} of {request.pictures} are kept in {request.out}"):
        made = workers.do(job, [batch.to_json() for batch in missing])
        known = {row.get("file") for row in folder.rows()} if goes_on else set[str]()
        for batch in planned:
            rows = result.take(begun.rows.get(batch.first) or next(made))
            if workers.main:
                folder.add_rows([row for row in rows if row["file"] not in known])
            note(f"clipguide: {result.pictures} of {request.pictures} pictures")
        for _ in made:
            pass
        if workers.main:
            how = {"compare": request.compare, "metadata": request.metadata}
            result.sheet = write_sheet(folder, result.rows, **how)
    note(f"clipguide: wrote {result.pictures} pictures and {result.sheet}")
    return result


def _batches(settings: Settings, request: RunRequest) -> list[Batch]:
    """What is made in one call each: picture i of a run has seed + i; a search takes all the seeds
    it may draw from."""
    num, search = request.seeds.num, settings.search
    each = num if search is None else seeds_of(method_of(settings), settings.budget)
    planned = zip(request.prompts, request.seeds.of(len(request.prompts), each), strict=True)
    if search is not None:
        requests = [ImageRequest(prompt, seeds[0]) for prompt, seeds in planned]
    else:
        requests = [ImageRequest(prompt, seed) for prompt, seeds in planned for seed in seeds]
    pictures = 1 if search is None else num
    size = 1 if settings.start.image is not None else settings.batch_size
    return [
        Batch(place * size * pictures, tuple(some))
        for place, some in enumerate(batches(requests, size))
    ]
