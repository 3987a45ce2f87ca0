"""Names and texts of any bytes: nothing is lost, nothing acts on the terminal, JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from clipguide.cli.main import main
from clipguide.texts import MAX_TEXT, check_text, printable

Cli = Callable[..., Outcome]

# what the file system holds -> how it is shown
NAMES = {
    b"latin-\xe9.png": "latin-\\xe9.png",
    b"two\nlines.png": "two\\nlines.png",
    b"clear\x1b[2J.png": "clear\\x1b[2J.png",
    b"c1\xc2\x9b31m.png": "c1\\x9b31m.png",
    "evil\u202egnp.png".encode(): "evil\\u202egnp.png",
    "line\u2028sep.png".encode(): "line\\u2028sep.png",
    b"tab\there.png": "tab\\there.png",
    b"cut-\xf0\x9f\xa6.png": "cut-\\xf0\\x9f\\xa6.png",
    "ein Fuchs 狐 🦊.png".encode(): "ein Fuchs 狐 🦊.png",
    b'quote".png': 'quote".png',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    place = tmp_path / "odd"
    place.mkdir()
    for name in NAMES:
        noise = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        with open(os.path.join(os.fsencode(place), name), "wb") as file:  # noqa: PTH118, PTH123
            Image.fromarray(noise).save(file, format="PNG")
    return place


def unseen(text: str) -> list[str]:
    return [letter for letter in text if not letter.isprintable() and letter != "\n"]


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--prompt", "a fox"],
        ["rerank", "--prompt", "a fox"],
        ["classify", "--labels", "cat,dog"],
    ],
)
def test_every_name_is_in_the_table_and_in_the_json(
    cli: Cli, folder: Path, tiny_models: Path, command: list[str]
) -> None:
    base = [command[0], folder, *command[1:], "--scorer", tiny_models / "clip"]
    done = cli(*base)
    assert done.code == 0, done.err
    assert unseen(done.out) == []
    rows = done.out.splitlines()
    for shown in NAMES.values():
        assert sum(str(folder / shown) in row for row in rows) == 1, shown
    as_json = cli(*base, "--json")
    assert unseen(as_json.out) == []
    as_json.out.encode("utf-8")  # no half characters
    names = {Path(row["image"]).name for row in as_json.data["results"]}
    bytes_shown = {
        name.decode("utf-8", errors="backslashreplace").replace("\\x", "\\x") for name in NAMES
    }
    assert names == bytes_shown


def test_print0_gives_the_names_to_the_byte(
    folder: Path, tiny_models: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    base = ["rerank", str(folder), "--prompt", "x", "--print0"]
    with pytest.raises(SystemExit) as exit_:
        main([*base, "--scorer", f"{tiny_models}/clip"])
    assert exit_.value.code == 0
    printed = capfdbinary.readouterr().out.split(b"\0")
    assert printed[-1] == b""
    assert {os.path.basename(path) for path in printed[:-1]} == set(NAMES)  # noqa: PTH119


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_another_encoding_loses_nothing(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "狐.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "clipguide", "info", str(tmp_path / "狐.png")]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    name = "狐.png" if encoding == "utf-8" else "\\u72d0.png"
    assert name in done.stderr.decode("utf-8")


@pytest.mark.parametrize(
    "command", [["score", "x.png", "--prompt"], ["rerank", "x.png", "--prompt"], ["generate"]]
)
def test_a_prompt_that_is_not_utf8_is_one_line(
    cli: Cli, tmp_path: Path, tiny_models: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("x.png")
    done = cli(*command, "caf\udce9", "--scorer", tiny_models / "clip")
    assert done.code == 2, done
    (line,) = [line for line in done.err.splitlines() if line.startswith("clipguide: ")]
    assert "caf\\xe9, which is not UTF-8" in line


def test_texts_that_no_tokenizer_takes_are_refused() -> None:
    check_text("a" * MAX_TEXT)
    with pytest.raises(ValueError, match=f"caption: got {MAX_TEXT + 1} characters"):
        check_text("a" * (MAX_TEXT + 1), "caption")
    with pytest.raises(ValueError, match=r"\\ud83e, which is not UTF-8"):
        check_text("a\ud83e")


def test_what_is_printable_stays() -> None:
    for text in ("a cat", "Füchse", "狐 🦊", "نمی\u200cخواهم", "👩\u200d🚀", "e\u0301"):
        assert printable(text) == text
    assert printable("a\r\n\x00\x7f\xad\ufeff") == "a\\r\\n\\x00\\x7f\\xad\\ufeff"


def test_json_is_the_same_value_however_it_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    from clipguide.cli.output import emit

    value = {"a\x9b": ["\u2028", 'x"\\', "🦊", "\x7f", {"b": "\u202e"}]}
    emit(value)
    assert json.loads(capsys.readouterr().out) == value


def test_an_interruption_is_one_line(
    cli: Cli, tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    monkeypatch.setattr("clipguide.clip.scorer.Scorer.encode_image", interrupt)
    scorer = ["--scorer", tiny_models / "clip"]
    done = cli("score", tmp_path, "--prompt", "x", *scorer)
    assert (done.code, done.out) == (130, "")
    assert done.err.split("\n")[-2:] == ["clipguide: interrupted", ""]
