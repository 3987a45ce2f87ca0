"""torchmetrics' classes of ours: equal to our functions, in parts, above 77 tokens, for floats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("torchmetrics")

from clipguide import load_scorer
from clipguide.clip.tokens import PromptTruncated
from clipguide.evaluation.metric_classes import CLIPScore, RefCLIPScore
from clipguide.evaluation.reference_scores import clip_scores, ref_clip_scores

IMAGES = torch.rand(5, 3, 40, 32, generator=torch.Generator().manual_seed(0))
BYTES = (IMAGES * 255).round().to(torch.uint8)
CAPTIONS = ["a red star", "a blue ring", "a cross", "two stars", "a star left of a ring"]


def test_means_of_our_own_scores_in_any_parts(clip_dir: Path) -> None:
    scorer = load_scorer(clip_dir)
    pixels = BYTES.float() / 255
    expected = clip_scores(scorer, pixels, CAPTIONS).mean()
    for forms in (pixels, BYTES, [*BYTES], [*pixels]):
        metric = CLIPScore(scorer, "clipscore")
        metric.update(forms[:2], CAPTIONS[:2])
        metric.update(forms[2:], CAPTIONS[2:])
        assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-6)
    metric.reset()
    with pytest.raises(ValueError, match="got no images"):
        metric.compute()
    cosines = scorer.score(pixels, CAPTIONS)
    plain = CLIPScore(str(clip_dir))
    plain.update(BYTES, CAPTIONS)
    assert float(plain.compute()) == pytest.approx(float(100 * cosines.clamp(min=0).mean()))


def test_references(clip_dir: Path) -> None:
    scorer = load_scorer(clip_dir)
    references = [[caption, "a picture"] for caption in reversed(CAPTIONS)]
    metric = RefCLIPScore(scorer)
    metric.update(IMAGES, CAPTIONS, references)
    expected = ref_clip_scores(scorer, IMAGES, CAPTIONS, references).mean()
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-6)


def test_a_caption_above_the_context_keeps_its_end(clip_dir: Path) -> None:
    """The same caption one word longer: the end-of-text token is still what is read."""
    scorer = load_scorer(clip_dir)
    long = " ".join(["star"] * 40)
    ids = scorer.model.tokenize([long])["input_ids"]  # type: ignore[attr-defined]
    assert ids.shape == (1, 77)
    assert int(ids[0, -1]) == scorer.model._tokenizer.eos_token_id  # type: ignore[attr-defined]
    metric = CLIPScore(scorer)
    with pytest.warns(PromptTruncated):
        metric.update(IMAGES[:1], [long])
    vectors = scorer.encode_image(IMAGES[:1]) @ scorer.encode_text(long).T
    assert float(metric.compute()) == pytest.approx(max(0.0, 100 * float(vectors)), abs=1e-4)


def test_an_unknown_convention_is_said_at_once(clip_dir: Path) -> None:
    with pytest.raises(ValueError, match="got convention 'percent'"):
        CLIPScore(load_scorer(clip_dir), "percent")
