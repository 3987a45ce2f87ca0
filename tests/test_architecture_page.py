"""The pages for contributors agree with the tree: the files they name, the layers, the links."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PACKAGE = CHECKOUT / "clipguide"
PAGES = ["docs/architecture.md", "CONTRIBUTING.md", "README.md", "PAPERS.md"]
# a/b.py, tests/test_modes.py, README.md, clipguide/rewards/: a file or folder of the project
FILE = re.compile(r"(?<![\w/.<{*-])(?:[\w-]+/)*[\w-]+\.py\b|(?<![\w/.])clipguide/[\w/]+/(?![\w{*])")
WITH_NAMES = re.compile(r"`([\w/]+\.py)` \(((?:`\w+`(?:, )?)+)\)|`(\w+)` (?:of|in) `([\w/]+\.py)`")


def places(name: str) -> list[Path]:
    """Where a name may be meant to lie: below the checkout, or below the package."""
    return [CHECKOUT / name, PACKAGE / name]


def missing(text: str) -> list[str]:
    return [name for name in FILE.findall(text) if not any(map(Path.exists, places(name)))]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert FILE.search(text)
    assert missing(text) == []


def test_a_file_that_is_not_there_is_found_out() -> None:
    assert missing("`clipguide/attach/update.py`, attach/session.py") == [
        "clipguide/attach/update.py"
    ]
    assert missing("one file in `clipguide/methods/`") == ["clipguide/methods/"]


def defined(file: Path) -> set[str]:
    """The names at the top of a module."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return names


def test_every_name_of_a_how_to_row_is_in_its_file() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    pairs: list[tuple[str, str]] = []
    for file, several, one, its in WITH_NAMES.findall(text):
        pairs += [(file or its, name) for name in ([one] if one else several.strip("`").split("`"))]
    assert len(pairs) >= 5
    found = [(file, name) for file, name in pairs if name not in defined(places(file)[0])]
    assert found == []


def layers() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [row.replace("(", "").replace(")", "") for row in rows]


def test_the_layers_of_the_pages_are_those_that_are_checked() -> None:
    contributing = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"`{' > '.join(layers())}`" in contributing
    drawn = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = drawn.split("## The layers")[1].split("```")[1]
    words = [re.split(r"\s{2,}", line.strip().replace("│", "|"))[0] for line in drawn.splitlines()]
    assert [word for word in words if word not in ("", "▼")] == layers()


def test_the_page_is_linked_from_both_others() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "(docs/architecture.md)" in (CHECKOUT / page).read_text(encoding="utf-8")
