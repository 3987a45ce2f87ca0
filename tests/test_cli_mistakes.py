"""Every mistake of a user's: one line that says what and how to mend it, exit code 2."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image

from clipguide.cli.mistakes import explain

Cli = Callable[..., Outcome]

# arguments ({models}, {tmp} are folders) -> what the line must say
MISTAKES: dict[str, tuple[str, list[str]]] = {
    "generate x --strength -1": ("generate x --strength -1", ["strength -1", ">= 0"]),
    "NaN strength": ("generate x --strength nan", ["strength nan", ">= 0"]),
    "strength that is no number": (
        "generate x --strength much",
        ["--strength", "a valid"],
    ),
    "empty prompt": ("generate ,", ["empty prompt"]),
    "no prompt": ("generate", ["Missing argument", "PROMPT"]),
    "unknown flag": ("generate x --stregth 1", ["--stregth", "--strength"]),
    "unknown command": ("generat x", ["generat"]),
    "unknown sampler": ("generate x --sampler eular", ["'eular'", "ddim", "euler_a", "unipc"]),
    "unknown search": ("generate x --search bestof", ["'bestof'", "best_of", "fk"]),
    "unknown mode": ("generate x --mode xy", ["'xy'", "x0", "xt"]),
    "unknown dtype": ("generate x --dtype int8", ["int8", "float32", "bfloat16"]),
    "device out of range": ("generate x --device cpu:3", ["'cpu:3'", "below 1"]),
    "device without a number": ("generate x --device cpu:", ["'cpu:'"]),
    "gradient options alone": (
        "generate x --mode xt --every 2 --strength 0",
        ["--every", "give a --strength above 0"],
    ),
    "a search that finishes too few": (
        "generate x --num 5 --budget 5 --steps 20",
        ["--budget 5", "--steps 20 finishes 3 at most", "raise the budget"],
    ),
    "unknown device": ("generate x --device gpu", ["'gpu'", "cpu"]),
    "unknown device of a scorer": (
        "score {tmp}/good.jpg --prompt x --scorer {models}/clip --device gpu",
        ["'gpu'", "cpu"],
    ),
    "unknown model": (
        "generate x --model nothing --scorer starter",
        ["'nothing'", "starter", "OWNER/NAME"],
    ),
    "hub model that is not there": (
        "generate x --model no-one/nothing --scorer starter",
        ["no-one/nothing"],
    ),
    "model folder without one": (
        "generate x --model {tmp} --scorer starter",
        ["{tmp}", "model_index.json"],
    ),
    "unknown scorer": (
        "generate x --model {models}/pipe --scorer clip",
        ["'clip'", "starter:judge", "open_clip:ARCH/TAG"],
    ),
    "window that is no range": ("generate x --window early", ["--window", "LOW:HIGH"]),
    "window outside 0:1": ("generate x --window 0:14", ["window (0", "high <= 1"]),
    "no steps": ("generate x --steps 0", ["steps 0", "1 or more"]),
    "odd width": ("generate x --width 100", ["width 100", "multiple of 8"]),
    "negative seed": ("generate x --seed -1", ["seed -1"]),
    "no pictures": ("generate x --num 0", ["--num 0", "1 or more"]),
    "more pictures than the search makes": (
        "generate x --search best_of --budget 2 --num 3",
        ["--num 3", "--budget 2"],
    ),
    "comparison of the same": (
        "generate x --strength 0 --search none --compare",
        ["--compare", "--strength", "--search"],
    ),
    "output folder that is a file": (
        "generate x --model {models}/pipe --scorer {models}/clip --out {tmp}/a.txt",
        ["a.txt"],
    ),
    "window without a step": (
        "generate x --model {models}/pipe --scorer {models}/clip --window 0:0 --steps 2",
        ["no step was guided", "window"],
    ),
    "no such folder": ("rerank {tmp}/none --prompt x", ["{tmp}/none", "no such file or folder"]),
    "folder without images": ("rerank {tmp} --prompt x", ["{tmp}", "no image files"]),
    "empty prompt to rank by": ("rerank {tmp}/bad.png --prompt ,", ["empty --prompt"]),
    "only bad images": (
        "score {tmp}/bad.png --prompt x --scorer {models}/clip",
        ["none of the 1 image files can be read"],
    ),
    "neither prompt nor captions": ("score {tmp}", ["--prompt", "--captions"]),
    "both prompt and captions": (
        "score {tmp} --prompt x --captions {tmp}/a.tsv",
        ["--prompt", "--captions"],
    ),
    "unknown convention": (
        "score {tmp} --prompt x --convention percent",
        ["'percent'", "cosine", "clipscore", "torchmetrics", "logit"],
    ),
    "captions without the columns": (
        "score {tmp}/good.jpg --captions {tmp}/a.tsv",
        ["a.tsv", "got columns file, text", "image and caption"],
    ),
    "captions of another kind": ("score {tmp}/good.jpg --captions {tmp}/a.txt", ["'.txt'", ".tsv"]),
    "captions of other images": (
        "score {tmp}/good.jpg --captions {tmp}/b.csv",
        ["b.csv", "none of its images", "elsewhere.jpg"],
    ),
    "one label": ("classify {tmp}/good.jpg --labels cat", ["1 label", "at least two"]),
    "unknown templates": (
        "classify {tmp}/good.jpg --labels a,b --templates mine",
        ["'mine'", "openai", "{{}}"],
    ),
    "matches drawn in no PNG": (
        "match {tmp}/good.jpg --texts {tmp}/a.txt --scorer nothing --out a.jpg",
        ["--out a.jpg", ".png"],
    ),
    "confusion drawn in no PNG": (
        "classify {tmp}/good.jpg --folders --scorer nothing --confusion a.jpg",
        ["--confusion a.jpg", ".png"],
    ),
    "map in no picture": ("plot --captions {tmp}/b.csv --images {tmp} --out a.gif", ["'.gif'"]),
    "metadata of no PNG": ("info {tmp}/good.jpg", ["good.jpg", "not a PNG"]),
    "metadata of nothing": ("info {tmp}/none.png", ["none.png", "no such file"]),
    "reproduction of nothing": ("reproduce {tmp}/none.png", ["none.png", "no such file"]),
    "reproduction without a record": (
        "reproduce {tmp}/bare.png",
        ["bare.png", "no clipguide record"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.jpg")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "bare.png")
    (tmp_path / "a.txt").write_text("not a folder")
    (tmp_path / "a.tsv").write_text("file\ttext\ngood.jpg\ta cat\n")
    (tmp_path / "b.csv").write_text("image,caption\nelsewhere.jpg,a cat\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_and_exit_code_2(
    cli: Cli, folder: Path, tiny_models: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, expected = MISTAKES[name]
    tmp = (
        folder / "empty"
        if name in ("folder without images", "model folder without one")
        else folder
    )
    arguments = [
        "" if part == "," else part.format(tmp=tmp, models=tiny_models) for part in line.split()
    ]
    monkeypatch.chdir(folder)
    done = cli(*arguments)
    assert done.code == 2, done
    lines = [text.strip() for text in re.split(r"[\r\n]", done.err)]
    said = [text for text in lines if text.startswith("clipguide: ")]
    said = [
        text for text in said if not text.startswith(("clipguide: skipped", "clipguide: loading"))
    ]
    assert len(said) == 1, done.err
    assert "Traceback" not in done.err
    for word in expected:
        assert word.format(tmp=tmp) in said[0]
    assert done.out == ""
    assert list(folder.rglob(".partial-*")) == []
    assert list(folder.rglob("0000-*.png")) == []


def test_a_bad_image_among_good_ones_is_named_and_counted(
    cli: Cli, folder: Path, tiny_models: Path
) -> None:
    done = cli("score", folder, "--prompt", "x", "--scorer", tiny_models / "clip", "--json")
    assert done.code == 0
    assert [Path(row["image"]).name for row in done.data["results"]] == ["bare.png", "good.jpg"]
    assert [Path(row["image"]).name for row in done.data["bad"]] == ["bad.png"]
    assert done.data["counts"] == {"images": 3, "good": 2, "bad": 1}
    assert f"skipped {folder / 'bad.png'}: " in done.err
    assert "1 of 3 image files were bad" in done.err


def test_running_out_of_memory_says_what_to_lower() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)  # the allocator's own refusal
    line, code = explain(caught.value)
    assert code == 2
    assert "--batch-size" in line
    assert explain(MemoryError())[0] == line


def test_a_missing_extra_says_how_to_get_it() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__("clipguide_no_such_package")
    assert explain(caught.value) == (
        "clipguide_no_such_package is not installed: pip install clipguide_no_such_package",
        2,
    )


@pytest.mark.parametrize(
    ("code", "word"), [("EACCES", "writable"), ("ENOSPC", "disk is full"), ("ENOENT", "No such")]
)
def test_trouble_with_files_names_them(code: str, word: str) -> None:
    import errno

    number: int = getattr(errno, code)
    line, exit_code = explain(OSError(number, os.strerror(number), "/some/file"))
    assert line.startswith("/some/file: ")
    assert word in line
    assert exit_code == 2


def test_an_error_of_ours_is_not_called_a_mistake() -> None:
    line, code = explain(KeyError("x"))
    assert code == 1
    assert "unexpected KeyError" in line
    assert "--debug" in line


def test_a_decompression_bomb_is_a_bad_image(cli: Cli, tmp_path: Path, tiny_models: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    done = cli("rerank", tmp_path, "--prompt", "x", "--scorer", tiny_models / "clip")
    assert done.code == 2
    assert "bomb.png" in done.err
