"""Settings of guidance: what is accepted, what is refused, and that JSON holds them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipguide.generation.settings import Settings
from clipguide.guidance import presets
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.window import Window


def test_json_round_trip() -> None:
    config = GuidanceConfig(0.5, "xt", "clamp", damping=0.7, window=(0.6, 1.0), every=2)
    config = replace(config, recurrence=2, recurrence_window=(0.2, 0.8), target="clean")
    assert GuidanceConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert hash(config) == hash(GuidanceConfig(**json.loads(json.dumps(asdict(config)))))


@pytest.mark.parametrize(
    "config",
    [
        presets.tilted(0.5, 0.7),
        presets.dps(0.5),
        presets.freedom(0.5, 3, (0.2, 0.8)),
        presets.mpgd(0.5),
        presets.universal(0.5, 2, 0.1, repeats=2),
        presets.lgd(0.5, 4),
        presets.tfg(0.5, 0.2, iterations=2, samples=3, gamma=0.2, repeats=2),
        presets.flowchef(0.5),
    ],
    ids=str,
)
def test_an_image_record_holds_every_preset(config: GuidanceConfig) -> None:
    settings = Settings(guidance=config)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_record_of_the_first_six_settings_reads_as_before() -> None:
    old = {"strength": 0.5, "mode": "xt", "normalize": "raw", "damping": 0.7}
    record = {"guidance": {**old, "window": [0.2, 1.0], "every": 2}}
    expected = GuidanceConfig(0.5, "xt", "raw", 0.7, (0.2, 1.0), 2)
    assert Settings.from_json(record).guidance == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recurrence", 1.5),
        ("smoothing", True),
        ("refine_strength", "much"),
        ("target", 3),
        ("recurrence_window", [0.1]),
        ("scale", None),
    ],
)
def test_a_record_with_a_value_of_a_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"got {name} "):
        Settings.from_json({"guidance": {name: value}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, "got strength -0.1"),
        ({"strength": math.nan}, "got strength nan"),
        ({"strength": math.inf}, "got strength inf"),
        ({"mode": "latent"}, "got mode 'latent'.*x0.*xt"),
        ({"normalize": "l2"}, "got normalize 'l2'.*rms.*raw.*cfg.*clamp"),
        ({"damping": 0.0}, "got damping 0.0"),
        ({"damping": math.nan}, "got damping nan"),
        ({"window": (0.7, 0.2)}, "got window"),
        ({"window": (0.0, 14.6)}, "sigma_bar"),
        ({"window": (math.nan, 1.0)}, "got window"),
        ({"window": (0.5,)}, "pair"),
        ({"every": 0}, "got every=0"),
        ({"scale": "big"}, "got scale 'big'.*posterior.*increase"),
        ({"target": "noise"}, "got target 'noise'.*output.*clean.*noisy.*next"),
        ({"smoothing": -1}, "got smoothing=-1"),
        ({"smoothing_radius": math.nan}, "got smoothing_radius nan"),
        ({"smoothing_average": "max"}, "got smoothing_average 'max'.*mean.*exp"),
        ({"refine": -2}, "got refine=-2"),
        ({"refine_strength": -1.0}, "got refine_strength -1.0"),
        ({"recurrence": -1}, "got recurrence=-1"),
        ({"recurrence_window": (0.5, 0.2)}, "got window"),
        ({"mode": "tilt", "target": "next"}, "got mode 'tilt' with.*target 'next'"),
        ({"mode": "tilt", "refine": 2}, "got mode 'tilt' with.*refine=2"),
        ({"mode": "tilt", "damping": 0.5}, "got mode 'tilt' with damping=0.5"),
        ({"mode": "x0", "reward_width": 0.5}, "got mode 'x0' with reward_width=0.5"),
        ({"mode": "tilt", "reward_width": 0.0}, "got reward_width 0.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**settings)


@given(
    low=st.floats(0, 1), high=st.floats(0, 1), every=st.integers(1, 5), sigma=st.floats(1e-3, 50)
)
def test_window_is_an_interval_of_noise_levels(
    low: float, high: float, every: int, sigma: float
) -> None:
    window = Window(min(low, high), max(low, high), every)
    level = NoiseLevel(1.0, sigma)
    inside = min(low, high) <= sigma / math.sqrt(1 + sigma**2) <= max(low, high)
    assert window.covers(level) == inside
    assert [window.guides(level, i) for i in range(6)] == [
        inside and i % every == 0 for i in range(6)
    ]
