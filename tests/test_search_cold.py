"""A query loads one tower and no library that it does not need, and gets the same answer."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
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


def _open_clip_folder(folder: Path, **settings: Any) -> Path:
    import open_clip

    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 2},
        **settings,
    }
    folder.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    table = {"model_cfg": config, "preprocess_cfg": {"size": 32, "mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_text_tower_of_open_clip_is_that_of_the_whole_model(
    tmp_path: Path, quick_gelu: bool
) -> None:
    folder = _open_clip_folder(tmp_path / "clip", quick_gelu=quick_gelu)
    whole = load_scorer(folder)
    alone = load_half(str(folder), "text", whole.preprocess)
    assert not any(name.startswith("vision") for name, _ in alone.model.module.named_parameters())
    for text in (
        "a red star",
        " TWO  blue dogs &amp; a cat's!",
        "é 東京 \N{DOG FACE}",
        "x " * 60,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the long text is cut
            assert torch.allclose(alone.encode_text(text), whole.encode_text(text), atol=1e-6)
    with pytest.raises(NoTower, match="special token"):
        alone.encode_text("a dog <end_of_text> a cat")
    assert alone.settings_hash == whole.settings_hash
    assert half_hashes(whole) == {"text": alone.content_hash, "image": ""}


def test_a_query_of_open_clip_imports_no_model_library(
    place: Path, photos: Path, tmp_path: Path
) -> None:
    scorer = load_scorer(_open_clip_folder(tmp_path / "clip"))
    update(place, photos, scorer)
    command = [sys.executable, "-c", ASK, "search", str(place), "a dog", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    right = open_index(place).search(scorer.encode_text("a dog"))[0]
    hits = json.loads(done.stdout)["results"][0]["hits"]
    assert [hit["path"] for hit in hits] == [str(photos / hit.path) for hit in right]


def test_a_text_tower_of_open_clip_with_other_settings_is_left_to_open_clip(
    tmp_path: Path,
) -> None:
    text = {"context_length": 12, "width": 32, "heads": 2, "layers": 2, "pool_type": "last"}
    folder = _open_clip_folder(tmp_path / "clip", text_cfg=text)
    assert half_hashes(load_scorer(folder))["text"] == ""


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
