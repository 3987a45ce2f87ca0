"""Several processes give the files of one, and a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHECKOUT, Outcome
from PIL import Image
from safetensors.torch import load_file, save_file
from several_processes import run_commands

from clipguide.cli import run_job
from clipguide.report.metadata import read_metadata

Cli = Callable[..., Outcome]
PROMPTS = ["a red fox", "b", "a b", "fox", "a"]


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None]:
    """Bits depend on it, and accelerate's processes have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(tiny_models: Path, tmp_path: Path) -> Callable[..., list[object]]:
    """`generate` of five prompts, in searches of two at a time."""
    base = ["generate", *PROMPTS, "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    base += ["--steps", 2, "--search", "best_of", "--budget", 2, "--num", 2, "--batch-size", 2]

    def make(out: str, *more: object) -> list[object]:
        return [*base, "--out", tmp_path / out, "--json", *more]

    return make


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_two_processes_give_the_files_of_one(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path
) -> None:
    alone = cli(*command("alone", "--compare"))
    assert alone.code == 0, alone.err
    codes = run_commands(2, command("both", "--compare"), tmp_path / "logs")
    assert codes == [0, 0], (tmp_path / "logs" / "0.err").read_text()
    assert pictures(tmp_path / "both") == pictures(tmp_path / "alone")
    assert rows(tmp_path / "both") == rows(tmp_path / "alone")
    assert len(rows(tmp_path / "both")) == 20
    printed = json.loads((tmp_path / "logs" / "0.out").read_text())
    assert [row["file"] for row in printed["results"]] == [
        row["file"] for row in alone.data["results"]
    ]
    assert (tmp_path / "logs" / "1.out").read_text() == ""


def dies_at_its_third_picture(rank: int) -> None:
    """Process 1 is killed in the middle of its first batch of four pictures."""
    if rank == 0:
        return
    write, calls = run_job.save_png, [0]

    def killed(*arguments: Any, **more: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments, **more)

    run_job.save_png = killed  # type: ignore[assignment]


def test_a_killed_run_goes_on(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path
) -> None:
    assert cli(*command("whole")).code == 0
    codes = run_commands(2, command("out"), tmp_path / "logs", dies_at_its_third_picture)
    assert codes[1] == -signal.SIGKILL
    out = tmp_path / "out"
    made = {name: (out / name).stat().st_mtime_ns for name in pictures(out)}
    assert 2 <= len(made) < 10
    codes = run_commands(2, command("out", "--resume"), tmp_path / "logs")
    assert codes == [0, 0], (tmp_path / "logs" / "0.err").read_text()
    assert pictures(out) == pictures(tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")
    for name, when in made.items():  # no picture is made twice
        assert (out / name).stat().st_mtime_ns == when
    again = cli(*command("out", "--resume"))  # nothing is left to do, and no model is loaded
    assert "loading" not in again.err
    assert len(again.data["results"]) == 10
    assert rows(out) == rows(tmp_path / "whole")


def test_resume_takes_its_own_pictures_alone(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path, tiny_models: Path
) -> None:
    """Of another seed, or other settings, nothing is kept; of other weights it is said."""
    assert cli(*command("out")).code == 0
    assert len(pictures(tmp_path / "out")) == 11
    for more in (["--seed", 5], ["--budget", 3], ["--negative", "b"]):
        before = len(rows(tmp_path / "out"))
        assert cli(*command("out", *more, "--resume")).code == 0
        assert len(rows(tmp_path / "out")) == before + 10, more
    (tmp_path / "out" / "0000-a-red-fox.png").unlink()
    weights = tiny_models / "clip" / "model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    save_file({name: value * 1.5 for name, value in tensors.items()}, weights)
    try:
        done = cli(*command("out", "--resume"))
    finally:
        weights.write_bytes(before)
    assert (done.code, "with other models than" in done.err) == (2, True), done.err
    done = cli(*command("out", "--resume", "--no-metadata"))
    assert (done.code, "leave out --no-metadata" in done.err) == (2, True)


def test_a_picture_s_file_says_nothing_of_the_machine_s_speed(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path
) -> None:
    done = cli(*command("out"))
    assert len(done.data["seconds"]) == 10
    assert min(done.data["seconds"]) > 0
    for row in done.data["results"]:
        record = read_metadata(tmp_path / "out" / row["file"]).record or {}
        assert record == {k: v for k, v in row.items() if k != "file"}
        assert "seconds" not in record


@pytest.mark.parametrize(
    "more",
    [
        ["score", "--prompt", "a fox"],
        ["rerank", "--prompt", "a fox", "--diversity", 0.3],
    ],
)
def test_scores_and_ranks_of_two_processes_are_those_of_one(
    cli: Cli, tiny_models: Path, tmp_path: Path, more: list[object]
) -> None:
    """Three parts of a folder, one of them with a file that is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for place in range(70):
        noise = random.integers(0, 256, (5 + place % 3, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{place:02}.png")
    (folder / "33.png").write_bytes(b"no picture")
    told = [more[0], folder, *more[1:], "--scorer", tiny_models / "clip", "--json"]
    alone = cli(*told)
    assert alone.code == 0, alone.err
    codes = run_commands(2, told, tmp_path / "logs")
    assert codes == [0, 0], (tmp_path / "logs" / "0.err").read_text()
    assert (tmp_path / "logs" / "0.out").read_text() == alone.out
    assert (tmp_path / "logs" / "1.out").read_text() == ""
    assert len(alone.data["results"]) == 69
    assert alone.data["counts"] == {"images": 70, "good": 69, "bad": 1}


def dies_at_its_second_picture(rank: int) -> None:
    if rank == 0:
        return
    from clipguide.generation import arm_job

    write, calls = arm_job.save_png, [0]

    def killed(*arguments: Any, **more: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments, **more)

    arm_job.save_png = killed  # type: ignore[assignment]


def test_an_experiment_of_two_processes_goes_on_after_a_kill(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    """The arm's pictures and the summary are those of one process; a failing arm is reported."""
    design = f"""
prompts = {json.dumps(PROMPTS)}
judges = ["{tiny_models / "judge"}"]
controls = false
[defaults]
model = "{tiny_models / "pipe"}"
scorer = "{tiny_models / "clip"}"
steps = 2
guidance = {{ strength = 0 }}
[arms.plain]
[arms.best]
search = "best_of"
budget = 2
[arms.fails]
search = "fk"
sampler = "ddim"
"""
    file = tmp_path / "experiment.toml"
    file.write_text(design)
    alone = cli("eval", "run", file, "--out", tmp_path / "alone", "--json")
    assert alone.code == 0, alone.err
    told = ["eval", "run", file, "--out", tmp_path / "both", "--json"]
    codes = run_commands(2, told, tmp_path / "logs", dies_at_its_second_picture)
    assert codes[1] == -signal.SIGKILL
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "both" / "arms").rglob("*.png")}
    assert 0 < len(before) < 10
    assert run_commands(2, told, tmp_path / "logs") == [0, 0]
    one, two = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("alone", "both")
    )
    assert one == two
    arms = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*.png")}
        for root in (tmp_path / "alone" / "arms", tmp_path / "both" / "arms")
    ]
    assert arms[0] == arms[1]
    assert len(arms[0]) == 10 + 4  # of four pictures without a search their previews too
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())
    assert "fails failed" in alone.err
    assert "fails failed" in (tmp_path / "logs" / "0.err").read_text()


