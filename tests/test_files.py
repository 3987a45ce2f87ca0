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
import torch
from safetensors.torch import save_file

from clipguide.files import (
    TEMPORARY_PREFIX,
    append_lines,
    atomic_path,
    sha256_file,
    sha256_tree,
    write_bytes,
    write_json,
    write_text,
)
from clipguide.unfinished import remove_abandoned


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


# --- what is left behind, permissions, a full disk -----------------------------------------------

_KILLED = """
import os, signal, sys
from clipguide.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_at_the_next_write(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "a.bin")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(TEMPORARY_PREFIX)
    write_text(tmp_path / "b.txt", "x")
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    code = "import sys\nfrom clipguide.files import write_text\nwrite_text(sys.argv[1], 'x')"
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.txt")], check=True)
        write_text(tmp_path / "c.txt", "x")
        remove_abandoned(tmp_path)
        assert temporary.read_text() == "half"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


def test_unfinished_files_of_other_machines_are_left_for_a_day(tmp_path: Path) -> None:
    names = [f"{TEMPORARY_PREFIX}0123abcd-1-{'0' * 12}.png", f"{TEMPORARY_PREFIX}{'0' * 12}"]
    mine = tmp_path / f"{TEMPORARY_PREFIX}of mine.txt"
    for file in (*map(tmp_path.joinpath, names), mine):
        file.touch()
    assert remove_abandoned(tmp_path) == 0
    for file in tmp_path.iterdir():
        os.utime(file, (0, 0))
    assert remove_abandoned(tmp_path) == 2
    assert [*tmp_path.iterdir()] == [mine]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"a": torch.zeros(3)}, temporary)  # makes its files for their owner alone
        (tmp_path / "plain").write_text("x")
        modes = [(tmp_path / name).stat().st_mode for name in ("a.safetensors", "plain")]
        assert modes[0] == modes[1]
        (tmp_path / "a.safetensors").chmod(0o640)
        write_text(tmp_path / "a.safetensors", "x")
        assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


_FULL = """
import json, os, sys
import torch
from PIL import Image
from safetensors.torch import save_file
from clipguide.cli.mistakes import explain
from clipguide.files import append_lines, atomic_path, write_bytes
folder = sys.argv[1]
data = os.urandom(300_000)
image = Image.frombytes("RGB", (300, 300), data[:270_000])
tensor = torch.zeros(100_000)
def through(write):
    with atomic_path(f"{folder}/a.bin") as temporary:
        write(temporary)
writers = {
    "python": lambda: write_bytes(f"{folder}/a.bin", data),
    "pillow": lambda: through(lambda file: image.save(file, format="PNG")),
    "safetensors": lambda: through(lambda file: save_file({"a": tensor}, file)),
    "lines": lambda: append_lines(f"{folder}/a.bin", [data.hex()]),
}
told = {}
for name, write in writers.items():
    try:
        write()
    except Exception as error:
        told[name] = [explain(error)[0], sum(os.stat(e.path).st_size for e in os.scandir(folder))]
print(json.dumps(told))
"""


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    """On a real file system of 128 kB, in a mount namespace of its own."""
    small = 'mount -t tmpfs -o size=128k none "$1" && shift && exec "$@"'
    space = ["unshare", "--map-root-user", "--mount", "sh", "-c", small, "sh", str(tmp_path)]
    try:
        subprocess.run([*space, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces here")
    command = [*space, sys.executable, "-c", _FULL, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = f"{tmp_path}/a.bin: the disk is full: "
    told = json.loads(done.stdout)
    assert [*told] == ["python", "pillow", "safetensors", "lines"]
    for library, (said, left) in told.items():
        assert said.startswith(line), (library, said)
        assert left == 0, library


def test_another_error_stays_itself(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a"):
            (tmp_path / "no folder" / "x").write_text("x")

    with pytest.raises(FileNotFoundError, match="no folder"):
        write()


# --- never over another ---------------------------------------------------------------------------


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    def write(name: str, meanwhile: bool) -> None:
        with atomic_path(tmp_path / name, replace=False) as file:
            file.write_text("late")
            if meanwhile:
                (tmp_path / name).write_text("came meanwhile")

    (tmp_path / "a.png").write_text("mine")
    for name, meanwhile in (("a.png", False), ("b.png", True)):
        with pytest.raises(FileExistsError):
            write(name, meanwhile)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.png": "mine",
        "b.png": "came meanwhile",
    }


_APPEND = """
import sys
from clipguide.files import append_lines
for turn in range(60):
    append_lines(sys.argv[1], [f"{sys.argv[2]} {turn} {'x' * 5000}", f"{sys.argv[2]} end"])
"""


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    commands = [[sys.executable, "-c", _APPEND, str(file), name] for name in "abc"]
    writers = [subprocess.Popen(command) for command in commands]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = file.read_text().splitlines()
    expected = [
        line
        for name in "abc"
        for turn in range(60)
        for line in (f"{name} {turn} {'x' * 5000}", f"{name} end")
    ]
    assert sorted(lines) == sorted(expected)
    pairs = zip(lines[0::2], lines[1::2], strict=True)
    assert all(second == f"{first[0]} end" for first, second in pairs)


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text('{"a": 1}\n{"b"')
    append_lines(file, ['{"c": 3}'])
    assert file.read_text() == '{"a": 1}\n{"b"\n{"c": 3}\n'
