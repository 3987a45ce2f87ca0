"""Preprocessing: the bytes of Pillow, the geometry of torchvision and transformers, gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image
from tiny_clip import CLIPImageProcessorPil, SiglipImageProcessorPil
from torch import Tensor

from clipguide.clip import open_clip_model, transformers_clip
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.resize import FILTERS, Axis, resize, resize_as_pil
from clipguide.images import to_tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPENAI_SIZES = (224, 288, 336, 384, 448)
PIL_FILTERS = {"bilinear": 2, "bicubic": 3, "lanczos": 1}

# (source, target), (height, width): down and up, one axis each way, odd aspects, one pixel.
SIZE_PAIRS = [
    *(((480, 640), (n, round(n * 4 / 3))) for n in OPENAI_SIZES),
    *(((128, 128), (n, n)) for n in OPENAI_SIZES),
    *(((512, 512), (n, n)) for n in OPENAI_SIZES),
    *(((1024, 1024), (n, n)) for n in OPENAI_SIZES),
    *(((333, 217), (n, n)) for n in OPENAI_SIZES),  # taller: Pillow 13 may turn the order round
    *(((97, 600), (n, n)) for n in OPENAI_SIZES),
    *(((700, 31), (n, n)) for n in OPENAI_SIZES),
    *(((n, n), (n, n)) for n in OPENAI_SIZES),
    ((224, 500), (224, 224)),
    ((500, 224), (224, 224)),
    ((1, 1), (224, 224)),
    ((1, 300), (64, 7)),
    ((401, 203), (5, 3)),
    ((202, 167), (6, 114)),
    ((604, 179), (601, 178)),
    ((63, 65), (64, 64)),
]


def _picture(height: int, width: int, seed: int) -> Image.Image:
    """Noise, hard edges and gradients: rounding ties, overshoot and clipping all occur."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3))
    noise[..., 1] = np.where(noise[..., 1] > 127, 255, 0)
    noise[..., 2] = np.linspace(0, 255, height * width).reshape(height, width)
    return Image.fromarray(noise.astype(np.uint8))


def _bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


@pytest.mark.parametrize("interpolation", [*FILTERS])
def test_resize_gives_pillows_bytes(interpolation: str) -> None:
    pairs = SIZE_PAIRS if interpolation == "bicubic" else SIZE_PAIRS[::6]
    for seed, ((height, width), (rows, columns)) in enumerate(pairs):
        picture = _picture(height, width, seed)
        truth = _bytes(picture.resize((columns, rows), PIL_FILTERS[interpolation]))
        axes = Axis(height, rows, 0, rows), Axis(width, columns, 0, columns)
        error = resize_as_pil(_bytes(picture), *axes, interpolation) - truth
        assert float(error.abs().max()) == 0, ((height, width), (rows, columns))


def test_order_of_passes_follows_pillow() -> None:
    """Random sizes in which one axis shrinks: Pillow's order of passes shows in its rounding."""
    rng = random.Random(0)
    for seed in range(40):
        height, width = rng.randint(40, 300), rng.randint(40, 300)
        rows, columns = height - rng.randint(1, 39), width + rng.randint(-39, 39)
        picture = _picture(height, width, seed)
        axes = Axis(height, rows, 0, rows), Axis(width, columns, 0, columns)
        got = resize_as_pil(_bytes(picture), *axes, "bicubic")
        assert torch.equal(got, _bytes(picture.resize((columns, rows), Image.Resampling.BICUBIC)))


def _open_clip(size: int, **settings: Any) -> tuple[Preprocess, Callable[[Image.Image], Tensor]]:
    """Ours, and open_clip's own evaluation transform (torchvision on PIL)."""
    settings = {"size": size, "mean": MEAN, "std": STD, **settings}
    theirs = dict(settings)
    official = image_transform(theirs.pop("size"), is_train=False, **theirs)
    return open_clip_model.read_preprocess(settings), official


def _hugging_face(processor: Any) -> tuple[Preprocess, Callable[[Image.Image], Tensor]]:
    """Ours, and transformers' own processor (PIL backend)."""

    def official(image: Image.Image) -> Tensor:
        return processor(image, return_tensors="pt")["pixel_values"][0]

    return transformers_clip.read_preprocess(processor.to_dict(), "test"), official


def _official() -> Iterator[tuple[str, Preprocess, Callable[[Image.Image], Tensor]]]:
    for size in OPENAI_SIZES:
        yield f"open_clip {size}", *_open_clip(size)
    yield "open_clip squash", *_open_clip(256, resize_mode="squash", interpolation="bilinear")
    yield "open_clip longest", *_open_clip(240, resize_mode="longest", fill_color=127)
    yield "open_clip 224x336", *_open_clip((224, 336))  # type: ignore[arg-type]
    for size in OPENAI_SIZES:
        crop = {"height": size, "width": size}
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=crop)
        yield f"transformers CLIP {size}", *_hugging_face(processor)
    resized_then_cropped = CLIPImageProcessorPil(
        size={"shortest_edge": 249}, crop_size={"height": 224, "width": 224}
    )
    yield "transformers CLIP 249 to 224", *_hugging_face(resized_then_cropped)
    yield "transformers SigLIP", *_hugging_face(SiglipImageProcessorPil())


OFFICIAL = list(_official())
# Odd margins of both parities, so that "half to even", "floor" and truncation are told apart.
SOURCES = [(480, 640), (224, 227), (229, 224), (301, 499), (600, 97), (128, 128), (50, 31)]


