"""An experiment from its first picture to its summary: what `clipguide eval run` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import is_caption
from clipguide.evaluation.comparison import (
    ORACLE,
    Sample,
    columns_of,
    duels_of,
    hacking_gaps,
    means_of,
)
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.files import write_json
from clipguide.generation.arm_job import Say
from clipguide.generation.experiment import Arm, Experiment
from clipguide.generation.experiment_arms import Picture, Workshop, measured_for
from clipguide.generation.experiment_files import write_results
from clipguide.generation.experiment_maps import draw_maps
from clipguide.generation.foreign_arms import foreign_pictures
from clipguide.images import load_image
from clipguide.report.generated import model_of
from clipguide.texts import read_text
from clipguide.workers import Here, Workers

DESIGN = "experiment.json"
SCORED = "scores"


def run_experiment(
    experiment: Experiment, run: Path, say: Say, workers: Workers | None = None
) -> dict[str, Any]:
    """Makes what is missing, scores it, compares the arms, and writes the run's files.

    `summary.json` holds nothing that depends on the machine's speed: a run that was killed and went
    on has the same one to the bit. An arm that fails is reported in it and the others finish.

    Args:
        experiment: see `clipguide.generation.experiment.read_experiment`.
        run: the folder; another experiment's is refused.
        say: told of what goes on.
        workers: who makes the pictures; None: this process. The main one scores and compares.

    Returns:
        The summary; of a process that is not the main one {}.

    Raises:
        ValueError: the folder holds another experiment; a scorer cannot be loaded, or reads
            latents; every arm fails.
    """
    workers = workers or Here()
    workers.agreed(lambda: _claim(experiment, run))
    workshop = Workshop(experiment, run, say, workers)
    found: dict[str, list[Picture]] = {}
    errors: dict[str, str] = {}
    for arm in experiment.arms:
        try:
            found[arm.name] = _pictures(workshop, arm)
        except Exception as error:  # whatever goes wrong in one arm, the others finish
            errors[arm.name] = _reason(error)
            say(f"arm {arm.name} failed: {errors[arm.name]}")
    if not workers.main:
        return {}
    scores = {
        name: _scores(name, experiment, found, run, errors, say) for name in experiment.scorers
    }
    arms = [arm for arm in experiment.arms if arm.name in found and arm.name not in errors]
    if not arms:
        name, error = next(iter(errors.items()))
        raise ValueError(f"every arm fails, {name!r} by {error}")
    draw_maps(experiment, {arm.name: found[arm.name] for arm in arms}, run, say)
    samples = [s for arm in arms for s in _samples(experiment, arm, found[arm.name], run, scores)]
    summary = summarize(experiment, samples, errors)
    for name, arm in summary["arms"].items():
        arm["measured"] = measured_for(run, name)
    summary["conventions"] = {name: column["convention"] for name, column in scores.items()}
    write_results(run, samples, summary)
    return summary


def _claim(experiment: Experiment, run: Path) -> None:
    """The folder is this experiment's from now on."""
    design = json.loads(json.dumps(asdict(experiment), default=str))
    file = run / DESIGN
    if file.exists():
        if json.loads(read_text(file)) != design:
            raise ValueError(f"{run}: holds another experiment, expected a new folder (--out)")
        return
    _check_scorers(experiment)
    run.mkdir(parents=True, exist_ok=True)
    write_json(file, design)


def _check_scorers(experiment: Experiment) -> None:
    """Loads each scorer once before anything is made: what is wrong with one is told now, not when
    every picture is there."""
    for name in experiment.scorers:
        scorer = load_scorer(name)
        if scorer.reads == "latents":
            raise ValueError(f"got judge {name}, which reads latents, expected one of pictures")


def _reason(error: Exception) -> str:
    """One line; a plain ValueError is a sentence of ours, another error says its name too."""
    text = " ".join(str(error).split())[:300]
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _pictures(workshop: Workshop, arm: Arm) -> list[Picture]:
    workshop.say(f"arm {arm.name}")
    if arm.folder is None:
        return workshop.pictures(arm)
    return foreign_pictures(workshop.experiment, arm.folder)


# ------------------------------------------------------------------------------------------ scores


