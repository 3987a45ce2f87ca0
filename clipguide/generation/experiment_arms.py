"""The pictures of an experiment's arms: made here, one file each, or found where others made them.

A picture is there or it is not: it is written under another name and renamed, so a run that was
killed goes on with the first that is missing, and none is made twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipguide.attach.guide import guide
from clipguide.attach.spending import Displacements, counted, displacements
from clipguide.files import append_lines, write_json
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.experiment import EQUAL, MATCHED, Arm, Experiment
from clipguide.generation.inside import Inside
from clipguide.generation.models import Models, checked_device, load_models
from clipguide.generation.record import parameters_of, record_of
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest, reward_of
from clipguide.generation.settings import Settings
from clipguide.report.experiment_page import INSIDE
from clipguide.report.metadata import read_metadata, save_png
from clipguide.texts import read_text
from clipguide.workers import Here, Workers

CONTROL, SECONDS = "control.json", "seconds.jsonl"
PROBES = 4
"""Prompts on which the matched scale is measured."""
LOOKED_INTO = 4
"""Prompts whose pictures without a search are shown from inside, at up to eight decodes each."""
Say = Callable[[str], None]


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

    Attributes:
        settings: of the arm; a control arm's as measured.
        folder: where the pictures go.
        shelf: where models are at hand.
    """

    settings: Settings
    folder: Path
    shelf: Shelf

    def open(self) -> Callable[[dict[str, Any]], str]:
        """Loads the models."""
        models, settings = self.shelf.take(self.settings, lambda line: None)
        generator = ImageGenerator(models, settings)

        def make(item: dict[str, Any]) -> str:
            file = self.folder / item["file"]
            if not file.exists():  # a worker that died may have made it
                request = ImageRequest(item["prompt"], item["seed"])
                self._make(generator, file, request, inside=bool(item["inside"]))
            return file.name

        return make

    def _make(
        self, generator: ImageGenerator, file: Path, request: ImageRequest, *, inside: bool
    ) -> None:
        models, settings = generator.models, generator.settings
        shown = Inside()
        if inside:
            generator = replace(generator, watch=shown, on_trace=shown.take)
        with counted(models.pipe) as spent:
            ((made,),) = generator.generate([request])
        record = record_of(models, settings, made) | {"calls": spent.rows}
        parameters = parameters_of(models, settings, made)
        shown.save(*inside_of(file))
        save_png(made.image, file, record=record, parameters=parameters)
        line = json.dumps({"file": file.name, "seconds": round(made.seconds, 3)})
        append_lines(file.with_name(SECONDS), [line])


def inside_of(file: Path) -> tuple[Path, Path]:
    """Where a picture's strip of previews and its trace are."""
    folder = file.parent / INSIDE
    return folder / f"{file.stem}-x0.png", folder / f"{file.stem}-trace.png"


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
        named = {
            (place, seed): folder / f"{place:05d}-{seed}.png"
            for place in range(len(self.experiment.prompts))
            for seed in self.experiment.seeds(place)
        }
        missing = [
            {"file": file.name, "seed": seed, "prompt": self.experiment.prompts[place].text}
            | {"inside": place < LOOKED_INTO and settings.search is None}
            for (place, seed), file in named.items()
            if not file.exists()
        ]
        for _ in self.workers.do(ArmJob(settings, folder.resolve(), self.shelf), missing):
            pass
        seconds = _seconds(folder)
        return [
            _picture(place, seed, file, settings, seconds) for (place, seed), file in named.items()
        ]

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
        plain, total = replace(settings, search=None), Displacements()
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


def _seconds(folder: Path) -> dict[str, float]:
    """How long each picture took, as far as it is known."""
    file = folder / SECONDS
    lines = read_text(file).split("\n") if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["file"]: float(row["seconds"]) for row in rows}


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
    return replace(plain, search="best_of", budget=int(measured["budget"]), batch_size=1)


def measured_for(run: Path, name: str) -> dict[str, Any]:
    """What was measured for a control arm; {} for another arm, or before it was."""
    file = arm_folder(run, name) / CONTROL
    return json.loads(read_text(file)) if file.exists() else {}
