"""The result tables of the pages are made of docs/results, and say what is in there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import CHECKOUT


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """docs/tables.py, which is a script."""
    spec = importlib.util.spec_from_file_location("result_tables", CHECKOUT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_command_makes_of_the_results(tables: ModuleType) -> None:
    names: list[str] = []
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{page}: run `python docs/tables.py`"
        names += re.findall(r"<!-- table: (\w+) -->", text)
    assert sorted(names) == sorted(tables.TABLES)
    assert {file.stem for file in tables.RESULTS.glob("*.json")} == set(names)


@pytest.mark.parametrize("name", ["starter_previews", "starter_ways"])
def test_a_table_says_the_numbers_of_its_file(tables: ModuleType, name: str) -> None:
    """Row by row, read back from the page."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- table: {name} -->")[1].split("<!-- end of table -->")[0]
    lines = shown.strip().splitlines()[2:]
    rows: list[dict[str, Any]] = json.loads((tables.RESULTS / f"{name}.json").read_text())["rows"]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        way, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        numbers = [float(found) for found in re.findall(r"\d*\.?\d+", " ".join(cells))]
        expected = [row["oracle"], *row.get("interval", []), row["unseen"], row["guiding"],
                    row["judge"]]  # fmt: skip
        seconds = row.get("seconds", {})
        expected += [seconds[how] for how in seconds if how == "alone"]
        assert way == row["way"]
        assert [number for number in expected if number not in numbers] == []


def test_every_arm_of_an_experiment_has_its_row(tables: ModuleType, tmp_path: Path) -> None:
    mean = {"mean": 0.5, "interval": [0.41, 0.6], "prompts": 9}
    summary = {
        "baseline": "plain", "headline": "judge", "scorers": ["judge"],
        "arms": {
            "plain": {"means": {"oracle": mean, "judge": mean}, "calls": 50.0},
            "a|b": {"means": {"oracle": mean, "judge": {**mean, "mean": -0.25}}, "calls": 104.0},
        },
        "duels": [
            {"a": "a|b", "b": "plain", "scorer": "judge", "win_rate": 61.2,
             "win_interval": [50.4, 72.0], "p_holm": 0.0123},
            {"a": "a|b", "b": "plain", "scorer": "oracle", "win_rate": 1.0,
             "win_interval": [0.0, 2.0], "p_holm": 1.0},
        ],
    }  # fmt: skip
    assert tables.starter_arms(summary).splitlines()[2:] == [
        "| plain | 50 % (41 to 60) | .500 (.410 to .600) | | | 50 |",
        r"| a\|b | 50 % (41 to 60) | -.250 (.410 to .600) | 61 % (50 to 72) | 0.01 | 104 |",
    ]


def test_a_marker_of_no_table_is_an_error(tables: ModuleType) -> None:
    with pytest.raises(FileNotFoundError):
        tables.filled("<!-- table: none -->\n\n<!-- end of table -->\n")
