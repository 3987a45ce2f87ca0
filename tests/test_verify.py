"""`clipguide verify`: it passes here; a fault planted in what a check sees makes it FAIL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipguide.clip.scorer import Scorer
from clipguide.evaluation.verification import Check, Figure, Skipped, verify
from clipguide.evaluation.verify_data import WITH_DATA
from clipguide.evaluation.verify_offline import OFFLINE
from clipguide.evaluation.verify_weights import WITH_WEIGHTS

CHECKS = {check.name: check for check in OFFLINE}
Patch = pytest.MonkeyPatch


def half_a_grey(patch: Patch) -> None:
    """Pillow's rounding left out: what a float resize gives."""
    from clipguide.clip import resize

    patch.setattr(resize, "_to_byte", lambda work: work)


def another_tensor_path(patch: Patch) -> None:
    from clipguide.clip.preprocess import Preprocess

    patch.setattr(Preprocess, "normalize", lambda self, pixels: pixels)
    inner = Preprocess.__call__
    patch.setattr(Preprocess, "__call__", lambda self, x, match="pil": 1.01 * inner(self, x, match))


def too_strong(patch: Patch) -> None:
    from clipguide.evaluation import closed_form

    rule = closed_form.METHODS["tilt"].config

    def twice(strength: float, width: float | None) -> Any:
        return dataclasses.replace(rule(strength, width), strength=2 * strength)

    method = dataclasses.replace(closed_form.METHODS["tilt"], config=twice)
    patch.setitem(closed_form.METHODS, "tilt", method)


def one_pair_wrong(patch: Patch) -> None:
    from clipguide.evaluation import kendall

    inner = kendall._agreeing_minus_opposed
    patch.setattr(kendall, "_agreeing_minus_opposed", lambda x, y: inner(x, y) + 2)


def another_prefix(patch: Patch) -> None:
    from clipguide.clip import conventions

    patch.setitem(conventions.PREFIXES, "clipscore", "")


def blurred_eyes(patch: Patch) -> None:
    """Every image seen as grey: a CLIP that lost its colours."""
    inner = Scorer.encode_image

    def grey(self: Scorer, images: Any, **options: Any) -> torch.Tensor:
        return inner(self, [image.convert("L").convert("RGB") for image in images], **options)

    patch.setattr(Scorer, "encode_image", grey)


def mirrored(patch: Patch) -> None:
    """The oracle sees left and right exchanged."""
    from clipguide.evaluation import oracle_report

    inner = oracle_report.detect_objects

    def turned(image: Image.Image) -> Any:
        return inner(Image.fromarray(np.asarray(image)[:, ::-1].copy()))

    patch.setattr(oracle_report, "detect_objects", turned)


def dim_decoder(patch: Patch) -> None:
    from clipguide.evaluation import image_transforms

    inner = image_transforms.autoencoder

    def dark(vae: Any) -> Callable[[Image.Image], Image.Image]:
        seen = inner(vae)
        return lambda image: seen(image).point(lambda value: int(value * 0.3))

    patch.setattr(image_transforms, "autoencoder", dark)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "resize against Pillow": half_a_grey,
    "picture against tensor": another_tensor_path,
    "guidance against exact posteriors": too_strong,
    "Kendall tau-c pair by pair": one_pair_wrong,
    "CLIPScore by hand": another_prefix,
    "starter, word order": blurred_eyes,
    "starter:judge, word order": blurred_eyes,
    "oracle on drawn scenes": mirrored,
    "oracle after the starter's autoencoder": dim_decoder,
}


def test_every_offline_check_has_a_fault() -> None:
    assert set(FAULTS) == set(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_passes_here_and_a_planted_fault_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, starter_assets: Path
) -> None:
    found = verify(CHECKS[name], None)
    assert found.status == "PASS", found.detail
    FAULTS[name](monkeypatch)
    assert verify(CHECKS[name], None).status == "FAIL"


def test_what_cannot_run_says_what_gets_it(tmp_path: Path) -> None:
    for check in WITH_WEIGHTS:
        found = verify(check, tmp_path)
        assert found.status == "SKIPPED"
        assert "hf download" in found.detail, found.detail
    for check in WITH_DATA:
        assert verify(check, None).detail.endswith("give --data DIR, or set CLIPGUIDE_DATA")
        assert "is not there" in verify(check, tmp_path).detail


def shifted_head(patch: Patch) -> None:
    from clipguide.rewards import aesthetic

    inner = aesthetic.load_aesthetic_head

    def shifted(source: Path) -> torch.nn.Module:
        head = inner(source)
        head[-1].bias.data += 0.001
        return head

    patch.setattr(aesthetic, "load_aesthetic_head", shifted)


@pytest.mark.parametrize(
    ("place", "fault"), [(0, one_pair_wrong), (1, shifted_head)], ids=["ratings", "aesthetic"]
)
def test_with_data_too(
    place: int, fault: Callable[[Patch], None], shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verify(WITH_DATA[place], shared_data)
    assert found.status == "PASS", found.detail
    fault(monkeypatch)
    assert verify(WITH_DATA[place], shared_data).status == "FAIL"


def test_the_ratings_are_as_many_as_were_published(shared_data: Path) -> None:
    assert verify(WITH_DATA[0], shared_data).figures[0].got == 16_992


def test_verdicts() -> None:
    def broken(data: Path | None) -> list[Figure]:
        raise RuntimeError("no\nway")

    def skipped(data: Path | None) -> list[Figure]:
        raise Skipped("needs it")

    nan = Figure("x", float("nan"), 1.0, 9.0)
    cases: list[tuple[Any, str]] = [
        (lambda data: [Figure("x", 1.1, 1.0, 0.2)], "PASS  a: x 1.1 (expected 1 ± 0.2) [b]"),
        (lambda data: [Figure("x", 1.3, 1.0, 0.2)], "FAIL  a: x 1.3 (expected 1 ± 0.2) [b]"),
        (lambda data: [nan], "FAIL  a: x nan (expected 1 ± 9) [b]"),
        (broken, "FAIL  a: RuntimeError: no way [b]"),
        (skipped, "SKIPPED  a: needs it [b]"),
    ]
    for run, line in cases:
        assert str(verify(Check("a", "b", run), None)) == line
    assert verify(Check("a", "b", lambda data: [nan]), None).to_json()["figures"] == []


def test_the_command(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = cli("verify", "--only", "Kendall", "--json")
    assert good.code == 0, good.err
    assert good.data["counts"] == {"PASS": 1}
    one_pair_wrong(monkeypatch)
    bad = cli("verify", "--only", "Kendall")
    assert bad.code == 1
    assert bad.out.startswith("FAIL  Kendall tau-c pair by pair: tau-c ")
    assert "0 pass, 1 fail, 0 skipped" in bad.err
    assert cli("verify", "--only", "nothing").code == 2
    assert cli("verify", "--data", tmp_path / "none").code == 2
