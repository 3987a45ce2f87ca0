"""The recipes of latent scorers, two steps of each on toys."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CHECKOUT
from tiny_distillation import latent_toys, recall, tiny_autoencoder

from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer
from clipguide.training.distillation_config import DistillConfig
from clipguide.training.distillation_run import DistillationRun
from clipguide.training.run_config import read_run_config


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_toys(tmp_path_factory.mktemp("toys"))


RECIPES = CHECKOUT / "training" / "latent"


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_recipes_of_flickr8k(
    name: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recipe for two steps of a phase, on toys in the place of photos, teacher and TAESD."""
    monkeypatch.setenv("CLIPGUIDE_DATA", "/shared")
    changes, channels = (
        ["output=run", "latent.teacher=teacher"],
        16 if name in ("sd3", "flux") else 4,
    )
    config = read_run_config(RECIPES / f"{name}.toml", changes, DistillConfig)
    assert config.root == "/shared/flickr8k"
    assert config.latent.autoencoder.startswith("/shared/taesd/")
    assert {*config.data} == {"train", "dev", "test"}
    vae = tiny_autoencoder(tmp_path / "vae", channels)
    _two_steps(name, toys, tmp_path, f"latent.teacher={toys / 'clip'}", f"latent.autoencoder={vae}")
    scorer = load_scorer(tmp_path / "run")
    assert isinstance(scorer, LatentScorer)
    assert scorer.channels == channels


def test_the_recipe_of_vit_b32(toys: Path, tmp_path: Path, tiny_open_clip: str) -> None:
    """On a tiny open_clip model of random weights."""
    teacher, vae = f"latent.teacher=open_clip:{tiny_open_clip}/random", toys / "vae"
    _two_steps("vit_b32", toys, tmp_path, teacher, f"latent.autoencoder={vae}", "device=cpu")
    assert load_scorer(tmp_path / "run").embed_dim == 16


def _two_steps(name: str, toys: Path, folder: Path, *changes: str) -> None:
    split = '{captions="captions.tsv", images="images"}'
    few = ("latent.image_size=64", "train.stem_epochs=1", "train.epochs=1", "train.batch=6",
           "train.stem_batch=6", "latent.stem_width=8", "latent.stem_blocks=1")  # fmt: skip
    config = read_run_config(
        RECIPES / f"{name}.toml",
        [f"root={toys}", f"data={{train={split}, dev={split}}}", *few, *changes,
         f"output={folder / 'run'}"],
        DistillConfig,
    )  # fmt: skip
    steps: list[int] = []
    run = DistillationRun(config, recall, lambda line: None)
    run.train(on_step=lambda step, steps_in_all, _: steps.append(steps_in_all))
    assert steps == [4] * 4
