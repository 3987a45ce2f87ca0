"""Settings that change scores are in a hash of their own, which indexes and records keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Outcome
from PIL import Image
from tiny_clip import tiny_clip_dir

from clipguide.clip.loading import load_scorer
from clipguide.clip.settings_hash import hash_settings, same_settings
from clipguide.retrieval import ImageFolder, WrongModel, open_index, update_index
from clipguide.retrieval.manifest import decode, encode
from clipguide.retrieval.ray_engine import ScorerName


def edit(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def activation(folder: Path) -> None:
    edit(folder / "config.json", lambda v: v["text_config"].update(hidden_act="gelu"))


def mean(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", lambda v: v.update(image_mean=[0.4, 0.5, 0.5]))


def tokens(folder: Path) -> None:
    def swap(value: dict[str, object]) -> None:
        table = value["model"]["vocab"]
        table["d"], table["o"] = table["o"], table["d"]

    edit(folder / "tokenizer.json", swap)


Cli = Callable[..., Outcome]
CHANGES = {"activation": activation, "mean": mean, "tokens": tokens}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_clip_dir(folder)
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_scores_changes_the_hash_and_the_weights_keep_theirs(
    model: Path, name: str
) -> None:
    before, red = load_scorer(model), [Image.new("RGB", (40, 40), "red")]
    vectors = before.encode_text(["a dog"]), before.encode_image(red)
    CHANGES[name](model)
    after = load_scorer(model)
    others = after.encode_text(["a dog"]), after.encode_image(red)
    assert any(not one.equal(other) for one, other in zip(vectors, others, strict=True))
    assert after.content_hash == before.content_hash
    assert after.settings_hash != before.settings_hash
    assert len(after.settings_hash) == 64


def test_layout_order_and_the_library_s_version_do_not_count(model: Path) -> None:
    before = hash_settings(model)
    file = model / "config.json"
    value = {**json.loads(file.read_text()), "transformers_version": "0", "dtype": "float16"}
    file.write_text(json.dumps(dict(reversed(value.items())), indent=7))
    (model / "README.md").write_text("a card")
    (model / "results.json").write_text("{}")
    assert hash_settings(model) == before
    (model / "config.json").unlink()
    assert hash_settings(model) != before


def test_a_hash_that_is_not_known_agrees_with_any() -> None:
    assert same_settings("", "a")
    assert same_settings("a", "")
    assert same_settings("a", "a")
    assert not same_settings("a", "b")


@pytest.fixture
def indexed(model: Path, tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 30), colour).save(photos / f"{number}.png")
    update_index(tmp_path / "index", ImageFolder(photos), load_scorer(model))
    return tmp_path / "index"


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_notices_a_changed_model(model: Path, indexed: Path, name: str, cli: Cli) -> None:
    index = open_index(indexed)
    index.manifest.check(load_scorer(model))
    assert cli("search", indexed, "a dog", "--json").code == 0
    CHANGES[name](model)
    with pytest.raises(WrongModel, match=r"preprocessing|configuration or tokenizer"):
        index.manifest.check(load_scorer(model))
    found = cli("search", indexed, "a dog", "--json")
    assert (found.code, found.out) == (2, "")
    assert "index anew elsewhere" in found.err


def test_an_index_of_before_is_read_and_keeps_its_bytes(model: Path, indexed: Path) -> None:
    manifest = open_index(indexed).manifest
    assert manifest.settings_hash == load_scorer(model).settings_hash
    older = encode(replace(manifest, settings_hash=""))
    assert b"settings_hash" not in older
    read = decode(older, indexed)
    assert encode(read) == older
    activation(model)
    read.check(load_scorer(model))  # nothing to compare with


def test_a_worker_of_ray_notices_it(model: Path) -> None:
    scorer = load_scorer(model)
    named = ScorerName(scorer.name, scorer.content_hash, "cpu", scorer.settings_hash)
    named.load()
    tokens(model)
    with pytest.raises(ValueError, match="other settings than the caller's"):
        named.load()
