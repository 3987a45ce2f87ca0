"""Which run may go on where: none there, one of other settings, one that was moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from tiny_training import toy_run

from clipguide.training.run_files import CONFIG, STATE


def test_nothing_to_resume_is_said(toys: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "never", tmp_path):
        with pytest.raises(ValueError, match=f"{place}: got no run to resume"):
            toy_run(toys, place).train(resume=True)
        assert not (place / STATE).exists()


def test_a_run_killed_before_its_first_checkpoint_is_resumed(toys: Path, tmp_path: Path) -> None:
    toy_run(toys, tmp_path / "whole", epochs=1).train()
    (tmp_path / "killed").mkdir()
    shutil.copy(tmp_path / "whole" / CONFIG, tmp_path / "killed")
    with pytest.raises(ValueError, match=r"another train\.epochs \(2, it has 1\)"):
        toy_run(toys, tmp_path / "killed", epochs=2).train(resume=True)
    toy_run(toys, tmp_path / "killed", epochs=1).train(resume=True)
    states = [(tmp_path / name / STATE).read_bytes() for name in ("whole", "killed")]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("train.seed=5", "train.seed (5, it has 0)"),
        ("model.embed_dim=4", "model.embed_dim (4, it has 8)"),
        ("data.train.names=names.txt", "data.train.names ('names.txt', it has '')"),
    ],
)
def test_a_changed_setting_is_named(toys: Path, tmp_path: Path, change: str, key: str) -> None:
    folder = tmp_path / "toys"
    shutil.copytree(toys, folder)
    (folder / "names.txt").write_text("\n".join(p.name for p in (folder / "images").iterdir()))
    toy_run(folder, tmp_path / "out", epochs=1).train()
    with pytest.raises(ValueError, match=r"got another .* than its run") as caught:
        toy_run(folder, tmp_path / "out", change, epochs=1).train(resume=True)
    assert key in str(caught.value)


def test_a_run_goes_on_from_another_folder_and_after_a_move(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    shutil.copytree(toys, tmp_path / "a" / "toys")
    changes = ("--set", "train.epochs=1", "--set", f"output={tmp_path / 'out'}")
    monkeypatch.chdir(tmp_path / "a")
    assert cli("train", "toys/toy.toml", *changes).code == 0
    monkeypatch.chdir(tmp_path / "a" / "toys")
    assert cli("train", "toy.toml", *changes, "--resume").code == 0
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert cli("train", "b/toys/toy.toml", *changes, "--resume").code == 0
    captions = tmp_path / "b" / "toys" / "captions.tsv"
    captions.write_text(captions.read_text().replace("red", "green"))
    outcome = cli("train", "b/toys/toy.toml", *changes, "--resume")
    assert outcome.code == 2
    assert "captions_sha256" in outcome.err
