"""Settings files that are hostile or strange: YAML and TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipguide.training.config import read_config
from clipguide.training.config_file import MAX_BYTES, parse_file

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "got more than 10000 values"),
        (MERGES, "got more than 10000 values"),
        ("a: &a [1, *a]", "got a YAML alias of what it is part of"),
        ("a: &a {b: *a}", "got a YAML alias of what it is part of"),
        ("a: 1\nb: 2\na: 3", "line 3: got key a twice"),
        ("1: x", "line 1: got key '1', expected a text"),
        ("? [a, b]\n: x", "expected a text"),
        ("a: " + "[" * 20_000, "nested too deep"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("", "got no table"),
        ("- a", "got no table"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: '" + "x" * MAX_BYTES + "'", "got more than 1048576 bytes"),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        parse_file(file)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 20_000, "nested too deep"),
        ("a = '" + "x" * MAX_BYTES + "'", "got more than 1048576 bytes"),
        ("a = 1\na = 2", "Can ?not overwrite a value"),
    ],
)
def test_hostile_toml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_file(file)


def test_aliases_and_merges_of_an_honest_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\n")
    assert parse_file(file) == {
        "base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 3}, "two": {"x": 1, "y": 2},
    }  # fmt: skip


def test_yaml_numbers_that_are_none_are_refused(toys: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        f"output: out\nroot: {toys}\ndata:\n"
        "  train: {captions: captions.tsv, images: images}\n"
        "  dev: {captions: captions.tsv, images: images}\n"
        "train: {weight_decay: .nan}\n"
    )
    with pytest.raises(
        ValueError, match=r"got train\.weight_decay nan, expected from 0, up to 1000"
    ):
        read_config(file)
