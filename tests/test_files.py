"""Atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipguide.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    sha256_file,
    sha256_tree,
    write_bytes,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".txt"
            assert temporary.parent == path.parent
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write_text(tmp_path / "target.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "target.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "target.txt").read_text() == "new"


def test_text_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "grün\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "grün\r\n".encode()
    write_json(tmp_path / "a.json", {"b": [1, "ü"], "a": None})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "b": [1, "ü"],
        "a": None,
    }
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["a"] is None


_WRITER = """
import sys
from clipguide.files import write_bytes
for turn in range(10**6):
    write_bytes(sys.argv[1], bytes([turn % 256]) * 4_000_000)
    if turn == 0:
        print("started", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for delay in (0.001, 0.004, 0.007, 0.011, 0.017):
        command = [sys.executable, "-c", _WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 4_000_000
        assert len(set(data)) == 1


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one chunk
    write_bytes(tmp_path / "a", data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_sha256_of_a_tree_is_of_names_and_contents(tmp_path: Path) -> None:
    def tree(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            write_text(tmp_path / name / file, text)
        return sha256_tree(tmp_path / name)

    first = tree("one", {"a": "1", "sub/b": "2"})
    assert tree("two", {"sub/b": "2", "a": "1"}) == first
    assert tree("three", {"a": "1", "sub/c": "2"}) != first
    assert tree("four", {"a": "1", "sub/b": "3"}) != first
    (tmp_path / "one" / f"{TEMPORARY_PREFIX}x").write_text("left behind")
    assert sha256_tree(tmp_path / "one") == first
    with pytest.raises(ValueError, match="expected a folder"):
        sha256_tree(tmp_path / "missing")
