"""Every example in a docstring of the package is run, on tiny real models under the real names.

The folder that the examples run in has photos, and models where their names would be found on the
Hub ("openai/clip-vit-base-patch32" is a folder there), so an example reads as a user would type it.
What an example shows as its result is compared; where it shows none, it has to run.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from families.latent_unets import sdxl
from PIL import Image
from tiny_backbones import tiny_backbones
from tiny_captioners import tiny_blip_captioner, tiny_clipseg
from tiny_clip import tiny_clip_dir
from tiny_cross_encoders import tiny_blip
from tiny_pipelines import tiny_pipeline, tiny_taesd

import clipguide
from clipguide.attach.schedulers import SCHEDULERS
from clipguide.clip.loading import load_scorer
from clipguide.retrieval.build import update_index
from clipguide.retrieval.sources import ImageFolder

PACKAGE = CHECKOUT / "clipguide"
SHORT = re.compile(r"Example: `([^`]+)`")


def examples(source: str) -> Iterator[tuple[int, str]]:
    """Line and docstring (as a doctest) of every docstring with an example, classes and all."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text is None:
            continue
        short = "".join(f">>> _ = {code}\n" for code in SHORT.findall(text))
        if ">>>" in text or short:
            yield getattr(node, "lineno", 1), f"{short}\n{text}"


FOUND = [
    pytest.param(file, text, id=f"{file.relative_to(CHECKOUT)}:{line}")
    for file in sorted(PACKAGE.rglob("*.py"))
    for line, text in examples(file.read_text(encoding="utf-8"))
]


class Quick(StableDiffusionPipeline):
    """Two steps unless told otherwise: the examples say nothing of steps."""

    @functools.wraps(StableDiffusionPipeline.__call__)
    def __call__(self, *args: Any, num_inference_steps: int = 2, **kwargs: Any) -> Any:
        return super().__call__(*args, num_inference_steps=num_inference_steps, **kwargs)


class Shown(doctest.OutputChecker):
    """Compares the results that are shown."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for name, color in {"fox": "red", "cat": "gray", "photo": "green", "dog": "brown"}.items():
        for file in (f"{name}.png", f"{name}.jpg", f"photos/{name}.jpg"):
            Image.new("RGB", (48, 40), color).save(folder / file)
    tiny_clip_dir(folder / "openai" / "clip-vit-base-patch32")
    tiny_blip(folder / "Salesforce" / "blip-itm-base-coco")
    tiny_blip_captioner(folder / "Salesforce" / "blip-image-captioning-base")
    tiny_clipseg(folder / "CIDAS" / "clipseg-rd64-refined")
    tiny_pipeline().save_pretrained(folder / "stabilityai" / "sd-turbo")
    tiny_taesd().save_pretrained(folder / "madebyollin" / "taesd")
    text, image = tiny_backbones(folder / "backbones")
    text.rename(folder / "distilbert-base-uncased")
    (folder / "microsoft").mkdir()
    image.rename(folder / "microsoft" / "resnet-50")
    sdxl(StableDiffusionXLPipeline).save_pretrained(
        folder / "stabilityai" / "stable-diffusion-xl-base-1.0"
    )
    photos = ImageFolder(folder / "photos")
    update_index(
        folder / "photos.index", photos, load_scorer(folder / "openai/clip-vit-base-patch32")
    )
    return folder


@pytest.fixture(scope="module")
def names(place: Path) -> dict[str, Any]:
    """What the examples take for granted."""
    public = {name: getattr(clipguide, name) for name in clipguide.__all__}
    scorer = clipguide.load_scorer(place / "openai" / "clip-vit-base-patch32")
    pipe = Quick(**tiny_pipeline().components, requires_safety_checker=False)
    files = [place / "fox.png", place / "cat.png"]
    return public | {
        "torch": torch, "np": np, "Image": Image, "Path": Path, "scorer": scorer,
        "pipe": pipe, "reward": clipguide.ClipReward(scorer, "a red fox"),
        "generator": torch.Generator().manual_seed(0),
        "generators": [torch.Generator().manual_seed(seed) for seed in range(2)],
        "image": Image.open(files[0]), "cat": Image.open(files[1]), "files": files,
        "paths": files, "images": torch.rand(2, 3, 480, 640), "prompts": ["a fox", "a cat"],
        "texts": ["a fox", "a cat"], "labels": ["fox", "cat"],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """An example that registers a scheduler leaves none to the tests after it."""
    before = dict(SCHEDULERS)
    yield
    SCHEDULERS.clear()
    SCHEDULERS.update(before)


@pytest.mark.filterwarnings("ignore::clipguide.language.captioner.DoubtfulCaption")
@pytest.mark.filterwarnings("ignore::clipguide.language.segments.PhraseNotFound")
@pytest.mark.filterwarnings("ignore::clipguide.training.collapse.CollapseWarning")  # its own
@pytest.mark.parametrize(("file", "text"), FOUND)
def test_an_example_runs_and_gives_what_it_shows(
    file: Path, text: str, place: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    module = importlib.import_module(
        ".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
    )
    parsed = doctest.DocTestParser().get_doctest(
        text, {**names, **vars(module)}, file.name, str(file), 0
    )
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    said: list[str] = []
    done = doctest.DocTestRunner(Shown(), optionflags=flags).run(parsed, out=said.append)
    assert done.failed == 0, "".join(said)
    assert done.attempted > 0


def test_examples_are_found_and_a_wrong_promise_is_seen() -> None:
    assert len(FOUND) > 60
    source = 'def f():\n    """F.\n\n    Example:\n        >>> 1 + 1\n        3\n    """\n'
    ((line, text),) = examples(source)
    parsed = doctest.DocTestParser().get_doctest(text, {}, "f", "f", 0)
    assert (line, doctest.DocTestRunner(Shown()).run(parsed, out=lambda _: None).failed) == (1, 1)
