"""What `generate` and `demo` share: from a request to files, a contact sheet and a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.tables import how_made, pair_table, single_table
from clipguide.files import write_text
from clipguide.generation.models import Models, load_models
from clipguide.generation.oracle import oracle_agrees
from clipguide.generation.record import parameters_of, record_of, sheet_record
from clipguide.generation.sampling import GeneratedImage, ImageRequest, generate
from clipguide.generation.settings import Settings, settings_for
from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
from clipguide.report.metadata import save_png
from clipguide.search import seeds_of
from clipguide.search.prune import Prune
from clipguide.seeds import image_seeds
from clipguide.texts import check_text

RESULTS = "results.jsonl"
SHEET = "contact_sheet"


@dataclass(frozen=True)
class RunRequest:
    """What is to be made, and where it goes."""

    prompts: Sequence[str]
    seed: int
    num: int
    out: Path
    compare: bool = False
    metadata: bool = True

    def __post_init__(self) -> None:
        if any(not prompt.strip() for prompt in self.prompts):
            raise Mistake("got an empty prompt, expected some text")
        for prompt in self.prompts:
            check_text(prompt, "prompt")
        if self.num < 1:
            raise Mistake(f"got --num {self.num}, expected 1 or more")


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
            return json.dumps(data | {"results": self.rows}, indent=2, allow_nan=False)
        return pair_table(self.rows) if self.request.compare else single_table(self.rows)


def run(model: str, given: Mapping[str, Any], request: RunRequest) -> RunResult:
    """Makes everything `request` asks for with `model` and the settings `given`.

    Every file appears whole or not at all; results.jsonl is extended after each batch.
    """
    settings = settings_for(model, given, request.num)
    _check(settings, request)
    idle = sorted(given.get("guidance", {}).keys() - {"strength"})
    if idle and settings.guidance.strength == 0:
        raise Mistake(f"got --{idle[0]} without gradients: give a --strength above 0")
    requests = _image_requests(settings, request)
    request.out.mkdir(parents=True, exist_ok=True)
    number = _next_number(request.out)
    note(f"clipguide: loading {settings.model}")
    quiet_libraries()
    models = load_models(settings)
    result = RunResult(request)
    earlier = _earlier_results(request.out)
    total = request.num * len(request.prompts)
    models.pipe.set_progress_bar_config(desc="sampling", leave=False)
    for made in generate(models, settings, requests, keep=request.num, compare=request.compare):
        for group in _groups(made, request.compare):
            _write_group(result, models, settings, group, f"{number:04d}-{_slug(group[0].prompt)}")
            number += 1
        lines = [json.dumps(row, allow_nan=False) for row in result.rows]
        write_text(request.out / RESULTS, "".join(line + "\n" for line in [*earlier, *lines]))
        note(f"clipguide: {len(result.tiles)} of {total} pictures")
    result.sheet = _free_name(request.out)
    files = [row["file"] for row in result.rows]
    save_png(contact_sheet(result.tiles), result.sheet, record=_sheet_record(request, files))
    note(f"clipguide: wrote {len(result.tiles)} pictures and {result.sheet}")
    return result


def _check(settings: Settings, request: RunRequest) -> None:
    if request.compare and not settings.guided:
        raise Mistake(
            "--compare shows guided beside unguided: give a --strength above 0 or a --search"
        )
    if settings.search is not None and request.num > settings.budget:
        raise Mistake(f"got --num {request.num} with --budget {settings.budget}: raise the budget")
    if settings.search == "prune":
        # a sampler makes as many calls as steps, or about twice as many
        calls = (settings.steps, 2 * settings.steps - 1, 2 * settings.steps)
        finished = max(Prune().plan(settings.budget, total)[2] for total in calls)
        if finished < request.num:
            raise Mistake(
                f"got --num {request.num}, but --search prune with --budget {settings.budget} and "
                f"--steps {settings.steps} finishes {finished}: raise the budget"
            )


def _image_requests(settings: Settings, request: RunRequest) -> list[ImageRequest]:
    """Picture i of a run has seed + i; a search takes all the seeds it may draw from."""
    if settings.search is not None:
        taken = seeds_of(settings.search, settings.budget)
        seeds = image_seeds(request.seed, len(request.prompts) * taken)[::taken]
        return [ImageRequest(p, s) for p, s in zip(request.prompts, seeds, strict=True)]
    prompts = [prompt for prompt in request.prompts for _ in range(request.num)]
    seeds = image_seeds(request.seed, len(prompts))
    return [ImageRequest(p, s) for p, s in zip(prompts, seeds, strict=True)]


def _groups(made: Sequence[GeneratedImage], compare: bool) -> list[list[GeneratedImage]]:
    return batches(made, 2 if compare else 1)


def _write_group(
    result: RunResult,
    models: Models,
    settings: Settings,
    group: Sequence[GeneratedImage],
    stem: str,
) -> None:
    """Writes a picture, and its baseline and the pair side by side if there is one."""
    request = result.request
    pictures: list[Picture] = []
    for made in group:
        is_baseline = len(group) > 1 and made.batch.role == "unguided"
        file = request.out / f"{stem}{'-unguided' if is_baseline else ''}.png"
        record = record_of(models, settings, made)
        record["oracle"] = oracle_agrees(settings, made.image, made.prompt)
        parameters = parameters_of(models, settings, made)
        if request.metadata:
            save_png(made.image, file, record=record, parameters=parameters)
        else:
            save_png(made.image, file)
        result.rows.append({"file": file.name, **record})
        pictures.append(Picture(made.image, _caption_lines(record, pair=len(group) > 1)))
    tile = Tile(group[0].prompt, tuple(reversed(pictures)))  # unguided on the left
    result.tiles.append(tile)
    if len(group) > 1:
        files = [row["file"] for row in result.rows[-2:]]
        sheet = request.out / f"{stem}-compare.png"
        save_png(contact_sheet([tile]), sheet, record=_sheet_record(request, files))


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


def _slug(prompt: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:48].rstrip("-") or "picture"


def _next_number(out: Path) -> int:
    taken = [
        int(match[1]) for file in out.iterdir() if (match := re.match(r"(\d{4,9})-", file.name))
    ]
    return max(taken, default=-1) + 1


def _earlier_results(out: Path) -> list[str]:
    file = out / RESULTS
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _free_name(out: Path) -> Path:
    taken = len(list(out.glob(f"{SHEET}*.png")))
    return out / (f"{SHEET}-{taken}.png" if taken else f"{SHEET}.png")
