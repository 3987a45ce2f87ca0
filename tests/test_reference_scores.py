"""CLIPScore, RefCLIPScore and similarities against the formula from the scorer's own vectors."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from clipguide.clip.scorer import Scorer
from clipguide.evaluation.reference_scores import (
    clip_scores,
    directional_similarity,
    harmonic_with_references,
    image_similarity,
    ref_clip_scores,
)

COLORS = ("red", "gray", "navy")
IMAGES = [Image.linear_gradient("L").rotate(90 * i).convert("RGB") for i in range(2)]
IMAGES += [Image.new("RGB", (40, 30), COLORS[0])]
CAPTIONS = ["a red fox", "two gray cats", "nothing " * 40]  # the last is cut at 77 tokens
REFERENCES = [["a fox"], ["cats", "two animals", "gray"], ["the sea", "blue"]]


@pytest.mark.filterwarnings("ignore::clipguide.clip.tokens.PromptTruncated")
def test_scores_are_those_of_the_formula(tiny_scorer: Scorer) -> None:
    ours = clip_scores(tiny_scorer, IMAGES, CAPTIONS).tolist()
    with_references = ref_clip_scores(tiny_scorer, IMAGES, CAPTIONS, REFERENCES).tolist()
    for i, caption in enumerate(CAPTIONS):
        image = tiny_scorer.encode_image(IMAGES[i])[0]
        text = tiny_scorer.encode_text(f"A photo depicts {caption}")[0]
        score = 2.5 * max(float(image @ text), 0)
        best = max(
            float(text @ tiny_scorer.encode_text(f"A photo depicts {reference}")[0])
            for reference in REFERENCES[i]
        )
        best = max(best, 0)
        expected = 2 / (1 / score + 1 / best) if score and best else 0.0
        assert ours[i] == pytest.approx(score, abs=1e-6)
        assert with_references[i] == pytest.approx(expected, abs=1e-6)
    assert max(ours) > 0


def test_a_negative_cosine_counts_as_none() -> None:
    found = harmonic_with_references(torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.5, 0.5, -0.2]))
    assert found.tolist() == [0.5, 0.0, 0.0]
    with pytest.raises(ValueError, match="reference cosines that are NaN"):
        harmonic_with_references(torch.tensor([0.5]), torch.tensor([torch.nan]))


def test_similarities_of_images_and_of_edits(tiny_scorer: Scorer) -> None:
    a, b = IMAGES[:2], [IMAGES[2], IMAGES[0]]
    vectors = [tiny_scorer.encode_image(side) for side in (a, b)]
    expected = torch.nn.functional.cosine_similarity(*vectors)
    assert torch.allclose(image_similarity(tiny_scorer, a, b), expected, atol=1e-6)
    texts = (["a cat", "a dog"], ["a red cat", "two dogs"])
    words = [tiny_scorer.encode_text(side) for side in texts]
    edits = torch.nn.functional.cosine_similarity(vectors[1] - vectors[0], words[1] - words[0])
    found = directional_similarity(tiny_scorer, (a, b), texts)
    assert torch.allclose(found, edits, atol=1e-5)


def test_what_does_not_pair_is_said(tiny_scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="got 3 captions, references for 1"):
        ref_clip_scores(tiny_scorer, IMAGES, CAPTIONS, [["a"]])
    with pytest.raises(ValueError, match="as references 1, expected a list"):
        ref_clip_scores(tiny_scorer, IMAGES[:2], CAPTIONS[:2], [["a"], []])
    with pytest.raises(ValueError, match="got 2 and 1 images"):
        image_similarity(tiny_scorer, IMAGES[:2], IMAGES[:1])
    with pytest.raises(ValueError, match="length 0 of edited image 0"):
        directional_similarity(tiny_scorer, (IMAGES[:1], IMAGES[:1]), (["a"], ["b"]))