def _scores(
    name: str,
    experiment: Experiment,
    found: Mapping[str, Sequence[Picture]],
    run: Path,
    errors: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """Scorer's convention, and of every arm the score of every picture, in order."""
    file = run / SCORED / f"{_slug(name)}.json"
    known: dict[str, Any] = json.loads(read_text(file)) if file.exists() else {}
    stamps = {arm: _stamps(pictures) for arm, pictures in found.items() if arm not in errors}
    missing = [arm for arm, now in stamps.items() if known.get("stamps", {}).get(arm) != now]
    if not missing:
        return known
    say(f"scoring by {name}")
    scorer = load_scorer(name)
    known = {"convention": scorer.convention} | known
    if known.setdefault("sha256", scorer.content_hash) != scorer.content_hash:
        raise ValueError(
            f"{name}: has other weights than when {run} was begun, expected a new --out"
        )
    arms: dict[str, Any] = known.setdefault("arms", {})
    file.parent.mkdir(exist_ok=True)
    for arm in missing:
        try:
            arms[arm] = _score(scorer, experiment, found[arm])
        except Exception as error:  # a picture that cannot be read, a score that is not finite
            errors[arm] = _reason(error)
            say(f"arm {arm} failed: {errors[arm]}")
        else:
            known.setdefault("stamps", {})[arm] = stamps[arm]
            write_json(file, known)
    return known


def _stamps(pictures: Sequence[Picture]) -> list[list[Any]]:
    """By which a file that was changed since it was scored is known; one that is gone says so."""
    found = [(picture.file.name, picture.file.stat()) for picture in pictures]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in found]


def _score(scorer: Scorer, experiment: Experiment, pictures: Sequence[Picture]) -> list[float]:
    files = [picture.file for picture in pictures]
    return scorer.score(files, [experiment.prompts[p.place].text for p in pictures]).tolist()


def _slug(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _samples(
    experiment: Experiment,
    arm: Arm,
    pictures: Sequence[Picture],
    run: Path,
    scores: Mapping[str, Mapping[str, Any]],
) -> list[Sample]:
    columns = {name: column["arms"][arm.name] for name, column in scores.items()}
    samples: list[Sample] = []
    for number, picture in enumerate(pictures):
        prompt = experiment.prompts[picture.place]
        own = {name: float(column[number]) for name, column in columns.items()}
        file = picture.file
        shown = file.relative_to(run) if file.is_relative_to(run) else file.resolve()
        samples.append(
            Sample(
                arm.name, picture.place, picture.seed, prompt.text, prompt.category,
                shown.as_posix(), own | _oracle(file, prompt.text), picture.seconds, picture.calls,
            )
        )  # fmt: skip
    return samples


def _oracle(file: Path, prompt: str) -> dict[str, float]:
    """1 or 0 for a picture of the starter's and a prompt of its grammar."""
    if not is_caption(prompt) or model_of(file) != "starter":
        return {}
    return {ORACLE: float(oracle_verdict(load_image(file), prompt).ok)}


# ----------------------------------------------------------------------------------------- summary


def summarize(
    experiment: Experiment, samples: Sequence[Sample], errors: Mapping[str, str]
) -> dict[str, Any]:
    """What is known when all is scored, as plain JSON: means, duels, hacking gaps, warnings."""
    columns = columns_of(samples)
    guiding = {arm.name: arm.guiding for arm in experiment.arms if arm.guiding is not None}
    judging = experiment.judging
    means = means_of(columns)
    two = len({sample.place for sample in samples}) > 1
    warnings = [*experiment.warnings, *(f"arm {a} failed: {e}" for a, e in errors.items())]
    left = {sample.arm for sample in samples}
    if len(left) == 1:
        warnings.append(f"arm {left.pop()} is the only one: there is nothing to compare it with")
    if not two:
        warnings.append("one prompt: no interval and no test")
    return {
        "prompts": len(experiment.prompts),
        "pictures": len(samples),
        "headline": judging.headline,
        "baseline": judging.baseline,
        "scorers": experiment.scorers,
        "arms": {
            arm.name: {
                "guiding": arm.guiding,
                "control": None if arm.control is None else list(arm.control),
                "error": errors.get(arm.name),
                "calls": _mean_calls(samples, arm.name),
                "means": {k: asdict(v) for k, v in means.get(arm.name, {}).items()},
            }
            for arm in experiment.arms
        },
        "duels": [asdict(duel) for duel in duels_of(columns)] if two else [],
        "hacking": [asdict(g) for g in hacking_gaps(columns, judging.baseline, guiding)]
        if two
        else [],
        "categories": _categories(samples, judging.headline),
        "warnings": warnings,
    }


def _mean_calls(samples: Sequence[Sample], arm: str) -> float | None:
    calls = [sample.calls for sample in samples if sample.arm == arm and sample.calls is not None]
    return sum(calls) / len(calls) if calls else None


def _categories(samples: Sequence[Sample], headline: str) -> dict[str, dict[str, float]]:
    """Category -> arm -> mean of the headline; {} where prompts have none."""
    values: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        if sample.category and headline in sample.scores:
            arms = values.setdefault(sample.category, {})
            arms.setdefault(sample.arm, []).append(sample.scores[headline])
    return {
        category: {arm: sum(some) / len(some) for arm, some in arms.items()}
        for category, arms in values.items()
    }
