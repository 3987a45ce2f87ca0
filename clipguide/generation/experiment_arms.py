"""The pictures of an experiment's arms: made here, one file each, or found where others made them.

A picture is there or it is not: it is written under another name and renamed, so a run that was
killed goes on with the first that is missing, and none is made twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipguide.attach.guide import guide
from clipguide.attach.spending import Displacements, counted, displacements
from clipguide.files import write_json
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.experiment import EQUAL, MATCHED, Arm, Experiment
from clipguide.generation.models import Models, checked_device, load_models
from clipguide.generation.record import parameters_of, record_of
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest, reward_of
from clipguide.generation.settings import Settings
from clipguide.report.metadata import read_metadata, save_png
from clipguide.texts import read_text

CONTROL = "control.json"
PROBES = 4
"""Prompts on which the matched scale is measured."""
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


@dataclass
class Workshop:
    """Makes the arms' pictures, with the models of the last arm at hand.

    Attributes:
        experiment: what is made.
        run: the folder of the run.
        say: told of what goes on.
    """

    experiment: Experiment
    run: Path
    say: Say
    _loaded: tuple[Settings, Models] | None = None

    def pictures(self, arm: Arm) -> list[Picture]:
        """Every picture of an arm that is made here; those that are missing are made.

        Raises:
            ValueError: a picture is there that was made with other settings; and what generation
                raises.
        """
        assert arm.settings is not None
        models, settings = self._models(arm.settings)
        if arm.control is not None:
            settings = self._controlled(arm, models, settings)
        folder = arm_folder(self.run, arm.name)
        folder.mkdir(parents=True, exist_ok=True)
        generator = ImageGenerator(models, settings)
        return [
            self._picture(generator, folder, place, seed)
            for place in range(len(self.experiment.prompts))
            for seed in self.experiment.seeds(place)
        ]

    def _models(self, settings: Settings) -> tuple[Models, Settings]:
        """Loaded once for arms that share what is loaded."""
        settings = replace(settings, device=checked_device(settings.device))
        key = Settings(
            **{name: getattr(settings, name) for name in
               ("model", "scorer", "sampler", "device", "dtype", "decoder")}
        )  # fmt: skip
        if self._loaded is None or self._loaded[0] != key:
            self.say(f"loading {settings.model}")
            self._loaded = (key, load_models(settings))
            self._loaded[1].pipe.set_progress_bar_config(disable=True)
        models = self._loaded[1]
        return models, resolve_settings(settings, models.pipe)[0]

    def _picture(self, generator: ImageGenerator, folder: Path, place: int, seed: int) -> Picture:
        file = folder / f"{place:05d}-{seed}.png"
        if not file.exists():
            self._make(generator, file, self.experiment.prompts[place].text, seed)
        record = read_metadata(file).record or {}
        if record.get("settings") != json.loads(json.dumps(generator.settings.to_json())):
            raise ValueError(f"{file}: was made with other settings, expected those of its arm")
        return Picture(place, seed, file, float(record["seconds"]), float(record["calls"]))

    def _make(self, generator: ImageGenerator, file: Path, prompt: str, seed: int) -> None:
        models, settings = generator.models, generator.settings
        with counted(models.pipe) as spent:
            ((made,),) = generator.generate([ImageRequest(prompt, seed)])
        record = record_of(models, settings, made) | {"calls": spent.rows}
        save_png(made.image, file, record=record, parameters=parameters_of(models, settings, made))

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


def _as_measured(kind: str, measured: dict[str, Any], settings: Settings) -> Settings:
    plain = replace(settings, guidance=replace(settings.guidance, strength=0.0))
    if kind == MATCHED:
        return replace(plain, cfg_scale=float(measured["cfg_scale"]))
    return replace(plain, search="best_of", budget=int(measured["budget"]), batch_size=1)


def measured_for(run: Path, name: str) -> dict[str, Any]:
    """What was measured for a control arm; {} for another arm, or before it was."""
    file = arm_folder(run, name) / CONTROL
    return json.loads(read_text(file)) if file.exists() else {}
