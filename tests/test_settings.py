"""Settings of a run: what a model is best run with, what was given instead, and JSON and back."""

from __future__ import annotations

import json

import pytest

from clipguide.cli.options import nested
from clipguide.generation.settings import Settings, settings_for


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
    assert not settings_for("starter", nested({"search": "none"}, {}, {})).guided


def test_settings_come_back_from_json() -> None:
    settings = settings_for("starter", {"reward": "contrast", "views": {"count": 2}})
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="got reward clip, expected one of cosine, contrast"):
        Settings(reward="clip")
