"""Images with captions from files, sidecars and archives; features kept by content."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_backbones import draw, toy_captions
from torch import Tensor

from clipguide.clip.feature_cache import FeatureCache, content_key, fingerprint
from clipguide.data.pairs import Pairs, Picture, from_captions, from_folder, from_tars
from clipguide.images import ImageError
from clipguide.training.features import random_view


def listed(pairs: Pairs) -> list[tuple[str, str]]:
    """(name of the image, caption), in order."""
    names = [Path(picture.name).name for picture in pairs.pictures]
    return [(names[o], text) for o, text in zip(pairs.owners, pairs.captions, strict=True)]


def png() -> bytes:
    file = io.BytesIO()
    draw("red", "ball").save(file, "PNG")
    return file.getvalue()


# --- pairs ---------------------------------------------------------------------------------------


def test_a_split_is_in_the_order_of_its_names(tmp_path: Path) -> None:
    captions = toy_captions(tmp_path)
    names = tmp_path / "dev.txt"
    names.write_text("white_bar.png\nred_ball.png\ngone.png\nred_ball.png\n")
    pairs = from_captions(captions, tmp_path / "images", names)
    assert listed(pairs) == [
        ("white_bar.png", "a white bar"),
        ("white_bar.png", "there is a white bar on a table"),
        ("red_ball.png", "a red ball"),
        ("red_ball.png", "there is a red ball on a table"),
    ]
    assert pairs.notes == (f"{names}: 1 images are not there, e.g. gone.png",)
    assert len(from_captions(captions, tmp_path / "images").captions) == 24


def test_images_and_captions_without_each_other_are_counted(tmp_path: Path) -> None:
    captions = toy_captions(tmp_path)
    (tmp_path / "images" / "red_ball.png").unlink()
    (tmp_path / "images" / "new.png").write_bytes(png())
    notes = from_captions(captions, tmp_path / "images").notes
    assert [note.split(": ")[1] for note in notes] == [
        "1 images are not there, e.g. red_ball.png",
        f"1 images have no caption, e.g. {tmp_path / 'images' / 'new.png'}",
    ]


def test_empty_splits_are_refused(tmp_path: Path) -> None:
    captions = toy_captions(tmp_path)
    names = tmp_path / "dev.txt"
    for text, message in (("\n", "empty split"), ("gone.png\n", "no image with a caption")):
        names.write_text(text)
        with pytest.raises(ValueError, match=message):
            from_captions(captions, tmp_path / "images", names)
    with pytest.raises(ValueError, match="No such file"):
        from_captions(captions, tmp_path / "images", tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="expected a folder"):
        from_folder(tmp_path / "nothing")
    with pytest.raises(ValueError, match="owners outside"):
        Pairs((Picture("a"),), ("b",), (1,))


def test_sidecar_texts_give_a_caption_a_line(tmp_path: Path) -> None:
    draw("red", "ball").save(tmp_path / "a.png")
    draw("red", "box").save(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("a red ball\n\nthe ball\n")
    pairs = from_folder(tmp_path)
    assert listed(pairs) == [("a.png", "a red ball"), ("a.png", "the ball")]
    assert len(pairs.notes) == 1


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_archives_are_read_in_memory(tmp_path: Path) -> None:
    members = {
        "x/001.png": png(), "x/001.txt": b"a red ball\n", "002.png": b"nothing",
        "002.txt": b"a box", "003.txt": b"no image", "../../004.py": b"print()", "001.pyd": b"no",
    }  # fmt: skip
    first = archive(tmp_path / "1.tar", members)
    second = archive(tmp_path / "2.tar", {"x/001.png": png(), "x/001.txt": b"another ball"})
    pairs = from_tars([first, second])
    assert pairs.captions == ("a red ball", "a box", "another ball")
    assert pairs.pictures[0].load().size == (40, 36)
    with pytest.raises(ImageError, match=r"002\.png"):
        pairs.pictures[1].load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.tar", "2.tar"]


def test_archives_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.tar: cannot be read"):
        from_tars([tmp_path / "bad.tar"])
    with pytest.raises(ValueError, match="got no archives"):
        from_tars([])


# --- the cache -----------------------------------------------------------------------------------


def test_a_row_is_computed_once(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(places: list[int]) -> dict[int, Tensor]:
        asked.append(places)
        return {place: torch.tensor([float(place), 1.0]) for place in places}

    keys = [content_key(text) for text in (b"a", b"b", b"a", b"c")]
    cache = FeatureCache(tmp_path, fingerprint(weights="w"))
    assert cache.fill(keys, compute, batch=2) == 3
    assert asked == [[0, 1], [3]]
    again = FeatureCache(tmp_path, fingerprint(weights="w"))
    assert again.fill(keys[::-1], compute) == 0
    assert again.rows(keys)[:, 0].tolist() == [0.0, 1.0, 0.0, 3.0]
    assert FeatureCache(tmp_path, fingerprint(weights="v")).fill(keys, compute) == 3


def test_what_was_kept_before_a_kill_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipguide.clip.feature_cache.PART", 2)
    keys = [content_key(bytes([i])) for i in range(7)]

    def compute(places: list[int]) -> dict[int, Tensor]:
        if 5 in places:
            raise KeyboardInterrupt
        return {place: torch.tensor([float(place)]) for place in places}

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, fingerprint(a=1)).fill(keys, compute, batch=1)
    cache = FeatureCache(tmp_path, fingerprint(a=1))
    assert [key in cache for key in keys] == [True] * 4 + [False] * 3
    assert sum(len(load_file(part)["rows"]) for part in tmp_path.rglob("*.safetensors")) == 4
    with pytest.raises(ValueError, match="got 3 inputs without features"):
        cache.rows(keys)


def test_a_fingerprint_does_not_depend_on_the_order_of_its_parts() -> None:
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=2, b=1)


def test_views_are_decided_by_the_content() -> None:
    image = draw("red", "bar")
    assert random_view(image, "key", 0) is image
    first, again = random_view(image, "key", 1), random_view(image, "key", 1)
    assert first.tobytes() == again.tobytes()
    sizes = {random_view(image, f"{i}", 1).size for i in range(20)}
    assert len(sizes) > 3
    assert all(w * h >= 0.45 * 40 * 36 and w <= 40 and h <= 36 for w, h in sizes)
