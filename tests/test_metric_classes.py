"""torchmetrics' classes of ours: equal to our functions, in parts, above 77 tokens, for floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


# ------------------------------------------------------ where the library is wrong, side by side


@pytest.fixture(scope="module")
def library(clip_dir: Path) -> Any:
    """(image, text) -> torchmetrics' own CLIPScore of one pair, by its own function.

    On transformers 5 it fails, for the towers return an object; here they return what those of
    transformers 4 did, so that its numbers can be looked at.
    """
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update
    from transformers import CLIPModel, CLIPProcessor

    class Plain(CLIPModel):
        def get_image_features(self, *given: Any, **named: Any) -> Any:
            out = super().get_image_features(*given, **named)
            return getattr(out, "pooler_output", out)

        def get_text_features(self, *given: Any, **named: Any) -> Any:
            out = super().get_text_features(*given, **named)
            return getattr(out, "pooler_output", out)

    model, processor = Plain.from_pretrained(clip_dir), CLIPProcessor.from_pretrained(clip_dir)

    def score(image: torch.Tensor, text: str) -> float:
        return float(_clip_score_update([image], [text], model, processor)[0].detach())

    return score


def ours(scorer: Any, image: torch.Tensor, text: str) -> float:
    """Not clamped at 0, as the library's function before it is."""
    return 100 * float(scorer.score(image[None], text))


def test_a_pair_that_the_library_has_right(clip_dir: Path, library: Any) -> None:
    """8-bit pixels and a short caption: so both mean the same."""
    scorer = load_scorer(clip_dir)
    value = library(BYTES[0], CAPTIONS[0])
    assert ours(scorer, BYTES[0].float() / 255, CAPTIONS[0]) == pytest.approx(value, abs=0.05)


def test_the_library_loses_the_end_of_a_long_caption(clip_dir: Path, library: Any) -> None:
    """It cuts after tokenising, so the end-of-text token, at which CLIP reads, is gone."""
    from transformers import CLIPModel, CLIPTokenizer

    scorer, long = load_scorer(clip_dir), " ".join(["a star left of a ring"] * 20)
    tokens = CLIPTokenizer.from_pretrained(clip_dir)(
        [long], truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        found: Any = CLIPModel.from_pretrained(clip_dir).get_text_features(**tokens)
    text = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
    right = 100 * float(scorer.encode_image(BYTES[:1].float() / 255) @ text.T)
    with pytest.warns(PromptTruncated):
        assert ours(scorer, BYTES[0].float() / 255, long) == pytest.approx(right, abs=1e-3)
    with pytest.warns(UserWarning, match="Will truncate captions"):
        assert abs(library(BYTES[0], long) - right) > 1


def test_the_library_takes_floats_for_bytes(clip_dir: Path, library: Any) -> None:
    """It divides pixels in [0, 1] by 255 once more: every picture is nearly black."""
    scorer = load_scorer(clip_dir)
    as_bytes = library(BYTES[0], CAPTIONS[0])
    floats = BYTES[0].float() / 255
    assert abs(library(floats, CAPTIONS[0]) - as_bytes) > 1
    assert library(floats, CAPTIONS[0]) == pytest.approx(
        library(BYTES[1].float() / 255, CAPTIONS[0]), abs=1
    )
    metric = CLIPScore(scorer)
    metric.update(floats[None], CAPTIONS[:1])
    assert float(metric.compute()) == pytest.approx(max(0.0, as_bytes), abs=0.05)
