"""docs/ says what is true: its commands run as they stand, its links lead somewhere, it builds."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clipguide.generation.experiment import read_experiment

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every block of a page, in order."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def run_block(language: str, text: str, folder: Path) -> None:
    """As a reader would: a file is written, Python is run, each line of a shell is."""
    if language == "toml":
        (name,) = re.findall(r"^# file: (\S+)$", text, re.MULTILINE)
        (folder / name).write_text(text, encoding="utf-8")
        return
    commands = [["-c", text]] if language == "python" else [_module(line) for line in lines(text)]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _module(line: str) -> list[str]:
    program, *arguments = shlex.split(line)
    assert program == "clipguide", line
    return ["-m", "clipguide", *arguments]


@pytest.mark.slow
def test_the_first_steps_run_as_written(tmp_path: Path, starter_assets: Path) -> None:
    found = blocks("first-steps.md")
    assert [language for language, _ in found] == ["sh", "python", "sh", "toml", "sh"]
    for language, text in found:
        run_block(language, text, tmp_path)
    assert (tmp_path / "guided.png").is_file()
    assert [*(tmp_path / "pictures").glob("0000-*.png")]
    assert (tmp_path / "run" / "report.html").stat().st_size > 20_000


def test_the_designs_of_the_guides_are_designs(tmp_path: Path) -> None:
    (tmp_path / "prompts.tsv").write_text("Prompt\tCategory\na red star\tshapes\n")
    designs = [text for language, text in blocks("guides/evaluate.md") if language == "toml"]
    assert designs
    for text in designs:
        (tmp_path / "e.toml").write_text(text)
        names = [arm.name for arm in read_experiment(tmp_path / "e.toml").arms]
        assert "gradients, matched scale" in names


@pytest.mark.parametrize("page", sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if not re.match(r"\w+:", target):
            assert ((DOCS / page).parent / target).exists(), target


def test_messages_of_the_troubleshooting_page_are_messages() -> None:
    code = "\n".join(p.read_text(encoding="utf-8") for p in CHECKOUT.glob("clipguide/**/*.py"))
    code = re.sub(r'"\n\s*f?"', "", code)
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", cell):
            part = max(re.split(r"\.\.\.|\(|\)|model\.safetensors|starter,", message), key=len)
            assert part.strip() in code, message


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no mkdocs (extra docs)")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "guides" / "evaluate.html").is_file()
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "<blockquote>" not in api  # an example's >>> as running text
    assert api.count('<span class="gp">&gt;&gt;&gt; </span>') > 20
