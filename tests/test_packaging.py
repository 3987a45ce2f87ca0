"""The package as others see it: its names, its dependencies, what is in the wheel, house rules."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHECKOUT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import clipguide

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PACKAGE = CHECKOUT / "clipguide"
MODULES = sorted(PACKAGE.rglob("*.py"))
# What a distribution is called when it is imported.
IMPORT_NAMES = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}


def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("name", [name for name in clipguide.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(clipguide, name)
    assert value.__name__ == name
    assert len(value.__doc__.strip()) > 40


def test_submodules_do_not_hide_functions_of_the_same_name() -> None:
    importlib.import_module("clipguide.search")
    importlib.import_module("clipguide.rerank")
    assert callable(clipguide.search)
    assert callable(clipguide.rerank)
    from clipguide.search import METHODS

    assert "best_of" in METHODS


FIRST_TWO = {"search": ["pipe", "prompt"], "rerank": ["images", "prompt"]}


@pytest.mark.parametrize("name", [*FIRST_TWO])
@pytest.mark.parametrize("first", ["import clipguide.{0} as s", "import clipguide; clipguide.{0}"])
def test_the_module_and_the_function_are_one(name: str, first: str) -> None:
    """In a process of its own, because the order of imports is what could break it."""
    code = f"""
{first.format(name)}
import inspect, types
import clipguide, clipguide.{name} as s
from clipguide import {name} as public
from clipguide.{name} import {name} as own
assert isinstance(s, types.ModuleType) and s.__file__ and s.__spec__.name == "clipguide.{name}"
assert s is clipguide.{name} is public is own
assert s.METHODS if "{name}" == "search" else s.Ranked
assert [*inspect.signature(s).parameters][:2] == {FIRST_TWO[name]}
try: s([], "", []) if "{name}" == "rerank" else s(None, None, None, budget=0)
except ValueError as error: assert "expected" in str(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clipguide.nothing  # noqa: B018
    assert set(clipguide.__all__) <= set(dir(clipguide))


def test_every_import_is_a_declared_dependency() -> None:
    declared = {line.split(">")[0].split("=")[0] for line in project()["project"]["dependencies"]}
    names = {IMPORT_NAMES.get(name, name) for name in declared}
    used = set[str]().union(*(imported(ast.parse(file.read_text())) for file in MODULES))
    assert used - names - set(sys.stdlib_module_names) - {"clipguide", "tomllib"} == set()


def lowest(lines: list[str]) -> dict[str, Version]:
    """The lowest version of each requirement, names as pip compares them."""
    found: dict[str, Version] = {}
    for requirement in map(Requirement, lines):
        versions = [Version(part.version) for part in requirement.specifier]
        name = canonicalize_name(requirement.name)
        found[name] = min([*versions, *([found[name]] if name in found else [])])
    return found


def test_every_dependency_has_a_lower_bound_that_is_tested() -> None:
    """tests/floor.txt pins what `make test-floor` installs: the lower bounds, each of them."""
    lines = (CHECKOUT / "tests" / "floor.txt").read_text().splitlines()
    pins = [line.split("#")[0] for line in lines if not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    bounds = project()["project"]["dependencies"]
    assert all(">=" in bound for bound in bounds)
    assert lowest(pins) == lowest(bounds)


def test_the_sdist_holds_what_the_tests_read() -> None:
    included = project()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    needed = {"/clipguide", "/pipelines", "/training", "/tests", "/docs", "/Makefile", "/.ci"}
    assert needed | {"/LICENSE", "/CITATION.cff", "/*.md"} <= set(included)


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "type", "license", "authors"} <= citation.keys()
    assert citation["version"] == clipguide.__version__
    assert citation["license"] == project()["project"]["license"]
    changes = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]]+)\]", changes, re.MULTILINE)
    assert sections[0] in ("Unreleased", clipguide.__version__)
    assert clipguide.__version__ in sections


def test_the_wheel_holds_the_package_alone_and_is_typed() -> None:
    assert project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["clipguide"]
    assert (PACKAGE / "py.typed").is_file()
    assert project()["project"]["requires-python"] == ">=3.10"
    assert project()["project"]["scripts"] == {"clipguide": "clipguide.cli:main"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(CHECKOUT)))
def test_house_rules(file: Path) -> None:
    """At most 300 lines a file and 60 a function, a docstring first, no catch-all names."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 300
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [n.name for n in functions if body_lines(n) > 60] == []
    assert file.stem not in ("utils", "common", "core", "helpers", "misc")
    assert ast.get_docstring(tree)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code: a contract in the docstring does not count."""
    first = (
        function.body[1] if ast.get_docstring(function) and function.body[1:] else function.body[0]
    )
    return (function.end_lineno or 0) - first.lineno + 1


def test_the_checkout_names_no_machine() -> None:
    folders = [f"/{top}/" for top in ("work", "root", "opt")]
    words = [*folders, "127.0.0.1:", "pypi.org"]
    kept = [CHECKOUT / "pyproject.toml", CHECKOUT / "Makefile", CHECKOUT / ".ci" / "run", *MODULES]
    found = [(file.name, word) for file in kept for word in words if word in file.read_text()]
    assert found == []
