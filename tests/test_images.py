"""Loading images: every mode against pixels worked out by hand, every failure one exception."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clipguide.images import (
    ImageError,
    check_images,
    list_images,
    load_image,
    to_pil,
    to_tensor,
)

Array = NDArray[np.uint8]


@pytest.fixture
def colours() -> Array:
    """5 x 7 pixels, no symmetry, extremes included."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels[0, 0], pixels[4, 6] = 0, 255
    return pixels


def _saved(image: Image.Image, path: Path, **options: object) -> Array:
    image.save(path, **options)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    return np.asarray(loaded)


def _over_white(colours: Array, alpha: Array) -> NDArray[np.float64]:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def test_rgb_is_unchanged(colours: Array, tmp_path: Path) -> None:
    assert (_saved(Image.fromarray(colours), tmp_path / "a.png") == colours).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_rgba_lies_over_white(colours: Array, tmp_path: Path, suffix: str) -> None:
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    alpha[0, 0], alpha[4, 6] = 255, 0
    image = Image.fromarray(np.dstack([colours, alpha]))
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    got = _saved(image, tmp_path / f"a{suffix}", **options)
    assert np.abs(got - _over_white(colours, alpha)).max() <= 0.5 + 1e-9


def test_grey_with_alpha_lies_over_white(colours: Array, tmp_path: Path) -> None:
    grey, alpha = colours[..., 0], colours[..., 1]
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    truth = _over_white(np.dstack([grey] * 3), alpha)
    assert np.abs(_saved(image, tmp_path / "a.png") - truth).max() <= 0.5 + 1e-9


def _palette_image(table: Array) -> tuple[Image.Image, NDArray[np.intp]]:
    indices = np.arange(35).reshape(5, 7) % len(table)
    image = Image.fromarray(indices.astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(table.tobytes())
    return image, indices


def test_palette_is_resolved(colours: Array, tmp_path: Path) -> None:
    image, indices = _palette_image(colours[0])
    assert (_saved(image, tmp_path / "a.png") == colours[0][indices]).all()


def test_transparent_palette_entries_are_white(colours: Array, tmp_path: Path) -> None:
    image, indices = _palette_image(colours[0])
    truth = colours[0][indices]
    truth[indices == 3] = 255
    assert (_saved(image, tmp_path / "a.gif", transparency=3) == truth).all()
    half = bytes([255, 255, 255, 0, 128])
    truth = _over_white(colours[0][indices], np.array([*half, 255, 255], np.uint8)[indices])
    got = _saved(image, tmp_path / "a.png", transparency=half)
    assert np.abs(got - truth).max() <= 0.5 + 1e-9


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = np.arange(35).reshape(5, 7) % 3 == 0
    truth = np.where(bits, 255, 0)[..., None]
    assert (_saved(Image.fromarray(bits), tmp_path / "a.png") == truth).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 5 * 7).round().astype(np.uint16).reshape(5, 7)
    got = _saved(Image.fromarray(values), tmp_path / f"a{suffix}")
    assert np.abs(got - values[..., None] / 257).max() <= 0.5
    assert (got[0, 0] == 0).all()
    assert (got[4, 6] == 255).all()


def test_16_bit_transparent_value_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 1001]], np.uint16)
    got = _saved(Image.fromarray(values), tmp_path / "a.png", transparency=1000)
    assert got[0].tolist() == [[0] * 3, [255] * 3, [4] * 3]


def test_32_bit_values_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"got integer values in \[0, 70000\]"):
        load_image(tmp_path / "a.tiff")


