"""Masks of a phrase: CLIPSeg against the library's own output, windows against a slow average."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_captioners import tiny_clipseg
from tiny_cross_encoders import SIDE
from transformers import AutoImageProcessor, CLIPSegForImageSegmentation

from clipguide import RegionReward
from clipguide.cli.mask import found_mask
from clipguide.clip.loading import load_scorer
from clipguide.language.segments import (
    NEUTRAL,
    PhraseNotFound,
    WindowSegmenter,
    load_segmenter,
    mask_picture,
    others_of,
    windows,
)
from clipguide.report.metadata import is_composite
from clipguide.rewards.base import Reward


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clipseg(tmp_path_factory.mktemp("clipseg") / "model")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    source = np.random.default_rng(0)
    return [
        Image.fromarray(source.integers(256, size=(40, 48, 3), dtype=np.uint8)) for _ in range(2)
    ]


def test_clipseg_gives_the_librarys_own_probabilities(
    clipseg: Path, images: list[Image.Image]
) -> None:
    found = load_segmenter(f"clipseg:{clipseg}").segment(images, "a red star")
    model = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    assert found.shape == (2, 1, SIDE, SIDE)
    # both at once: the attention of older versions rounds a batch of one otherwise, and this tiny
    # model's large logits make 1e-4 of it
    pixels = AutoImageProcessor.from_pretrained(clipseg)(images, return_tensors="pt")
    ids = torch.tensor([[3, 24, 25, 26, 4]]).expand(2, -1)  # [CLS] a red star [SEP]
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels["pixel_values"]).logits
    for mask, wanted in zip(found[:, 0], logits.sigmoid(), strict=True):
        gone = float(wanted.max()) < 0.5
        assert torch.allclose(mask, torch.zeros_like(wanted) if gone else wanted, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_windows_average_what_shows_each_place(clip_dir: Path, images: list[Image.Image]) -> None:
    scorer = load_scorer(clip_dir)
    found = WindowSegmenter(scorer, ["a dog"]).probabilities(images[:1], "a red ball")[0, 0]
    boxes = windows(40, 48)
    texts = scorer.encode_text(["a red ball", "a dog"])
    values = []
    pixels = np.asarray(images[0]).reshape(-1, 3)
    median = tuple(int(v) for v in np.sort(pixels, axis=0)[(len(pixels) - 1) // 2])
    for top, left, height, width in boxes:
        shown = Image.new("RGB", images[0].size, median)
        shown.paste(images[0].crop((left, top, left + width, top + height)), (left, top))
        logits = scorer.encode_image([shown])[0] @ texts.T * scorer.logit_scale
        values.append(float(logits.softmax(dim=0)[0]))
    whole = np.zeros((40, 48))
    for y in range(40):
        for x in range(48):
            seen = [
                value
                for (top, left, height, width), value in zip(boxes, values, strict=True)
                if top <= y < top + height and left <= x < left + width
            ]
            whole[y, x] = np.mean(seen)
    whole *= max(values) / whole.max()
    # the corners of the grid lie within one pixel of the picture's corners
    assert float(found[0, 0]) == pytest.approx(whole[0, 0], abs=1e-3)
    assert float(found[-1, -1]) == pytest.approx(whole[-1, -1], abs=1e-3)
    assert float(found.mean()) == pytest.approx(whole.mean(), abs=0.01)


def test_a_phrase_that_is_nowhere_has_an_empty_mask_and_a_warning(
    clip_dir: Path, images: list[Image.Image]
) -> None:
    # against itself twice it has a third at most, whatever the weights
    many = WindowSegmenter(load_scorer(clip_dir), ["a red ball", "a red ball"])
    with pytest.warns(PhraseNotFound, match="found 'a red ball' nowhere in image 1"):
        masks = many.segment(images, "a red ball")
    assert masks.shape == (2, 1, 64, 64)
    assert not masks.any()


def test_others_are_the_phrase_in_other_colours() -> None:
    others = others_of("a red hat")
    assert others[0] == NEUTRAL
    assert "a blue hat" in others
    assert "a red hat" not in others
    assert others_of("the hat") == [NEUTRAL]


class _Mean(Reward):
    def __call__(self, images: torch.Tensor, **_: object) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


def test_a_mask_is_a_region_and_a_picture() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:4, 4:8] = 1.0
    images = torch.zeros(1, 3, 16, 16)
    images[..., 4:8, 8:16] = 1.0
    assert float(RegionReward(_Mean(), mask[0])(images)) == pytest.approx(1.0)
    picture = np.asarray(mask_picture(mask, (32, 16)))
    assert picture.shape == (16, 32)
    assert set(np.unique(picture)) == {0, 255}
    assert picture[6, 24] == 255
    assert picture[0, 0] == 0


@given(st.integers(0, 30), st.integers(0, 2**16))
def test_a_mask_grows_by_so_many_pixels(grow: int, seed: int) -> None:
    mask = (torch.rand(1, 9, 7, generator=torch.Generator().manual_seed(seed)) > 0.9).float()
    wanted = np.zeros((9, 7), dtype=bool)
    for y, x in mask[0].nonzero().tolist():
        wanted[max(0, y - grow) : y + grow + 1, max(0, x - grow) : x + grow + 1] = True
    assert ((np.asarray(mask_picture(mask, (7, 9), grow)) == 255) == wanted).all()
    with pytest.raises(ValueError, match="expected pixels, 0 or more"):
        mask_picture(mask, (7, 9), -1)


def test_the_command_writes_a_mask_per_picture(
    clipseg: Path, images: list[Image.Image], tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    images[0].save(tmp_path / "a.png")
    options = ["--segmenter", f"clipseg:{clipseg}", "--out", tmp_path / "masks", "--json"]
    done = cli("segment", tmp_path / "a.png", "a red star", *options)
    assert done.code == 0, done.err
    (row,) = done.data["results"]
    mask = load_segmenter(f"clipseg:{clipseg}").segment(images[:1], "a red star")
    written = np.asarray(Image.open(tmp_path / "masks" / "a.png"))
    assert written.shape == (40, 48)
    assert (written == np.asarray(mask_picture(mask[0], (48, 40)))).all()
    assert row["share"] == pytest.approx((written == 255).mean())
    wide = [*options[:2], "--out", tmp_path / "wide", "--mask-grow", "3"]
    assert cli("segment", tmp_path / "a.png", "a red star", *wide).code == 0
    grown = np.asarray(Image.open(tmp_path / "wide" / "a.png"))
    assert (grown == np.asarray(mask_picture(mask[0], (48, 40), 3))).all()
    again = cli("segment", tmp_path / "a.png", "a red star", *options)
    assert again.code == 2
    assert "which is there and is kept" in again.err
    assert is_composite(tmp_path / "masks" / "a.png")  # no picture of a folder to rerank
    images[0].save(tmp_path / "a.jpg")
    twice = cli("segment", tmp_path, "a red star", *options[:2], "--out", tmp_path / "b")
    assert twice.code == 2
    assert f"would be the mask of {tmp_path / 'a.jpg'} and of {tmp_path / 'a.png'}" in twice.err
    empty = cli("segment", tmp_path / "a.png", " ", *options[:2], "--out", tmp_path / "b")
    assert empty.code == 2
    assert empty.err.count("\n") == 1


def test_every_picture_without_the_phrase_is_named(
    clipseg: Path, images: list[Image.Image], tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    place = shutil.copytree(clipseg, tmp_path / "blind")
    model = CLIPSegForImageSegmentation.from_pretrained(clipseg)
    torch.nn.init.constant_(model.decoder.transposed_convolution.bias, -1e4)
    model.save_pretrained(place)
    for name, image in zip("ab", images, strict=True):
        (tmp_path / "in").mkdir(exist_ok=True)
        image.save(tmp_path / "in" / f"{name}.png")
    options = ["--segmenter", f"clipseg:{place}", "--out", tmp_path / "masks", "--json"]
    done = cli("segment", tmp_path / "in", "a red star", *options)
    assert [row["share"] for row in done.data["results"]] == [0, 0]
    for name in "ab":
        assert f"{name}.png: 'a red star' is nowhere in it" in done.err


def test_generate_takes_a_phrase_for_its_mask(
    clipseg: Path, images: list[Image.Image], tmp_path: Path,
    cli: Callable[..., Outcome],
) -> None:  # fmt: skip
    init = tmp_path / "init.png"
    images[0].save(init)
    name = f"clipseg:{clipseg}"
    model = load_segmenter(name)
    file = found_mask(init, Path("a red star"), name, tmp_path / "out")
    wanted = np.asarray(mask_picture(model.segment(images[:1], "a red star")[0], (48, 40)))
    assert (np.asarray(Image.open(file)) == wanted).all()
    assert is_composite(file)
    assert found_mask(init, Path("a red star"), name, tmp_path / "out") == file  # --resume
    wide = found_mask(init, Path("a red star"), name, tmp_path / "wide", 2)
    grown = np.asarray(mask_picture(model.segment(images[:1], "a red star")[0], (48, 40), 2))
    assert (np.asarray(Image.open(wide)) == grown).all()
    lone = cli("generate", "a red star", "--init", init, "--mask", init, "--mask-grow", "2")
    assert (lone.code, lone.err.count("\n")) == (2, 1)
    assert "expected --segmenter NAME" in lone.err
    Image.new("L", (48, 40)).save(file)
    given = ["generate", "a red star", "--init", init, "--segmenter"]
    for options, words in (
        ([name, "--mask", "a red star", "--out", tmp_path / "out"], "which is kept"),
        ([name, "--mask", init, "--out", tmp_path / "b"], "a file, with --segmenter"),
        ([name, "--out", tmp_path / "b"], "expected --init PICTURE and --mask PHRASE"),
        ([name, "--mask", "", "--out", tmp_path / "b"], "got an empty --mask"),
    ):
        done = cli(*given, *options)
        assert done.code == 2
        assert words in done.err
        assert done.err.count("\n") == 1