@pytest.mark.parametrize(("name", "ours", "official"), OFFICIAL, ids=[row[0] for row in OFFICIAL])
def test_equal_to_the_librarys_own_preprocess(
    name: str, ours: Preprocess, official: Callable[[Image.Image], Tensor]
) -> None:
    for seed, (height, width) in enumerate(SOURCES):
        picture = _picture(height, width, seed)
        truth = official(picture)
        from_tensor = ours(to_tensor(picture))[0]
        from_pil = ours.normalize(ours.from_pil(picture).float() / 255)
        assert from_tensor.shape == truth.shape
        # 1e-5 is float rounding; one step of 1/255 is 0.0146 here
        assert float((from_tensor - truth).abs().max()) < 1e-5, (name, height, width)
        assert float((from_pil - truth).abs().max()) < 1e-5, (name, height, width)


def test_extreme_aspect_is_computed_on_the_crop_alone() -> None:
    ours = Preprocess((224, 224), (224, 224), MEAN, STD)
    picture = _picture(3, 1200, 0)  # resized in whole: 224 x 89,600 = 20 megapixels
    truth = picture.resize((89600, 224), Image.Resampling.BICUBIC)
    left = round((89600 - 224) / 2)
    truth = truth.crop((left, 0, left + 224, 224))
    assert torch.equal(ours.from_pil(picture).float(), _bytes(truth))


def test_float_images_are_rounded_as_they_would_be_saved() -> None:
    ours = Preprocess((32, 32), (32, 32), MEAN, STD)
    whole = torch.randint(0, 256, (2, 3, 50, 40)).float()
    nudged = (whole + torch.empty_like(whole).uniform_(-0.49, 0.49)).clamp(0, 255)
    assert torch.equal(ours(whole / 255), ours(nudged / 255))


def test_smooth_is_the_same_up_to_rounding() -> None:
    """On a smooth picture, where nothing is clipped, only the roundings to 8 bits differ."""
    ours = Preprocess((32, 32), (32, 32), (0.0,) * 3, (1.0,) * 3)
    ramp = torch.linspace(0.1, 0.9, 100).expand(1, 3, 80, 100)
    difference = 255 * (ours(ramp, "smooth") - ours(ramp)).abs()
    assert 0 < float(difference.max()) < 2


def test_gradients_in_float64() -> None:
    ours = Preprocess((4, 4), (4, 3), MEAN, STD)
    for shape in ((2, 3, 7, 5), (1, 3, 3, 2)):  # down, up
        images = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: ours(x, "smooth"), images)
        assert torch.autograd.gradgradcheck(lambda x: ours(x, "smooth"), images)


def test_gradient_of_pil_passes_the_roundings_and_stops_at_clipping() -> None:
    """Against float64 finite differences of the same passes with clipping but no rounding."""
    ours = Preprocess((6, 6), (6, 6), (0.0,) * 3, (1.0,) * 3)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 9, 13, dtype=torch.float64, generator=generator)
    images[..., :4] = images[..., :4].round()  # hard edges overshoot and are clipped
    rows, columns = ours.axes((9, 13))
    identity = Axis(6, 6, 0, 6)

    def unrounded(x: Tensor) -> Tensor:
        across = resize(x, Axis(9, 9, 0, 9), columns, "bicubic").clamp(0, 1)
        return resize(across, rows, identity, "bicubic").clamp(0, 1)

    clipped = resize(images, Axis(9, 9, 0, 9), columns, "bicubic")
    assert bool(((clipped < 0) | (clipped > 1)).any())
    weights = torch.rand(1, 3, 6, 6, dtype=torch.float64, generator=generator)
    x = images.requires_grad_()
    (got,) = torch.autograd.grad((weights * ours(x)).sum(), x)
    (want,) = torch.autograd.grad((weights * unrounded(x)).sum(), x)
    # a pixel that rounding carries onto the bound may be clipped in one and not in the other
    agree = (got - want).abs() < 1e-9
    assert float(agree.double().mean()) > 0.9
    assert torch.autograd.gradcheck(unrounded, x)


def test_types() -> None:
    ours = Preprocess((8, 8), (8, 8), MEAN, STD)
    images = torch.rand(1, 3, 16, 16)
    assert ours(images.double()).dtype == torch.float64
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert ours(images.to(dtype)).dtype == torch.float32
        assert ours(images.to(dtype), "smooth").dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": "stretch"}, "got resize 'stretch', expected one of"),
        ({"interpolation": "nearest"}, "got interpolation 'nearest'"),
        ({"center": "up"}, "got center 'up'"),
        ({"size": (0, 8)}, "whole numbers of 1 to 32768"),
        ({"std": (1.0, 0.0, 1.0)}, "expected positive"),
    ],
)
def test_settings_without_a_rule_are_refused(change: dict[str, Any], message: str) -> None:
    settings = {"size": (8, 8), "crop": (8, 8), "mean": MEAN, "std": STD, **change}
    with pytest.raises(ValueError, match=message):
        Preprocess(**settings)


def test_unknown_match_is_refused() -> None:
    with pytest.raises(ValueError, match="got match 'float'"):
        Preprocess((8, 8), (8, 8), MEAN, STD)(torch.rand(1, 3, 8, 8), "float")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_rescale": False}, "expected both"),
        ({"rescale_factor": 1 / 127.5}, "expected 1/255"),
        ({"do_pad": True}, "pads"),
        ({"resample": 0}, "got resample 0"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "expected shortest_edge"),
    ],
)
def test_processors_without_a_rule_are_refused(change: dict[str, Any], message: str) -> None:
    settings = {**CLIPImageProcessorPil().to_dict(), **change}
    with pytest.raises(ValueError, match=f"tiny: .*{message}"):
        transformers_clip.read_preprocess(settings, "tiny")
