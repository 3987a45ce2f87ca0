"""Settings of a run: what a model is best run with, what was given instead, and JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clipguide.cli.given import nested
from clipguide.clip.latent_files import CONFIG
from clipguide.generation.record import _in_present_names  # pyright: ignore[reportPrivateUsage]
from clipguide.generation.sampling import method_of
from clipguide.generation.settings import Settings, settings_for
from clipguide.guidance.config import GuidanceConfig
from clipguide.search.fk import FeynmanKac
from clipguide.search.prune import Prune


def test_a_models_own_search_spends_its_budget_on_each_picture() -> None:
    one, four = settings_for("starter", {}), settings_for("starter", {}, pictures=4)
    assert one.search == four.search == "prune"
    assert four.budget == 4 * one.budget
    assert settings_for("starter", {"budget": 3}, pictures=4).budget == 3


def test_another_search_has_the_general_budget() -> None:
    other, general = settings_for("starter", {"search": "fk"}, pictures=4), Settings()
    assert (other.search, other.budget, other.batch_size) == ("fk", general.budget, 1)
    assert other.cfg_scale == settings_for("starter", {}).cfg_scale  # the rest stays the model's


def test_naming_a_models_own_search_changes_nothing() -> None:
    assert settings_for("starter", {"search": "prune"}, 3) == settings_for("starter", {}, 3)


def test_no_search_is_a_choice() -> None:
    given = nested({"search": "none", "steps": None}, {"strength": 3.0}, {})
    settings = settings_for("starter", given)
    assert settings.search is None
    assert settings.guided
    assert not settings_for("starter", nested({"search": "none"}, {"strength": 0.0}, {})).guided


@pytest.mark.parametrize(
    "given",
    [
        {"scorer": "starter"}, {"reward": "cosine"}, {"search": "fk"}, {"search": None},
        {"guidance": {"mode": "x0"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_model_chooses_by_is_of_its_own_way_alone(given: dict[str, object]) -> None:
    chooses = "contrast + 2*teacher.contrast + 4*scorer:log-prob:starter@0"
    assert settings_for("starter", {}).choosing == {"preview": chooses, "final": chooses}
    other = settings_for("starter", given)
    assert (other.preview, other.final, other.search_options) == (None, None, {})
    asked = settings_for("starter", {**given, "final": "teacher.cosine"})
    assert asked.final == "teacher.cosine"
    for stage in ("preview", "final"):
        with pytest.raises(ValueError, match="got reward clip, expected one of"):
            settings_for("starter", {**given, stage: "clip"})


def test_settings_without_a_search_have_nothing_of_one() -> None:
    settings = replace(settings_for("starter", {}), until=0.9)
    assert settings.guided
    assert settings.choosing
    left = settings.without_search()
    assert left == settings_for("starter", {"search": None, "batch_size": 5, "budget": 2})
    assert left.guided
    assert not left.choosing
    assert not settings.unguided().guided


def test_settings_come_back_from_json() -> None:
    settings = settings_for("starter", {"reward": "contrast", "views": {"count": 2}})
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="got reward clip, expected one of cosine, contrast"):
        Settings(reward="clip")


def test_a_scorer_of_latents_brings_mode_and_strength_on_any_model(tmp_path: Path) -> None:
    own = {"strength": 7.0, "normalize": "raw"}
    text = {"version": 1, "tower": {}, "teacher": "starter", "teacher_hash": "", "autoencoder": {}}
    (tmp_path / CONFIG).write_text(json.dumps({**text, "guidance": own}))
    guidance = settings_for("some/model", {"scorer": str(tmp_path)}).guidance
    assert guidance == GuidanceConfig(7.0, "noisy", normalize="raw")
    every = settings_for("some/model", {"scorer": str(tmp_path), "guidance": {"every": 2}}).guidance
    assert every == replace(guidance, every=2)
    assert settings_for("some/model", {}).guidance == GuidanceConfig()


def test_the_starter_is_guided_by_its_latents_unless_a_mode_of_pictures_is_asked_for() -> None:
    starter = settings_for("starter", {})
    assert (starter.scorer, starter.guidance.mode) == ("starter:latent", "noisy")
    assert starter.guidance.strength > 0
    pictures = settings_for("starter", {"guidance": {"mode": "xt", "strength": 4.0}})
    assert (pictures.scorer, pictures.guidance.normalize) == ("starter", "clamp")
    named = settings_for("starter", {"scorer": "starter"})
    assert (named.guidance.mode, named.guidance.strength) == ("xt", 0.0)


def test_a_strength_does_not_outlive_what_it_is_a_number_of() -> None:
    given = settings_for("starter", {"guidance": {"normalize": "rms"}}).guidance
    assert (given.mode, given.strength) == ("noisy", GuidanceConfig().strength)
    asked = {"scorer": "starter", "guidance": {"normalize": "rms"}}
    assert settings_for("starter", asked).guidance.strength == 0  # none is none in any unit


def test_a_damaged_latent_scorer_is_left_to_loading(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{")
    assert settings_for("starter", {"scorer": str(tmp_path)}).guidance.strength == 0


def test_a_prune_of_an_older_record_looks_where_it_looked() -> None:
    settings = settings_for("starter", {"steps": 25}).to_json()
    old = {name: value for name, value in settings.items() if name != "pruning"}
    looks = Settings.from_json(_in_present_names(old)).pruning
    plan = Prune(*looks or ()).plan(2, 25, noise_aware=True)
    assert ([*plan.calls], [*plan.counts]) == ([6], [5, 1])  # of its time: five samples, six calls
    assert Settings.from_json(_in_present_names(settings)).pruning is None


# ------------------------------------------------------------------------------ options of a search


def test_a_search_has_its_own_options() -> None:
    given = {"search": "fk", "search_options": {"funnel": 0.7, "potential": "max"}, "budget": 4}
    settings = settings_for("x", given)
    assert method_of(settings) == FeynmanKac(funnel=0.7, potential="max")
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    looks = {"at": [0.2, 0.5], "keep": [0.5, 0.25]}
    pruned = settings_for("x", {"search": "prune", "search_options": looks, "budget": 4})
    assert method_of(pruned) == Prune((0.2, 0.5), (0.5, 0.25))


@pytest.mark.parametrize(
    ("search", "options", "message"),
    [
        ("fk", {"funel": 0.7}, "got option 'funel' of search fk, expected one of temperature, "),
        ("fk", {"funnel": 7}, "got funnel=7"),
        ("fk", {"funnel": "x"}, "expected a number"),
        ("fk", {"potential": 1}, "expected a text"),
        ("backstep", {"tries": 1.5}, "expected a whole number"),
        ("best_of", {"n": 1}, "expected one of none"),
        (None, {"funnel": 0.7}, "expected a search too"),
    ],
)
def test_options_that_a_search_does_not_have(
    search: str | None, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings_for("x", {"search": search, "search_options": options})
