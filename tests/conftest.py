"""Shared by every test: one thread per process, no network, and the optional data folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported anywhere: the tiny models of the tests are slower on two threads than
# on one, and results must not depend on how a sum is split over threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing in the tests may be fetched: an attempt is an error at once instead of a long wait.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

CHECKOUT = Path(__file__).resolve().parent.parent
ASSETS = CHECKOUT / "clipguide" / "assets" / "starter"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and small weights; the test is skipped where there is none."""
    folder = Path(os.environ.get("CLIPGUIDE_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set CLIPGUIDE_DATA)")
    return folder


@pytest.fixture(scope="session")
def starter_assets() -> Path:
    """The bundled starter's folder; the test is skipped until its weights are there."""
    if not (ASSETS / "pipeline" / "model_index.json").is_file():
        pytest.skip(f"the starter's weights are not at {ASSETS} (training/starter/ makes them)")
    return ASSETS


@dataclass(frozen=True)
class Outcome:
    """What a command line did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """stdout as JSON; nothing else may be on it."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `clipguide ARGUMENTS` in this process."""
    from clipguide.cli import main

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy pictures, captions, backbones and toy.toml."""
    from tiny_backbones import toy_config

    return toy_config(tmp_path_factory.mktemp("toys")).parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 different pictures, some in folders."""
    from tiny_index import noise_photos

    return noise_photos(tmp_path / "photos")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an index can be."""
    return tmp_path / "index"


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP that sees 16 pixels."""
    from tiny_clip import tiny_clip_dir

    return tiny_clip_dir(tmp_path_factory.mktemp("clip"), image_size=16)


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small architecture registered by open_clip's own function; its name."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2},
    }
    config["text_cfg"]["layers"] = 2
    name = "clipguide-test-tiny"
    path = tmp_path_factory.mktemp("open_clip") / f"{name}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return name


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random pipeline `pipe` and two CLIPs, `clip` and `judge`."""
    from tiny_clip import tiny_clip_dir
    from tiny_pipelines import tiny_pipeline

    folder = tmp_path_factory.mktemp("models")
    tiny_clip_dir(folder / "clip")
    tiny_clip_dir(folder / "judge", seed=3)
    tiny_pipeline().save_pretrained(folder / "pipe")
    return folder


@pytest.fixture(scope="session")
def tiny_scorer(tiny_models: Path) -> Any:
    """The scorer of the tiny `clip`."""
    from clipguide.clip.loading import load_scorer

    return load_scorer(tiny_models / "clip")
