"""How often the oracle is right: on drawn scenes, clean and damaged as a whole."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from PIL import Image

from clipguide.data.scene_captions import spec_of
from clipguide.data.scenes import HELD_OUT, render, sample_scene
from clipguide.evaluation import oracle_verdict
from clipguide.evaluation.image_transforms import autoencoder, jpeg, noise, unchanged
from clipguide.evaluation.oracle_report import OWN, WRONG, format_report, main, measure_oracle


def test_rates_on_scenes_clean_and_after_jpeg() -> None:
    report = measure_oracle(300, transforms={"clean": unchanged, "jpeg": jpeg(85)})
    for name in ("clean", "jpeg"):
        assert report.overall(name, wrong=False).percent >= 99.5
        assert report.overall(name, wrong=True).percent >= 99.5
    kinds = {rate.kind: rate for rate in report.rates}
    assert set(kinds) == {*OWN, *WRONG}
    assert kinds["own caption"].total == 300
    assert all(rate.total > 150 for rate in report.rates)
    assert sum(c.count for c in report.confusions) <= 3


def test_rates_on_held_out_combinations() -> None:
    right = total = 0
    for seed in range(400):
        scene = sample_scene(seed, held_out=True)
        if any((thing.color, thing.shape) in HELD_OUT for thing in scene.objects):
            total += 1
            right += oracle_verdict(render(scene), spec_of(scene, Random(seed), detail=1.0)).ok
    assert total > 80
    assert right / total >= 0.995


@pytest.mark.parametrize("transform", [noise(10.0), jpeg(40)])
def test_rates_on_worse_pictures(transform: Callable[[Image.Image], Image.Image]) -> None:
    report = measure_oracle(60, seed=5000, transforms={"worse": transform})
    assert report.overall("worse", wrong=False).percent >= 98
    assert report.overall("worse", wrong=True).percent >= 99.5


@pytest.mark.usefixtures("starter_assets")
def test_rates_after_the_starters_autoencoder() -> None:
    from clipguide import load_starter

    vae = load_starter().vae
    report = measure_oracle(80, transforms={"vae": autoencoder(vae)})
    assert report.overall("vae", wrong=False).percent >= 98.5
    assert report.overall("vae", wrong=True).percent >= 99.5


def test_the_report_names_what_is_confused_with_what(capsys: pytest.CaptureFixture[str]) -> None:
    def red_to_blue(image: Image.Image) -> Image.Image:
        return Image.fromarray(np.array(image)[..., ::-1])  # and blue to red, purple to pink ...

    report = measure_oracle(40, transforms={"dyed": red_to_blue})
    dyed = {(c.attribute, c.drawn, c.seen) for c in report.confusions}
    assert ("color", "red", "blue") in dyed
    assert {attribute for attribute, _, _ in dyed} == {"color"}
    assert report.overall("dyed", wrong=False).percent < 95
    assert "red as blue" in format_report(report)
    main(["--scenes", "3"])
    printed = capsys.readouterr().out
    assert "own caption" in printed
    assert "jpeg 85" in printed