def test_a_failure_is_every_process_s(command: Callable[..., list[object]], tmp_path: Path) -> None:
    wrong = command("out", "--search", "fk", "--budget", 2, "--sampler", "ddim")
    codes = run_commands(2, wrong, tmp_path / "logs")
    assert codes == [2, 2]
    for rank in (0, 1):
        assert "--sampler ddpm" in (tmp_path / "logs" / f"{rank}.err").read_text()


@pytest.mark.slow
def test_accelerate_launch_gives_the_files_of_one_process(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path
) -> None:
    assert cli(*command("alone")).code == 0
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    told = [str(part) for part in command("both")]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "clipguide", *told],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 10
    assert pictures(tmp_path / "both") == pictures(tmp_path / "alone")


@pytest.mark.slow
def test_ray_gives_the_files_of_one_process(
    cli: Cli, command: Callable[..., list[object]], tmp_path: Path
) -> None:
    """Also of a run that goes on."""
    pytest.importorskip("ray.data", reason="needs ray: pip install 'clipguide[scale]'")
    assert cli(*command("alone")).code == 0
    done = cli(*command("ray", "--engine", "ray"))
    assert done.code == 0, done.err
    assert pictures(tmp_path / "ray") == pictures(tmp_path / "alone")
    assert rows(tmp_path / "ray") == rows(tmp_path / "alone")
    shutil.rmtree(tmp_path / "ray")
    shutil.copytree(tmp_path / "alone", tmp_path / "ray")
    (tmp_path / "ray" / "contact_sheet.png").unlink()
    for name in ("0003-b.png", "0009-a.png"):
        (tmp_path / "ray" / name).unlink()
    assert cli(*command("ray", "--engine", "ray", "--resume")).code == 0
    assert pictures(tmp_path / "ray") == pictures(tmp_path / "alone")
    assert rows(tmp_path / "ray") == rows(tmp_path / "alone")
