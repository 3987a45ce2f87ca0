"""Captions find their images: by path, by end, by stem; what may be two files is told."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from clipguide.data.captions import Caption
from clipguide.data.matching import Matches, match_captions

COMPOSED, APART = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))


def matched(
    names: list[str], files: list[str], root: str = "/d", base: str | None = None
) -> tuple[dict[str, str], Matches]:
    """File -> the name of the caption that it got, and everything else."""
    captions = [Caption(name, name) for name in names]
    paths = [Path(f"/d/{file}") for file in files]
    found = match_captions(captions, paths, [Path(root)], base and Path(base))
    texts = {path.relative_to("/d").as_posix(): some for path, some in found.texts.items()}
    assert all(len(set(some)) == 1 for some in texts.values())
    return {file: some[0] for file, some in texts.items()}, found


# names, files -> which name each file got; the rest is absent
CASES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "one above the other": (
        ["a.png", "s/a.png"], ["a.png", "s/a.png"], {"a.png": "a.png", "s/a.png": "s/a.png"},
    ),
    "case": (["A.png", "a.png"], ["a.png", "A.png"], {"a.png": "a.png", "A.png": "A.png"}),
    "another case is another file": (["A.png"], ["a.png"], {}),
    "both forms": ([COMPOSED, APART], [APART, COMPOSED], {COMPOSED: COMPOSED, APART: APART}),
    "the other form": ([COMPOSED], [APART], {APART: COMPOSED}),
    "a longer end": (["d/a.png"], ["a.png"], {"a.png": "d/a.png"}),
    "absolute": (["/d/s/a.png"], ["s/a.png", "a.png"], {"s/a.png": "/d/s/a.png"}),
    "of another machine": (["/h/s/a.png"], ["s/a.png", "t/a.png"], {"s/a.png": "/h/s/a.png"}),
    "of Windows": (["s\\a.png"], ["s/a.png", "a.png"], {"s/a.png": "s\\a.png"}),
    "through its parent": (["s/../a.png"], ["a.png", "s/a.png"], {"a.png": "s/../a.png"}),
    "a name with a backslash": (["s\\a.png"], ["s\\a.png", "s/a.png"], {"s\\a.png": "s\\a.png"}),
    "an end": (["a.png"], ["s/a.png"], {"s/a.png": "a.png"}),
    "an end that is taken": (["a.png", "s/a.png"], ["s/a.png"], {"s/a.png": "s/a.png"}),
    "two ends of one": (["u/a.png", "v/a.png"], ["s/a.png"], {}),
    "a stem": (["i0", "s/i1"], ["i0.png", "s/i1.jpg"], {"i0.png": "i0", "s/i1.jpg": "s/i1"}),
    "a number": (["391895"], ["391895.jpg"], {"391895.jpg": "391895"}),
    "a stem of two": (["im0"], ["im0.png", "im0.jpg"], {}),
    "a stem with a dot": (["v1.5"], ["v1.5.png", "v1.png"], {"v1.5.png": "v1.5"}),
    "a suffix is none": (["a.png"], ["a.jpg", "a.png.png"], {}),
    "a dot more": (["./a.png"], ["a.png"], {"a.png": "./a.png"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_names_find_their_files(case: str) -> None:
    names, files, expected = CASES[case]
    got, found = matched(names, files)
    assert got == expected
    assert set(found.absent) == set(names) - set(expected.values())
    assert set(found.files) == set(expected.values())


def test_a_name_of_two_files_is_told_with_both() -> None:
    got, found = matched(["a.png"], ["s/a.png", "t/a.png"])
    assert got == {}
    assert found.ambiguous == {"a.png": [Path("/d/s/a.png"), Path("/d/t/a.png")]}
    (line,) = found.notes("c.json")
    assert "/d/s/a.png, /d/t/a.png" in line
    assert "write more of the path" in line


def test_beside_the_captions_and_below_the_root_are_both_meant() -> None:
    files = ["a.png", "s/a.png", "s/b.png"]
    got, found = matched(["a.png", "b.png"], files, base="/d/s")
    assert got == {"s/b.png": "b.png"}
    assert [*found.ambiguous] == ["a.png"]


def test_files_found_by_their_name_are_told() -> None:
    _, found = matched(["/x/a.png", "b.png"], ["a.png", "b.png"])
    assert found.by_name == ["/x/a.png"]
    assert "found by their name, e.g. /x/a.png" in found.notes("c.csv")[0]


def test_relative_absolute_and_linked_paths_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set" / "s").mkdir(parents=True)
    for name in ("a.png", "s/a.png"):
        (tmp_path / "set" / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    spellings = ["set/a.png", str(tmp_path / "set/a.png"), "link/a.png", "a.png", "./set//a.png"]
    for root in (Path("set"), tmp_path / "set", Path("link"), tmp_path / "link"):
        files = [root / "a.png", root / "s" / "a.png"]
        for name in spellings:
            found = match_captions([Caption(name, "x")], files, [root])
            assert found.texts == {files[0]: ["x"]}, (root, name)
            assert not found.by_name


def test_repeated_rows_are_counted_across_spellings() -> None:
    captions = [Caption("a.png", "x"), Caption("/d/a.png", "x"), Caption("a.png", "y")]
    found = match_captions(captions, [Path("/d/a.png")], [Path("/d")])
    assert found.texts == {Path("/d/a.png"): ["x", "x", "y"]}
    assert found.repeated == 1


def test_ten_thousand_files_are_matched_in_one_pass() -> None:
    files = [Path(f"/d/{i % 100}/{i}.png") for i in range(10_000)]
    captions = [Caption(f"{i % 100}{os.sep}{i}.png", "x") for i in range(10_000)]
    assert len(match_captions(captions, files, [Path("/d")]).texts) == 10_000
