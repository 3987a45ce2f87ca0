"""What goes to the Hub, listed, written into a folder, and loaded from there."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from pipeline_cases import CASES, EACH, Case, difference, guided, made, quiet

from clipguide.generation.publish import publication


@EACH
def test_every_pipeline_is_sent_as_it_is(case: Case, tmp_path: Path) -> None:
    names = [name for name, _ in publication(str(case.path)).listing(tmp_path)]
    assert names == ["README.md", "pipeline.py"]
    assert (tmp_path / "pipeline.py").read_bytes() == Path(case.path).read_bytes()
    assert case.name in (tmp_path / "README.md").read_text()


def test_a_pipeline_loads_from_what_would_be_sent(clip_dir: Path, tmp_path: Path) -> None:
    """A repository of the Hub is a folder with pipeline.py in it. One of them: diffusers keeps one
    local module of that name in a process."""
    case = CASES[0]
    pipe = made(case, clip_dir)
    expected = guided(case, pipe, (0,)).images
    pipe.save_pretrained(tmp_path / "model")
    sent = tmp_path / "sent"
    sent.mkdir()
    publication(str(case.path)).write(sent)
    loaded = quiet(
        DiffusionPipeline.from_pretrained(
            tmp_path / "model", custom_pipeline=str(sent), trust_remote_code=True
        )
    )
    assert type(loaded).__name__ == case.name
    assert difference(guided(case, loaded, (0,)).images, expected) < 5e-4


def test_the_space_is_ten_lines_that_import_what_there_is(tmp_path: Path) -> None:
    names = [name for name, _ in publication("space").listing(tmp_path)]
    assert names == ["README.md", "app.py", "requirements.txt"]
    app = (tmp_path / "app.py").read_text()
    assert len([line for line in app.splitlines() if line.strip()]) <= 10
    imported = [node for node in ast.parse(app).body if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imported} == {
        "clipguide.generation.settings", "clipguide.web", "clipguide.web.page",
    }  # fmt: skip
    assert "sdk: gradio" in (tmp_path / "README.md").read_text()


def test_a_listing_sends_nothing(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("push", "space", "me/page", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.data["sent"] is None
    assert [row["file"] for row in done.data["files"]] == [
        "README.md", "app.py", "requirements.txt",
    ]  # fmt: skip
    done = cli("push", "space", "me/page", "--out", str(tmp_path / "here"))
    assert done.code == 0, done.err
    assert "nothing was sent" in done.err
    done = cli("push", "space", "me/page", "--out", str(tmp_path / "here"))
    assert done.code == 2
    assert "there is something in it, which is kept" in done.err


@pytest.mark.parametrize(
    ("what", "repository", "message"),
    [
        ("nothing", "me/x", "expected space, a .py file of a custom pipeline, or a scorer"),
        ("space", "page", "expected USER/NAME"),
        ("space", "/page", "expected USER/NAME"),
    ],
)
def test_what_cannot_be_sent(
    cli: Callable[..., Any], what: str, repository: str, message: str
) -> None:
    done = cli("push", what, repository, "--dry-run")
    assert done.code == 2
    assert message in done.err


def test_a_file_with_two_pipelines_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text("class APipeline: ...\nclass BPipeline: ...\n")
    with pytest.raises(ValueError, match="got 2 pipeline classes, expected one"):
        publication(str(file))
