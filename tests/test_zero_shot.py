"""Zero-shot classification against a slow, obvious one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_clip import tiny_clip_dir
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.protocol import ClipModel
from clipguide.clip.scorer import TEXT_CACHE, Scorer
from clipguide.zero_shot import TEMPLATES, classify, label_vectors

LABELS = ["fox", "cat", "dog", "a red car"]
TEXTS = ["a photo of a {}.", "{}", "art of the {}, the {}!"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load_scorer(tiny_clip_dir(tmp_path_factory.mktemp("tiny_clip")))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def test_templates_of_openai_are_open_clips() -> None:
    theirs = {template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES}
    assert set(TEMPLATES["openai"]) == theirs
    assert len(TEMPLATES["openai"]) == 80


def test_template_sets_are_openais(shared_data: Path) -> None:
    """By dataset, as OpenAI's own list has them, in any order."""
    text = (shared_data / "prompts" / "openai_clip_prompts.md").read_text(encoding="utf-8")
    names = {name.replace("_", ""): name for name in TEMPLATES}
    names |= {"describabletextures": "dtd", "facialemotionrecognition2013": "fer2013"}
    names |= {"pascalvoc2007": "voc2007"}
    seen = 0
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.split("\n")[0].lower()
        if title in ("kitti", "hatefulmemes"):  # a label alone, and one with a full stop
            continue
        block = re.search(r"templates = \[(.*?)\n\]", section, re.DOTALL)
        assert block is not None
        theirs = re.findall(r"""^\s+(['"])(.*)\1,$""", block[1], re.MULTILINE)
        assert sorted(TEMPLATES[names[title]]) == sorted(line for _, line in theirs), title
        seen += 1
    assert seen == 24


def test_a_scale_replaces_the_models_own(scorer: Scorer, images: Tensor) -> None:
    found = classify(scorer, images, LABELS, scale=7.0)[0]
    powers = [math.exp(7 * prediction.cosine) for prediction in found]
    expected = [power / sum(powers) for power in powers]
    assert [p.probability for p in found] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="scale 0"):
        classify(scorer, images, LABELS, scale=0)


def _slowly(scorer: Scorer, image: Tensor, labels: list[str]) -> list[tuple[float, float]]:
    """(probability, cosine) per label in plain Python."""
    vector = scorer.encode_image(image[None])[0].tolist()
    cosines = []
    for label in labels:
        rows = [scorer.encode_text(t.replace("{}", label))[0].tolist() for t in TEXTS]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        length = math.sqrt(sum(x * x for x in mean))
        cosines.append(sum(x * y / length for x, y in zip(mean, vector, strict=True)))
    powers = [math.exp(scorer.logit_scale * cosine) for cosine in cosines]
    return [(p / sum(powers), cosine) for p, cosine in zip(powers, cosines, strict=True)]


def test_equal_to_the_slow_one(scorer: Scorer, images: Tensor) -> None:
    for image, found in zip(images, classify(scorer, images, LABELS, TEXTS), strict=True):
        truth = dict(zip(LABELS, _slowly(scorer, image, LABELS), strict=True))
        assert [p.label for p in found] == sorted(LABELS, key=lambda label: -truth[label][0])
        for prediction in found:
            expected = truth[prediction.label]
            assert (prediction.probability, prediction.cosine) == pytest.approx(expected, abs=1e-5)


def test_top_k_keeps_probabilities_among_all_labels(scorer: Scorer, images: Tensor) -> None:
    whole = classify(scorer, images, LABELS)
    assert [len(found) for found in whole] == [4, 4, 4]
    assert sum(p.probability for p in whole[0]) == pytest.approx(1)
    assert [found[:1] for found in whole] == classify(scorer, images, LABELS, top_k=1)


def test_label_vectors_are_unit(scorer: Scorer) -> None:
    vectors = label_vectors(scorer, LABELS, "openai")
    assert vectors.shape == (4, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-6)


def test_files_are_classified(scorer: Scorer, tmp_path: Path) -> None:
    from PIL import Image

    Image.effect_noise((40, 40), 90).save(tmp_path / "a.png")
    assert len(classify(scorer, tmp_path / "a.png", LABELS)) == 1


@pytest.mark.parametrize(
    ("labels", "templates", "top_k", "message"),
    [
        ([], "plain", 1, "expected a list of one or more"),
        ("fox", "plain", 1, "expected a list"),
        (["fox", "cat", "fox"], "plain", 1, r"got labels \['fox'\] more than once"),
        (["fox", ""], "plain", 1, "got an empty label"),
        (["fox"], "imagenet", 1, "got templates 'imagenet', expected one of"),
        (["fox"], ["a fox"], 1, "expected texts with {} in them"),
        (["fox"], [], 1, "expected texts"),
        (["fox"], "plain", 0, "got top_k 0"),
    ],
)
def test_what_cannot_be_classified_is_refused(
    scorer: Scorer, labels: list[str], templates: str, top_k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classify(scorer, torch.rand(1, 3, 8, 8), labels, templates, top_k)


def test_labels_are_encoded_once_for_all_batches_of_images(scorer: Scorer, images: Tensor) -> None:
    """1,000 labels and 80 templates are more texts than the scorer's own cache holds."""
    counting: Any = CountingTexts(scorer.model)
    scorer = Scorer(counting)
    labels = [f"thing {number}" for number in range(120)]
    whole = classify(scorer, images, labels, "openai")
    first = counting.texts
    assert first == 120 * 80 > TEXT_CACHE
    parts = [classify(scorer, image[None], labels, "openai")[0] for image in images]
    assert counting.texts == first
    assert [[p.label for p in row] for row in parts] == [[p.label for p in row] for row in whole]
    slow = torch.stack(
        [scorer.encode_text([t.replace("{}", label) for t in TEMPLATES["openai"]]).mean(dim=0)
         for label in labels]
    )  # fmt: skip
    slow = slow / slow.norm(dim=-1, keepdim=True)
    assert torch.allclose(label_vectors(scorer, labels, "openai"), slow, atol=1e-6)
    before = counting.texts
    classify(scorer, images, labels[:3], "openai")  # others are others
    classify(scorer, images, labels[:3], "plain")
    assert counting.texts > before


class CountingTexts:
    """A CLIP that counts the texts that go through its tower."""

    def __init__(self, model: ClipModel) -> None:
        self._model, self.texts = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        self.texts += len(prompts)
        return self._model.encode_text(prompts)
