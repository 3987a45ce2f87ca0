"""Makes the pictures of an arm of an experiment: models at hand, a call for each batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipguide.attach.spending import counted
from clipguide.files import append_lines
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.inside import Inside
from clipguide.generation.models import Models, checked_device, load_models
from clipguide.generation.record import parameters_of, record_of
from clipguide.generation.sampling import GeneratedImage, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.report.experiment_page import INSIDE, KINDS
from clipguide.report.metadata import save_png
from clipguide.texts import read_text

SECONDS = "seconds.jsonl"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One picture that is asked for.

    Attributes:
        place: of its prompt in the experiment.
        seed: its own, of a search the first.
        prompt: its text.
    """

    place: int
    seed: int
    prompt: str

    @property
    def file(self) -> str:
        """Its name in the folder of the arm."""
        return f"{self.place:05d}-{self.seed}.png"


class Shelf:
    """The models of the last arm, at hand for the next; in another process it is empty."""

    def __init__(self) -> None:
        self._loaded: tuple[Settings, Models] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_loaded": None}

    def take(self, settings: Settings, say: Say) -> tuple[Models, Settings]:
        """The models of some settings, and what the model says to those that are not given."""
        settings = replace(settings, device=checked_device(settings.device))
        key = Settings(
            **{name: getattr(settings, name) for name in
               ("model", "scorer", "sampler", "device", "dtype", "decoder")}
        )  # fmt: skip
        if self._loaded is None or self._loaded[0] != key:
            say(f"loading {settings.model}")
            self._loaded = (key, load_models(settings))
            self._loaded[1].pipe.set_progress_bar_config(disable=True)
        models = self._loaded[1]
        return models, resolve_settings(settings, models.pipe)[0]


@dataclass(frozen=True)
class ArmJob:
    """Makes pictures of an arm, a file each.

    An item is a batch, pictures of which some may be there already: it is computed as a whole, and
    those that are there stay.

    Attributes:
        settings: of the arm; a control arm's as measured.
        folder: where the pictures go.
        shelf: where models are at hand.
    """

    settings: Settings
    folder: Path
    shelf: Shelf

    def open(self) -> Callable[[dict[str, Any]], int]:
        """Loads the models."""
        models, settings = self.shelf.take(self.settings, lambda line: None)
        generator = ImageGenerator(models, settings)

        def make(item: dict[str, Any]) -> int:
            tasks = [Task(**picture) for picture in item["pictures"]]
            if all((self.folder / task.file).exists() for task in tasks):
                return 0  # a worker that died made them
            return self._make(generator, tasks, inside=bool(item["inside"]))

        return make

    def _make(self, generator: ImageGenerator, tasks: Sequence[Task], *, inside: bool) -> int:
        """Makes a batch and writes what is missing of it; how many files that were."""
        shown = Inside()
        if inside:
            generator = replace(generator, watch=shown, on_trace=shown.take)
        requests = [ImageRequest(task.prompt, task.seed) for task in tasks]
        with counted(generator.models.pipe) as spent:
            made = [one for some in generator.generate(requests) for one in some]
        files = [self.folder / task.file for task in tasks]
        missing = [(file, one) for file, one in zip(files, made, strict=True) if not file.exists()]
        for file, one in missing:
            shown.save(*inside_of(file))
            _save(generator, one, file, calls=spent.rows / len(made))
        return len(missing)


def _save(generator: ImageGenerator, made: GeneratedImage, file: Path, calls: float) -> None:
    models, settings = generator.models, generator.settings
    record = record_of(models, settings, made) | {"calls": calls}
    parameters = parameters_of(models, settings, made)
    save_png(made.image, file, record=record, parameters=parameters)
    line = json.dumps({"file": file.name, "seconds": round(made.seconds, 3)})
    append_lines(file.with_name(SECONDS), [line])


def seconds_of(folder: Path) -> dict[str, float]:
    """How long each picture of an arm took, its share of its batch's, as far as it is known."""
    file = folder / SECONDS
    lines = read_text(file).split("\n") if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["file"]: float(row["seconds"]) for row in rows}


def inside_of(file: Path) -> tuple[Path, Path, Path]:
    """Where a picture's strip of previews, what guidance moved in them, and its trace are."""
    folder = file.parent / INSIDE
    strip, moved, trace = (folder / f"{file.stem}-{kind}.png" for kind in KINDS)
    return strip, moved, trace
