"""What `generate` and `demo` share: from a request to files, a contact sheet and a table."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import json_text, keeping, note
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.run_folder import BASELINE, PAIR, RunFolder
from clipguide.cli.starter import heed_grammar
from clipguide.cli.tables import how_made, pair_table, single_table
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.models import Models, checked_device, load_models
from clipguide.generation.oracle import oracle_agrees
from clipguide.generation.record import parameters_of, record_of, sheet_record
from clipguide.generation.sampling import GeneratedImage, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
from clipguide.report.metadata import save_png
from clipguide.search import seeds_of
from clipguide.search.listeners import DeterministicScheduler
from clipguide.search.prune import Prune
from clipguide.search.svdd import SoftValueDecoding
from clipguide.seeds import image_seeds
from clipguide.texts import check_text


@dataclass(frozen=True)
class SeedPlan:
    """The seeds of a run's pictures: `first`, and on from there; `num` pictures of each prompt.

    With `same` every prompt begins with `first` again, so that prompts differ in nothing else.
    """

    first: int
    num: int = 1
    same: bool = False

    def __post_init__(self) -> None:
        if self.num < 1:
            raise Mistake(f"got --num {self.num}, expected 1 or more")

    def of(self, prompts: int, each: int) -> list[list[int]]:
        """`each` seeds for each of so many prompts."""
        if self.same:
            return [image_seeds(self.first, each) for _ in range(prompts)]
        return batches(image_seeds(self.first, prompts * each), each)


@dataclass(frozen=True)
class RunRequest:
    """What is to be made, and where it goes."""

    prompts: Sequence[str]
    seeds: SeedPlan
    out: Path
    compare: bool = False
    metadata: bool = True

    def __post_init__(self) -> None:
        if any(not prompt.strip() for prompt in self.prompts):
            raise Mistake("got an empty prompt, expected some text")
        for prompt in self.prompts:
            check_text(prompt, "prompt")

    @property
    def pictures(self) -> int:
        """How many are asked for."""
        return self.seeds.num * len(self.prompts)


def refuse_idle(guidance: Mapping[str, Any], settings: Settings) -> None:
    """Mistake for options of gradients that were given where no gradient is taken."""
    idle = sorted(guidance.keys() - {"strength"})
    if idle and settings.guidance.strength == 0:
        raise Mistake(f"got --{idle[0]} without gradients: give a --strength above 0")


@dataclass
class RunResult:
    """What was made: a row per picture, in order; a baseline follows its picture."""

    request: RunRequest
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tiles: list[Tile] = field(default_factory=list[Tile])
    sheet: Path | None = None

    def shown(self, *, as_json: bool) -> str:
        """For stdout: JSON, or a table."""
        if as_json:
            data = {"out": str(self.request.out), "contact_sheet": str(self.sheet)}
            return json_text(data | {"results": self.rows})
        return pair_table(self.rows) if self.request.compare else single_table(self.rows)


def run(settings: Settings, request: RunRequest) -> RunResult:
    """Makes everything `request` asks for with `settings`.

    Every file appears whole or not at all, and none over another, also where several runs write
    to one folder; results.jsonl is extended with each picture.
    """
    _check(settings, request)
    requests = _image_requests(settings, request)
    settings = replace(settings, device=checked_device(settings.device))
    folder = RunFolder(request.out)
    note(f"clipguide: loading {settings.model}")
    quiet_libraries()
    models = load_models(settings)
    heed_grammar((settings.model, settings.scorer), request.prompts)
    settings, chosen = resolve_settings(settings, models.pipe)
    if chosen:
        note(f"{chosen} (--steps and --cfg-scale say otherwise)")
    _check(settings, request)
    result = RunResult(request)
    models.pipe.set_progress_bar_config(desc="sampling", leave=False)

    def kept() -> str:
        return f"{len(result.tiles)} of {request.pictures} are kept in {request.out}"

    with keeping(kept), _naming_flags(models, settings):
        generator = ImageGenerator(models, settings)
        for made in generator.generate(requests, keep=request.seeds.num, compare=request.compare):
            for group in _groups(made, request.compare):
                _write_group(result, models, settings, group, folder)
            note(f"clipguide: {len(result.tiles)} of {request.pictures} pictures")
        result.sheet = _write_sheet(result, folder)
    note(f"clipguide: wrote {len(result.tiles)} pictures and {result.sheet}")
    return result


@contextmanager
def _naming_flags(models: Models, settings: Settings) -> Generator[None]:
    """Says which flags to type where a search meets a sampler that adds no noise."""
    try:
        yield
    except DeterministicScheduler as error:
        sampler = type(models.pipe.scheduler).__name__
        raise Mistake(
            f"--search {settings.search} needs a sampler that adds noise, and {sampler} adds none: "
            "give --sampler ddpm or --sampler euler_a"
        ) from error


def _check(settings: Settings, request: RunRequest) -> None:
    num, budget = request.seeds.num, settings.budget
    if request.compare and not settings.guided:
        raise Mistake(
            "--compare shows guided beside unguided: give a --strength above 0 or a --search"
        )
    if settings.search is None:
        return
    finished, why = budget, f"with --budget {budget}"
    if settings.search == "svdd":
        each = SoftValueDecoding().duplicates
        finished, why = budget // each, f"but --search svdd spends --budget {budget} in {each}s"
    if settings.search == "prune" and settings.steps is not None:
        # a sampler makes as many calls as steps, or about twice as many
        calls = (settings.steps, 2 * settings.steps - 1, 2 * settings.steps)
        plans = [
            Prune().plan(budget, total, noise_aware=aware)
            for total in calls
            for aware in (False, True)  # whichever the scorer, not loaded yet, is
        ]
        finished = max(plan.finished for plan in plans)
        why = (
            f"but --search prune with --budget {budget} and --steps {settings.steps} "
            f"finishes {finished} at most"
        )
    if finished < num:
        raise Mistake(f"got --num {num} {why}: raise the budget")


def _image_requests(settings: Settings, request: RunRequest) -> list[ImageRequest]:
    """Picture i of a run has seed + i; a search takes all the seeds it may draw from."""
    search = settings.search
    each = request.seeds.num if search is None else seeds_of(search, settings.budget)
    planned = zip(request.prompts, request.seeds.of(len(request.prompts), each), strict=True)
    if search is not None:
        return [ImageRequest(prompt, seeds[0]) for prompt, seeds in planned]
    return [ImageRequest(prompt, seed) for prompt, seeds in planned for seed in seeds]


def _groups(made: Sequence[GeneratedImage], compare: bool) -> list[list[GeneratedImage]]:
    return batches(made, 2 if compare else 1)


def _write_group(
    result: RunResult,
    models: Models,
    settings: Settings,
    group: Sequence[GeneratedImage],
    folder: RunFolder,
) -> None:
    """Writes a picture, and its baseline and the pair side by side if there is one."""
    request, pair = result.request, len(group) > 1
    records = [record_of(models, settings, made) for made in group]
    for record, made in zip(records, group, strict=True):
        record["oracle"] = oracle_agrees(settings, made.image, made.prompt)

    def write(file: Path, place: int) -> None:
        made = group[place]
        parameters = parameters_of(models, settings, made) if request.metadata else None
        record = records[place] if request.metadata else None
        save_png(made.image, file, record=record, parameters=parameters)

    file = folder.write_numbered(group[0].prompt, lambda file: write(file, 0))
    files = [file]
    if pair:
        files.append(file.with_name(f"{file.stem}{BASELINE}.png"))
        write(files[1], 1)
    rows = [{"file": file.name, **record} for file, record in zip(files, records, strict=True)]
    folder.add_rows(rows)
    result.rows += rows
    pictures = [
        Picture(made.image, _caption_lines(record, pair=pair))
        for made, record in zip(group, records, strict=True)
    ]
    tile = Tile(group[0].prompt, tuple(reversed(pictures)))  # unguided on the left
    result.tiles.append(tile)
    if pair:
        record = _sheet_record(request, [file.name for file in files])
        save_png(contact_sheet([tile]), file.with_name(f"{file.stem}{PAIR}.png"), record=record)


def _write_sheet(result: RunResult, folder: RunFolder) -> Path:
    sheet = contact_sheet(result.tiles)
    record = _sheet_record(result.request, [row["file"] for row in result.rows])
    return folder.write_sheet(lambda file: save_png(sheet, file, record=record))


def _sheet_record(request: RunRequest, files: Sequence[str]) -> dict[str, Any] | None:
    return sheet_record(files) if request.metadata else None


def _caption_lines(record: Mapping[str, Any], *, pair: bool) -> tuple[str, ...]:
    lines = [how_made(record)] if pair else []
    named = zip(("clip", "judge"), record["scores"], strict=False)
    lines.append("  ".join(f"{name} {score['value']:.3f}" for name, score in named))
    lines.append(f"seed {record['seed']}")
    if record["oracle"] is not None:
        lines.append("oracle: right" if record["oracle"] else "oracle: wrong")
    return tuple(lines)