def test_floating_point_pixels(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    got = _saved(Image.fromarray(values), tmp_path / "a.tiff")
    assert np.abs(got - 255 * values[..., None]).max() <= 0.5 + 1e-4
    for wrong in (values * 255, values - 0.5, np.full((2, 2), np.nan, np.float32)):
        Image.fromarray(wrong).save(tmp_path / "b.tiff")
        with pytest.raises(ImageError, match=r"floating-point values .* expected \[0, 1\]"):
            load_image(tmp_path / "b.tiff")


def test_cmyk_is_ink_on_white(colours: Array, tmp_path: Path) -> None:
    inks = np.dstack([colours, colours[..., :1] // 2])
    truth = (255.0 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    image = Image.frombytes("CMYK", (7, 5), inks.tobytes())
    assert np.abs(_saved(image, tmp_path / "a.tiff") - truth).max() <= 1


EXIF_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""Orientation -> how the stored pixels are turned for viewing (Exif 2.32, tag 274)."""


@pytest.mark.parametrize("orientation", [*EXIF_TURNS])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_exif_rotation(colours: Array, tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    got = _saved(Image.fromarray(colours), tmp_path / f"a{suffix}", exif=exif, lossless=True)
    assert (got == EXIF_TURNS[orientation](colours)).all()


def test_unreadable_exif_is_no_rotation(colours: Array, tmp_path: Path) -> None:
    image = Image.fromarray(colours)
    assert (_saved(image, tmp_path / "a.png", exif=b"Exif\0\0II*\0junk") == colours).all()


def test_jpeg_exif_rotation_of_a_photo(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # right half white; turned clockwise the lower half is
    exif = Image.Exif()
    exif[274] = 6
    got = _saved(Image.fromarray(pixels), tmp_path / "a.jpg", exif=exif, quality=95)
    assert got.shape == (32, 16, 3)
    assert got[:14].max() < 20
    assert got[18:].min() > 235


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for suffix in (".gif", ".webp", ".png"):
        got = _saved(
            frames[0],
            tmp_path / f"a{suffix}",
            save_all=True,
            append_images=frames[1:],
            lossless=True,
        )
        assert (got == [255, 0, 0]).all()


def test_image_in_memory_is_converted_too(colours: Array) -> None:
    image = Image.fromarray(colours)
    assert load_image(image) is image
    grey = load_image(Image.fromarray(colours[..., 0]))
    assert (np.asarray(grey) == colours[..., :1]).all()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_every_failure_names_path_and_reason(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 90).save(whole)
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        tmp_path / "missing.png": "no such file or directory",
        tmp_path: "not a regular file",
        tmp_path / "pipe.png": "not a regular file",
        _write(tmp_path / "empty.jpg", b""): "the file is empty",
        _write(tmp_path / "text.png", b"hello"): "not an image in one of the formats PNG",
        _write(tmp_path / "cut.png", whole.read_bytes()[:2000]): "cannot be decoded",
        _write(tmp_path / "page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9): "not an image",
    }
    for path, reason in cases.items():
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert caught.value.source == str(path)
        assert caught.value.reason.startswith(reason)
        assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_pixel_cap_is_checked_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (30000, 3000)).save(path)  # 90 megapixels in 11 KB
    with pytest.raises(ImageError, match="got 30000x3000 = 90000000 pixels, expected at most"):
        load_image(path)
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(ImageError, match="expected at most 99"):
        load_image(path, max_pixels=99)


def test_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "empty")))
    assert (error.source, error.reason, str(error)) == ("a.png", "empty", "a.png: empty")


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "sub/deep/d.gif", "note.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "e.png").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    names = ["a.jpg", "b.PNG", "sub/c.webp", "sub/deep/d.gif"]
    assert list_images([tmp_path]) == [tmp_path / name for name in names]
    odd = [tmp_path / "note.txt", tmp_path / "missing.png"]
    assert list_images([*odd, tmp_path, odd[0]]) == [*odd, *(tmp_path / name for name in names)]


def test_tensor_round_trip_is_exact() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = [Image.fromarray(np.dstack([ramp, ramp.T, ramp[::-1]])) for _ in range(2)]
    tensor = to_tensor(images)
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert float(tensor[0, 1, 0, 1]) == pytest.approx(16 / 255)
    for before, after in zip(images, to_pil(tensor), strict=True):
        assert (np.asarray(before) == np.asarray(after)).all()


def test_to_pil_rounds_half_to_even() -> None:
    values = torch.tensor([0.5, 1.5, 2.5, 3.4999]) / 255
    image = to_pil(values.view(1, 1, 1, 4).expand(1, 3, 1, 4))[0]
    assert np.asarray(image)[0, :, 0].tolist() == [0, 2, 2, 3]


def test_images_of_different_sizes_make_no_tensor() -> None:
    sizes = [Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))]
    with pytest.raises(ValueError, match=r"got images of sizes \[\(4, 4\), \(4, 5\)\]"):
        to_tensor(sizes)
    with pytest.raises(ValueError, match="expected one or more"):
        to_tensor([])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"got images of shape \(3, 8, 8\), expected \(B, 3, H, W\)"),
        (torch.rand(1, 4, 8, 8), "expected"),
        (torch.rand(0, 3, 8, 8), "expected"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got images of type torch.uint8"),
        (torch.rand(1, 3, 8, 8) * 255, r"expected \[0, 1\]"),
        (torch.rand(1, 3, 8, 8) * 2 - 1, r"got image values in \[-0\..*expected \[0, 1\]"),
        (torch.full((1, 3, 2, 2), torch.nan), "NaN"),
        (torch.full((1, 3, 2, 2), torch.inf), "infinite"),
    ],
)
def test_a_tensor_that_cannot_be_images_is_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_images(images)
    check_images(torch.rand(2, 3, 8, 8))
