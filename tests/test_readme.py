"""The README says what is true: its scheduler table is the registry that the tests verify."""

from __future__ import annotations

import re
from pathlib import Path

from clipguide.attach.schedulers import SCHEDULERS

README = Path(__file__).parents[1] / "README.md"


def scheduler_table() -> str:
    """The table as README.md must show it."""
    rows = [f"| `{name}` | {', '.join(rule.predictions)} |" for name, rule in SCHEDULERS.items()]
    return "\n".join(["| scheduler | predictions |", "|---|---|", *rows])


def test_the_scheduler_table_is_the_registry() -> None:
    assert scheduler_table() in README.read_text(encoding="utf-8")


def test_every_local_link_and_picture_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert local
    assert [target for target in local if not (README.parent / target).exists()] == []


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"\b[A-Z]+_TABLE\b", README.read_text(encoding="utf-8")) == []
