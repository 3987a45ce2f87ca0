"""The pictures of an experiment's arms: made here, one file each, or found where others made them.

A picture is there or it is not: it is written under another name and renamed, so a run that was
killed goes on with the first that is missing, and none is made twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipguide.attach.guide import guide
from clipguide.attach.spending import Displacements, counted, displacements
from clipguide.batching import batches
from clipguide.files import write_json
from clipguide.generation.arm_job import ArmJob, Say, Shelf, Task, seconds_of
from clipguide.generation.experiment import EQUAL, MATCHED, Arm, Experiment
from clipguide.generation.models import Models
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest, reward_of
from clipguide.generation.settings import Settings
from clipguide.report.metadata import read_metadata
from clipguide.texts import read_text
from clipguide.workers import Here, Workers

CONTROL = "control.json"
PROBES = 4
"""Prompts on which the matched scale is measured."""
LOOKED_INTO = 4
"""Prompts whose pictures without a search are shown from inside; those are made alone."""


@dataclass(frozen=True)
class Picture:
    """One file of an arm, and what it took (None: not known)."""

    place: int
    seed: int
    file: Path
    seconds: float | None = None
    calls: float | None = None


def arm_folder(run: Path, name: str) -> Path:
    """Where an arm's pictures are: its words, and a hash, since two names may share their words."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return run / "arms" / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass
class Workshop:
    """Makes the arms' pictures, with the models of the last arm at hand.

    Attributes:
        experiment: what is made.
        run: the folder of the run.
        say: told of what goes on.
        workers: who makes it.
    """

    experiment: Experiment
    run: Path
    say: Say
    workers: Workers = field(default_factory=Here)
    shelf: Shelf = field(default_factory=Shelf)

    def pictures(self, arm: Arm) -> list[Picture]:
        """Every picture of an arm that is made here; those that are missing are made.

        Raises:
            ValueError: a picture is there that was made with other settings; and what generation
                raises.
        """
        settings = Settings.from_json(self.workers.agreed(lambda: self._settings(arm).to_json()))
        folder = arm_folder(self.run, arm.name)
        tasks = self._tasks(settings)
        missing = [
            {"pictures": [asdict(picture) for picture in pictures], "inside": inside}
            for pictures, inside in tasks
            if not all((folder / picture.file).exists() for picture in pictures)
        ]
        for _ in self.workers.do(ArmJob(settings, folder.resolve(), self.shelf), missing):
            pass
        seconds = seconds_of(folder)
        return [
            _picture(one.place, one.seed, folder / one.file, settings, seconds)
            for pictures, _ in tasks
            for one in pictures
        ]

    def _tasks(self, settings: Settings) -> list[tuple[list[Task], bool]]:
        """What one call makes, and whether it is shown from inside. A run that goes on has the same
        batches: a picture's last bit may depend on the batch it is made in."""
        tasks = [
            Task(place, seed, prompt.text)
            for place, prompt in enumerate(self.experiment.prompts)
            for seed in self.experiment.seeds(place)
        ]
        alone = 0 if settings.search else sum(task.place < LOOKED_INTO for task in tasks)
        shown = [([task], True) for task in tasks[:alone]]
        return shown + [(some, False) for some in batches(tasks[alone:], settings.batch_size)]

    def _settings(self, arm: Arm) -> Settings:
        """All settings of an arm, measured where it is a control."""
        assert arm.settings is not None
        models, settings = self.shelf.take(arm.settings, self.say)
        arm_folder(self.run, arm.name).mkdir(parents=True, exist_ok=True)
        return settings if arm.control is None else self._controlled(arm, models, settings)

    # --------------------------------------------------------------------------- control arms

    def _controlled(self, arm: Arm, models: Models, settings: Settings) -> Settings:
        """The settings of a control arm; what was measured for it is kept in its folder."""
        assert arm.control is not None
        kind, _ = arm.control
        file = arm_folder(self.run, arm.name) / CONTROL
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            measured = CONTROLS[kind](self, models, settings)
            write_json(file, measured)
        return _as_measured(kind, measured_for(self.run, arm.name), settings)

    def matched_scale(self, models: Models, settings: Settings) -> dict[str, float]:
        """The scale of equal displacement, on the first prompts, guided and not searched."""
        if settings.cfg_scale is None or settings.guidance.mode == "tilt":
            raise ValueError(
                f"got mode {settings.guidance.mode} and cfg-scale {settings.cfg_scale}, expected "
                "guidance of the model output beside classifier-free guidance: no scale matches it"
            )
        plain, total = settings.without_search(), Displacements()
        for request in self._requests(PROBES):
            reward = reward_of(models.scorer, settings, [request.prompt])
            config, decoder = settings.guidance, models.decoder
            with (
                guide(models.pipe, reward, config=config, decoder=decoder),
                displacements(models.pipe) as moved,
            ):
                ImageGenerator(models, plain).sample_batch(Batch((request,), "unguided"))
            total.own += moved.own
            total.free += moved.free
        return {"cfg_scale": total.matched_scale(settings.cfg_scale)}

    def equal_budget(self, models: Models, settings: Settings) -> dict[str, float]:
        """How many plain pictures cost as many denoiser calls as one of the guided arm."""
        (request,) = self._requests(1)
        generator = ImageGenerator(models, settings)
        with counted(models.pipe) as whole:
            generator.sample_batch(Batch((request,), "guided"))
        with counted(models.pipe) as plain:
            generator.sample_batch(Batch((request,), "unguided"))
        return {"budget": max(1, round(whole.rows / plain.rows))}

    def _requests(self, most: int) -> Iterator[ImageRequest]:
        for place, prompt in enumerate(self.experiment.prompts[:most]):
            yield ImageRequest(prompt.text, self.experiment.seeds(place)[0])


CONTROLS: dict[str, Callable[[Workshop, Models, Settings], dict[str, float]]] = {
    MATCHED: Workshop.matched_scale,
    EQUAL: Workshop.equal_budget,
}
"""What is measured for a kind of control arm."""


def _picture(
    place: int, seed: int, file: Path, settings: Settings, seconds: Mapping[str, float]
) -> Picture:
    record = read_metadata(file).record or {}
    if record.get("settings") != json.loads(json.dumps(settings.to_json())):
        raise ValueError(f"{file}: was made with other settings, expected those of its arm")
    return Picture(place, seed, file, seconds.get(file.name), float(record["calls"]))


def _as_measured(kind: str, measured: dict[str, Any], settings: Settings) -> Settings:
    plain = replace(settings, guidance=replace(settings.guidance, strength=0.0))
    if kind == MATCHED:
        return replace(plain, cfg_scale=float(measured["cfg_scale"]))
    budget = int(measured["budget"])  # options of the arm's own search say nothing to this one
    return replace(
        plain, search="best_of", budget=budget, search_options={}, pruning=None, until=None
    )


def measured_for(run: Path, name: str) -> dict[str, Any]:
    """What was measured for a control arm; {} for another arm, or before it was."""
    file = arm_folder(run, name) / CONTROL
    return json.loads(read_text(file)) if file.exists() else {}
