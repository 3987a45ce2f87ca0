"""Looking at the steps of a run that something else drives: plain, guided, searched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from clipguide.attach.observe import Step
from clipguide.generation.models import Models, load_models
from clipguide.generation.sampling import ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings, settings_for

STEPS = 4
ASKED = [ImageRequest("a red star left of a blue ring", 3)]


@pytest.fixture(scope="module")
def models(starter_assets: Any) -> Models:
    loaded = load_models(settings_for("starter", {"steps": STEPS}))
    loaded.pipe.set_progress_bar_config(disable=True)
    return loaded


def settings(way: str) -> Settings:
    whole = settings_for(
        "starter", {"steps": STEPS, "judge": None, "budget": 4, "pruning": (0.5, 0.25)}
    )
    if way == "search":
        return whole
    strength = whole.guidance.strength if way == "gradients" else 0.0
    guidance = replace(whole.guidance, strength=strength)
    return replace(whole.without_search(), guidance=guidance)


@pytest.mark.parametrize("way", ["plain", "gradients", "search"])
def test_a_watched_run_makes_the_same_picture(models: Models, way: str) -> None:
    seen: list[tuple[int, int]] = []
    last: list[torch.Tensor] = []

    def watch(step: Step) -> None:
        seen.append((step.index, len(step.sample)))
        last[:] = [step.images()]

    asked = settings(way)
    (watched,) = next(ImageGenerator(models, asked, watch).generate(ASKED))
    (alone,) = next(ImageGenerator(models, asked).generate(ASKED))
    assert watched.image.tobytes() == alone.image.tobytes()
    steps = [index for index, _ in seen]
    assert steps == [*range(STEPS)] if way != "search" else {*steps} == {*range(STEPS)}
    assert last[0].shape == (seen[-1][1], 3, 64, 64)


def test_a_watched_search_shows_no_step_twice(models: Models) -> None:
    """Half of the steps for all candidates, the other half for those that go on."""
    counts = [0] * STEPS

    def watch(step: Step) -> None:
        counts[step.index] += len(step.sample)

    list(ImageGenerator(models, settings("search"), watch).generate(ASKED))
    assert counts[0] == counts[1] > counts[2] == counts[3] > 0


class Enough(Exception):
    pass


@pytest.mark.parametrize("way", ["plain", "gradients", "search"])
def test_an_exception_ends_the_run_and_leaves_nothing(models: Models, way: str) -> None:
    plain = type(models.pipe.scheduler)

    def watch(step: Step) -> None:
        raise Enough

    asked = settings(way)
    before = next(ImageGenerator(models, asked).generate(ASKED))[0].image.tobytes()
    with pytest.raises(Enough):
        list(ImageGenerator(models, asked, watch).generate(ASKED))
    assert type(models.pipe.scheduler) is plain
    assert next(ImageGenerator(models, asked).generate(ASKED))[0].image.tobytes() == before
