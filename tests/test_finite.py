"""A number is finite or it is an error that names the image, the prompt or the weight."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_pipeline
from torch import Tensor

from clipguide.clip.conventions import CONVENTIONS, convert
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.evaluation.agreement import agreement
from clipguide.evaluation.caption_swaps import caption_swaps
from clipguide.evaluation.classification import classification_report
from clipguide.evaluation.confusion import fit_scale
from clipguide.evaluation.recall import retrieval
from clipguide.evaluation.swaps import swap_accuracy
from clipguide.rerank import rerank
from clipguide.retrieval.query import embed_query, parse_query
from clipguide.search import search
from clipguide.search.candidate import Candidate, best_first
from clipguide.zero_shot import best_matches, classify

BAD = [math.nan, math.inf, -math.inf]


def spoiled(folder: Path, to: Path, weight: str, value: float) -> Path:
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    weights[weight].view(-1)[-1] = value
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("weight", ["visual_projection.weight", "logit_scale"])
def test_a_model_with_a_weight_that_is_not_finite_is_refused(
    weight: str, value: float, clip_dir: Path, tmp_path: Path,
    cli: Callable[..., Outcome],
) -> None:  # fmt: skip
    folder = spoiled(clip_dir, tmp_path / "clip", weight, value)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=f"got NaN or infinite values in weight {weight}"):
            load_scorer(folder, dtype=dtype)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    for command in (["score", "--prompt", "x"], ["rerank", "--prompt", "x"],
                    ["classify", "--labels", "a,b"]):  # fmt: skip
        name, *flags = command
        done = cli(name, tmp_path / "a.png", *flags, "--scorer", folder)
        assert done.code == 2
        assert weight in done.err
        assert "nan" not in done.out


def test_a_weight_spoiled_after_loading_is_found_by_what_it_makes(
    clip_dir: Path, tmp_path: Path
) -> None:
    scorer = load_scorer(clip_dir)
    file = tmp_path / "fox.png"
    Image.new("RGB", (20, 20), "red").save(file)
    weights = dict(scorer.model.module.named_parameters())
    kept = weights["visual_projection.weight"].clone()
    weights["visual_projection.weight"].view(-1)[3] = math.nan
    whose = "image .*fox.png .*weight visual_projection.weight"
    for use in (scorer.encode_image, lambda i: scorer.score(i, "x"), lambda i: scorer.similarity(
            i, ["x"]), lambda i: classify(scorer, i, ["x"])):  # fmt: skip
        with pytest.raises(ValueError, match=whose):
            use([file])
    with pytest.raises(ValueError, match="for image 0 "):
        scorer.encode_image(torch.rand(2, 3, 20, 20))
    weights["visual_projection.weight"].copy_(kept)
    assert scorer.encode_image([file]).isfinite().all()
    weights["text_projection.weight"].view(-1)[3] = math.inf
    for _ in range(2):  # and nothing of it is kept
        with pytest.raises(ValueError, match=r"for prompt 'a dog' .*weight text_projection.weight"):
            scorer.encode_text(["a dog"])


def spoil(values: Tensor, place: int, value: float) -> Tensor:
    values = values.clone()
    values.view(-1)[place] = value
    return values


@pytest.mark.parametrize("value", BAD)
def test_metrics_refuse_vectors_and_scores_that_are_not_finite(value: float) -> None:
    good, owners = torch.eye(3), torch.arange(3)
    bad = spoil(good, 4, value)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: retrieval(bad, good, owners), r"image vectors .*first at 1, 1\)"),
        (lambda: retrieval(good, bad, owners), r"caption vectors .*first at 1, 1\)"),
        (lambda: fit_scale(bad, owners), "cosines"),
        (lambda: classification_report(bad, good, owners, "abc"), "cosines"),
        (lambda: classification_report(good, bad, owners, "abc"), "probabilities"),
        (lambda: best_matches(bad, 1.0, 2), "cosines"),
        (
            lambda: agreement([0.1, value, 0.3], [[1], [2], [3]], list("abc")),
            f"score {value} of pair 1",
        ),
        (
            lambda: agreement([0.1, 0.2, 0.3], [[1], [2], [value]], list("abc")),
            f"rating {value} at 2",
        ),
        (lambda: swap_accuracy(bad, [], lambda texts: good), "3 images, expected 0"),
        (lambda: best_first([Candidate(Image.new("RGB", (1, 1)), value, 7)]), "of seed 7"),
        *((lambda name=name: convert(bad, name, 1.0), "cosines") for name in CONVENTIONS),
    ]
    for use, reason in cases:
        with pytest.raises(ValueError, match=reason):
            use()
    with pytest.raises(ValueError, match="image vectors"):
        caption_swaps(bad, [["a dog runs"]] * 3, lambda texts: good, {"dog"})
    with pytest.raises(ValueError, match="caption vectors"):
        caption_swaps(
            good, [["a red dog and a blue cat"]] * 3,
            lambda texts: spoil(torch.ones(len(texts), 3), 0, value), {"dog", "cat"},
        )  # fmt: skip


def test_a_scale_and_a_weight_are_finite(tiny_scorer: Scorer) -> None:
    image = Image.new("RGB", (20, 20))
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"got scale {scale}"):
            classify(tiny_scorer, image, ["a"], scale=scale)
    with pytest.raises(ValueError, match="weights or vectors of query"):
        embed_query(parse_query(f"{'9' * 400}*dog"), tiny_scorer)


def test_images_as_arrays_and_tensors_are_the_same_images(tiny_scorer: Scorer) -> None:
    """PIL's own reading is the truth; values are not touched on the way."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 26, 3), dtype=np.uint8)
    expected = tiny_scorer.encode_image([Image.fromarray(one) for one in pixels])
    floats = pixels.astype(np.float32) / 255
    tensors = [torch.from_numpy(one).permute(2, 0, 1) for one in floats]
    mixed = [pixels[0], tensors[1], Image.fromarray(pixels[2])]
    for same in (pixels, list(pixels), floats, list(floats), tensors, torch.stack(tensors), mixed):
        assert torch.allclose(tiny_scorer.encode_image(same), expected, atol=1e-6)
        assert tiny_scorer.score(same, ["a", "b", "c"]).shape == (3,)
        assert len(classify(tiny_scorer, same, ["a", "b"])) == 3
        ranked = rerank(same, "a", tiny_scorer)
        assert [r.index for r in ranked] == [r.index for r in rerank(pixels, "a", tiny_scorer)]
    one = tiny_scorer.encode_image(pixels[0])
    assert torch.allclose(one, expected[:1], atol=1e-6)
    sizes = [torch.rand(3, 20, 26), torch.rand(3, 30, 20)]
    assert tiny_scorer.encode_image(sizes).shape[0] == 2
    wanted = [tensor.requires_grad_() for tensor in (torch.rand(3, 20, 20), torch.rand(3, 20, 20))]
    tiny_scorer.encode_image(wanted)[:, 0].sum().backward()
    assert wanted[1].grad is not None


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((3, 20, 20)), r"shape \(3, 20, 20\), expected \(H, W, 3\)"),
        (np.zeros((20, 20)), r"expected \(H, W, 3\)"),
        (np.zeros((0, 20, 20, 3)), r"expected \(H, W, 3\)"),
        (np.full((20, 20, 3), 255.0), r"values in \[255, 255\], expected \[0, 1\]"),
        (np.full((20, 20, 3), -0.5), r"expected \[0, 1\]"),
        (np.full((20, 20, 3), math.nan), "NaN or infinite"),
        (np.zeros((20, 20, 3), dtype=np.int64), "array of int64, expected uint8"),
        ([np.zeros((20, 20, 3)), np.full((20, 20, 3), 2.0)], r"image 1: .*expected \[0, 1\]"),
        ([np.zeros((1, 20, 20, 3))], r"image 0: got an array of shape .*expected \(H, W, 3\)"),
        ([torch.zeros(3, 9, 9), torch.full((3, 9, 9), 9.0)], r"image 1: .*expected \[0, 1\]"),
        ([torch.zeros(3, 9, 9, dtype=torch.uint8)], "image 0: .*expected floating point"),
        ([torch.zeros(1, 3, 9, 9)], r"image 0: .*expected \(3, H, W\)"),
        ([None], "image 0: got NoneType, expected a PIL image"),
        (7, "got images of type int"),
        ([], "got no images"),
    ],
)
def test_what_is_no_image_is_refused_at_the_door(
    images: object, reason: str, tiny_scorer: Scorer
) -> None:
    for match in ("pil", "smooth"):
        with pytest.raises(ValueError, match=reason):
            tiny_scorer.encode_image(images, match=match)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["best_of", "prune"])
def test_a_search_names_the_seed_of_a_reward_that_is_not_finite(method: str) -> None:
    def reward(images: Tensor) -> Tensor:
        return spoil(images.mean(dim=(1, 2, 3)), 1, math.nan)

    with pytest.raises(ValueError, match="got reward nan for the image of seed 6"):
        search(
            tiny_pipeline(), "a dog", reward, method, budget=4, seed=5, num_inference_steps=2,
            height=32, width=32,
        )  # fmt: skip
