"""A few of `model_mutations.py`, and settings that ask for more memory than there is."""

from __future__ import annotations

import json
from pathlib import Path

import model_mutations
import pytest

from clipguide.clip.loading import load_scorer


def test_a_damaged_model_is_refused_or_says_that_it_is_another(tmp_path: Path) -> None:
    told = model_mutations.run(40, tmp_path, seed=7)
    assert {result for _, _, result in told} <= {*model_mutations.GOOD}
    assert {kind for kind, _, _ in told} == {*model_mutations.KINDS}


HUGE = {
    "transformers": ("config.json", "text_config", "vocab_size"),
    "dual": ("dual_encoder.json", "encoder", "embed_dim"),
    "open_clip": ("open_clip_config.json", "model_cfg", "embed_dim"),
    "latent": ("latent_clip.json", "tower", "channels"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_model_that_its_weights_cannot_fill_is_refused(tmp_path: Path, kind: str) -> None:
    """Before: 45 s and 12.9 GB for a vocabulary of 10^8 tokens, then an error of the library."""
    model_mutations.KINDS[kind](tmp_path)
    name, table, key = HUGE[kind]
    settings = json.loads((tmp_path / name).read_text())
    settings[table][key] = 10**8
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"got settings of a model of .* numbers, expected about"):
        load_scorer(tmp_path)


def test_a_latent_tower_of_a_million_layers_is_refused(tmp_path: Path) -> None:
    """Before: half a minute and more of making them."""
    model_mutations.of_latents(tmp_path)
    settings = json.loads((tmp_path / "latent_clip.json").read_text())
    settings["tower"]["layers"] = 10**6
    (tmp_path / "latent_clip.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"got layers 1000000 in latent_clip\.json, expected at"):
        load_scorer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fill", "/tmp"), ("fill", 256), ("fill", True), ("fill", 0.5), ("size", [32, 0.5]),
        ("crop", [32]), ("size", [10**19, 10**19]),
        ("mean", [0.5, 0.5]), ("mean", [0.5, 0.5, "x"]), ("std", [1, 1, 1e999]),
    ],
)  # fmt: skip
def test_a_preprocessing_that_cannot_be_is_refused(tmp_path: Path, key: str, value: object) -> None:
    """Before: a TypeError at the first picture."""
    model_mutations.dual_encoder(tmp_path)
    settings = json.loads((tmp_path / "dual_encoder.json").read_text())
    settings["encoder"]["preprocess"][key] = value
    (tmp_path / "dual_encoder.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"got .*{key}"):
        load_scorer(tmp_path)


def test_a_tokenizer_without_a_token_for_the_unknown_is_named(tmp_path: Path) -> None:
    """Before: a bare Exception of its library."""
    model_mutations.dual_encoder(tmp_path)
    (file,) = tmp_path.rglob("tokenizer_config.json")
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "unk_token": None}))
    with pytest.raises(ValueError, match=r"got a tokenizer that cannot read 'zzzz q' \(WordPiece"):
        load_scorer(tmp_path).encode_text("zzzz q")
