"""The documents say what is true: their tables are the registries that the tests verify."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from families.registry import FAMILIES
from families.table import pipeline_table
from scheduler_cases import NEEDS_TORCHSDE, available, document

from clipguide.attach.layouts import REFUSED
from clipguide.attach.schedulers import SCHEDULERS

README = Path(__file__).parents[1] / "README.md"
TABLE = README.parent / "docs" / "schedulers.md"


def figures() -> dict[str, str]:
    """Scheduler -> its largest difference, as docs/schedulers.md has it."""
    found = re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", TABLE.read_text(encoding="utf-8"), re.M)
    return {name: figure for name, figure in found if name in SCHEDULERS}


def test_the_scheduler_table_is_the_registry_of_the_tests() -> None:
    if not all(map(available, NEEDS_TORCHSDE)):
        pytest.skip("torchsde is not installed: two schedulers cannot be built")
    assert TABLE.read_text(encoding="utf-8") == document(figures())
    assert figures().keys() == SCHEDULERS.keys()
    assert max(map(float, figures().values())) < 1e-5


def test_the_verified_schedulers_are_named() -> None:
    text = README.read_text(encoding="utf-8")
    assert [n for n in SCHEDULERS if f"`{n.removesuffix('Scheduler')}`" not in text] == []


def test_the_table_of_pipelines_is_the_registry() -> None:
    text = README.read_text(encoding="utf-8")
    assert pipeline_table(FAMILIES) in text
    for refused in REFUSED:
        assert f"`{refused}`" in text


def test_every_local_link_and_picture_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert local
    assert [target for target in local if not (README.parent / target).exists()] == []


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"\b[A-Z]+_TABLE\b", README.read_text(encoding="utf-8")) == []
