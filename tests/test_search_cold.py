"""A query loads one tower and no library that it does not need, and gets the same answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip_dir
from tiny_index import update

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.towers import NoTower, Tower
from clipguide.retrieval import WrongModel, open_index
from clipguide.retrieval.halves import half_hashes, load_half
from clipguide.retrieval.manifest import preprocess_of

HEAVY = ("transformers", "open_clip", "diffusers", "torchvision", "accelerate")
ASK = f"""
import sys
from clipguide.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("image", [False, True])
def test_a_query_imports_no_model_library(
    place: Path, photos: Path, tiny_scorer: Scorer, image: bool
) -> None:
    update(place, photos, tiny_scorer)
    query = str(photos / "00.png") if image else "a dog"
    command = [sys.executable, "-c", ASK, "search", str(place), query, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    hits = json.loads(done.stdout)["results"][0]["hits"]
    vector = tiny_scorer.encode_image([query]) if image else tiny_scorer.encode_text(query)
    for hit, right in zip(hits, open_index(place).search(vector)[0], strict=True):
        assert hit["path"] == str(photos / right.path)
        assert hit["cosine"] == pytest.approx(right.cosine, abs=1e-6)
        assert hit["probability"] == pytest.approx(right.probability, abs=1e-6)


@pytest.mark.parametrize("name", ["starter", "starter:judge"])
def test_towers_are_those_of_the_whole_model(name: str) -> None:
    whole = load_scorer(name)
    texts = ["a red star", "TWO  blue dogs, one left of the other!", "é 東京", "x " * 60]
    with pytest.warns(UserWarning, match="tokens"):
        alone = load_half(name, "text", whole.preprocess).encode_text(texts)
    with pytest.warns(UserWarning, match="tokens"):
        right = torch.cat([whole.encode_text(text) for text in texts])
    assert torch.allclose(alone, right, atol=1e-6)
    images = torch.rand((2, 3, 70, 90), generator=torch.Generator().manual_seed(3))
    alone = load_half(name, "image", whole.preprocess).encode_image(images)
    assert torch.allclose(alone, whole.encode_image(images), atol=1e-6)
    assert all(half_hashes(whole).values())


def test_a_tower_says_what_it_has_no_rule_for(tmp_path: Path, tiny_scorer: Scorer) -> None:
    folder = tiny_clip_dir(tmp_path / "clip")
    text = Tower("x", folder, "text", tiny_scorer.preprocess)
    with pytest.raises(NoTower, match="special token in a text"):
        text.encode_text(["a dog <|endoftext|> a cat"])
    with pytest.raises(NoTower, match="expected a text"):
        text.encode_image(torch.zeros(1, 3, 32, 32))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(NoTower, match="siglip"):
        Tower("x", folder, "text", tiny_scorer.preprocess)


def test_a_tower_of_other_weights_is_refused(
    place: Path, photos: Path, tiny_scorer: Scorer, tiny_models: Path
) -> None:
    update(place, photos, tiny_scorer)
    manifest = open_index(place).manifest
    other = load_half(str(tiny_models / "judge"), "text", preprocess_of(manifest))
    with pytest.raises(WrongModel, match="weights"):
        manifest.check(other)
    manifest.check(load_half(str(tiny_models / "clip"), "text", preprocess_of(manifest)))


def test_an_index_of_a_model_that_is_not_its_towers_does_without(
    tmp_path: Path, tiny_scorer: Scorer
) -> None:
    """The whole model in memory is not the one on disk: no half passes for it."""
    folder = tiny_clip_dir(tmp_path / "clip")
    scorer = load_scorer(folder)
    with torch.no_grad():
        for weight in scorer.model.module.parameters():
            weight.mul_(1.01)
    assert half_hashes(scorer) == {"text": "", "image": ""}
