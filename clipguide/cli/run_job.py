"""What a worker of `generate` does: a batch of prompts and seeds to pictures and their rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.run_folder import BASELINE, PAIR, RunFolder
from clipguide.cli.run_request import RunRequest, check_request
from clipguide.cli.run_sheet import tile_of, write_pair
from clipguide.cli.starter import heed_grammar
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.models import Models, checked_device, load_models
from clipguide.generation.oracle import oracle_agrees
from clipguide.generation.record import parameters_of, record_of
from clipguide.generation.sampling import GeneratedImage, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.report.metadata import MetadataError, read_metadata, save_png
from clipguide.search.listeners import DeterministicScheduler

Row = dict[str, Any]
SECONDS = "seconds"
"""Of a row that a worker hands over: how long its picture took, which no file says."""


@dataclass(frozen=True)
class Batch:
    """One item: the number of its first picture in the run, and the prompts with their seeds."""

    first: int
    requests: tuple[ImageRequest, ...]

    def to_json(self) -> dict[str, Any]:
        """As workers pass it on."""
        return {"first": self.first, "requests": [[r.prompt, r.seed] for r in self.requests]}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Batch:
        """The inverse."""
        return cls(item["first"], tuple(ImageRequest(*request) for request in item["requests"]))


@dataclass(frozen=True)
class PictureJob:
    """Makes and writes the pictures of batches; their rows are for who asked.

    Attributes:
        settings: by which they are made.
        request: what the whole run is asked for.
        number: of the file of the run's first picture.
        goes_on: whether a file that is there and says that it is this very picture stands for it;
            else the next free name is taken.
        made_by: names and hashes of the models that made pictures of this run before; None: none
            were made.
    """

    settings: Settings
    request: RunRequest
    number: int
    goes_on: bool = False
    made_by: Mapping[str, Any] | None = None

    def open(self) -> Callable[[dict[str, Any]], list[Row]]:
        """Loads the models."""
        settings = replace(self.settings, device=checked_device(self.settings.device))
        note(f"clipguide: loading {settings.model}")
        quiet_libraries()
        models = load_models(settings)
        heed_grammar((settings.model, settings.scorer), self.request.prompts)
        settings, chosen = resolve_settings(settings, models.pipe)
        if chosen:
            note(f"{chosen} (--steps and --cfg-scale say otherwise)")
        check_request(settings, self.request)
        here = json.loads(json.dumps(models.identities(settings)))
        if self.made_by is not None and self.made_by != here:
            raise Mistake(
                f"got --resume with other models than {self.request.out} was begun with: leave it "
                "out, or choose another folder with --out"
            )
        models.pipe.set_progress_bar_config(desc="sampling", leave=False)
        return _Maker(self, models, settings)


@dataclass(frozen=True)
class _Maker:
    """A job with its models loaded."""

    job: PictureJob
    models: Models
    settings: Settings

    def __call__(self, item: dict[str, Any]) -> list[Row]:
        """The rows of a batch's pictures, a baseline's after its picture's."""
        job, batch = self.job, Batch.from_json(item)
        folder, rows = RunFolder(job.request.out), list[Row]()
        with _naming_flags(self.models, self.settings):
            made = ImageGenerator(self.models, self.settings).generate(
                batch.requests, keep=job.request.seeds.num, compare=job.request.compare
            )
            groups = [g for some in made for g in batches(some, job.request.files)]
        for place, group in enumerate(groups):
            rows += self._written(group, folder, job.number + batch.first + place)
        return rows

    def _written(
        self, group: Sequence[GeneratedImage], folder: RunFolder, number: int
    ) -> list[Row]:
        """Writes a picture, and its baseline and the pair side by side if there is one."""
        records = [record_of(self.models, self.settings, made) for made in group]
        for record, made in zip(records, group, strict=True):
            record["oracle"] = oracle_agrees(self.settings, made.image, made.prompt)

        def write(file: Path, place: int) -> None:
            made, record = group[place], records[place]
            if self.job.goes_on and says(file, record):
                return
            parameters = parameters_of(self.models, self.settings, made)
            kept = (record, parameters) if self.job.request.metadata else (None, None)
            save_png(made.image, file, record=kept[0], parameters=kept[1])

        file = folder.write_numbered(group[0].prompt, lambda file: write(file, 0), number)
        files = [file]
        if len(group) > 1:
            files.append(file.with_name(f"{file.stem}{BASELINE}.png"))
            write(files[1], 1)
        rows = [{"file": file.name, **record} for file, record in zip(files, records, strict=True)]
        if len(group) > 1:
            pair = file.with_name(f"{file.stem}{PAIR}.png")
            tile = tile_of(rows, [made.image for made in group])
            write_pair(pair, tile, rows, metadata=self.job.request.metadata)
        return [row | {SECONDS: made.seconds} for row, made in zip(rows, group, strict=True)]


def says(file: Path, record: Mapping[str, Any]) -> bool:
    """Whether a file is there and its own record is this one."""
    try:
        return file.exists() and read_metadata(file).record == json.loads(json.dumps(record))
    except MetadataError:
        return False


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
