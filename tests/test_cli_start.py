"""Start-up: help and imports touch none of the heavy libraries. In processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT

HEAVY = ("torch", "diffusers", "transformers", "open_clip", "numpy", "PIL", "huggingface_hub")

WATCH = f"""
import sys
try:
    {{}}
except SystemExit as exit_:
    code = exit_.code
print("loaded:", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""

COMMANDS = (
    "generate", "rerank", "score", "classify", "index", "search", "train", "info", "reproduce",
    "demo", "bench", "doctor", "match", "plot", "verify", "view", "web", "push", "eval", "caption",
    "ask", "segment", "filter",
)  # fmt: skip


def run(statement: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCH.format(statement)]
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True)


@pytest.mark.parametrize(
    "statement",
    [
        "import clipguide; clipguide.__version__; dir(clipguide)",
        "from clipguide.cli import main; main(['--help'])",
        *(f"from clipguide.cli import main; main([{name!r}, '--help'])" for name in COMMANDS),
        "from clipguide.cli import main; main(['generate', 'x', '--no-such-flag'])",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert run(statement).stdout.splitlines()[-1].split() == ["loaded:"]


def test_the_watch_would_notice() -> None:
    assert "torch" in run("import torch").stdout


def test_help_names_every_command() -> None:
    shown = run("from clipguide.cli import main; main(['--help'])").stdout
    listed = shown.split("Commands:")[1]
    assert {*re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE)} == {*COMMANDS}


def test_a_mistake_is_one_line_and_exit_code_2_in_a_real_process() -> None:
    command = [sys.executable, "-m", "clipguide", "info", "/no/such.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "clipguide: /no/such.png: no such file\n"


def test_debug_shows_the_traceback() -> None:
    command = [sys.executable, "-m", "clipguide", "info", "/no/such.png", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
