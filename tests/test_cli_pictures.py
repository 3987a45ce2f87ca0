"""generate --init, --mask, --edit: the pipelines' own pictures, edits, and that they come again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from diffusers import DDPMPipeline
from PIL import Image
from tiny_pipelines import KINDS

import clipguide
from clipguide.attach.picture_pipelines import from_picture, native_size
from clipguide.generation.settings import Settings
from clipguide.generation.start import Start
from clipguide.report.metadata import read_metadata
from clipguide.seeds import make_generators

Cli = Callable[..., Outcome]
PROMPT, STEPS = "a red fox", 4


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A picture of another size than the model's, and a mask of its left half."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    mask = Image.fromarray(np.repeat([[255] * 20 + [0] * 20], 24, axis=0).astype(np.uint8))
    named = {"init": tmp_path / "init.png", "mask": tmp_path / "mask.png"}
    picture.save(named["init"])
    mask.save(named["mask"])
    return named


def made(cli: Cli, models: Path, out: Path, *options: object) -> list[Path]:
    base = ["generate", "--model", models / "pipe", "--scorer", models / "clip", "--steps", STEPS]
    done = cli(*base, "--out", out, "--json", *options)
    assert done.code == 0, done.err
    return [out / row["file"] for row in done.data["results"]]


def pixels(file: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(file).convert("RGB"))


def plain(kind: str, models: Path, seed: int, **arguments: Any) -> np.ndarray[Any, Any]:
    """What the stock pipeline makes."""
    pipe = KINDS[kind].from_pretrained(models / "pipe", requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    (generator,) = make_generators([seed])
    given = {"num_inference_steps": STEPS, "generator": generator, **arguments}
    return np.asarray(pipe(PROMPT, **given).images[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_unguided_it_is_the_stock_pipeline(
    cli: Cli, tiny_models: Path, files: dict[str, Path], tmp_path: Path, batch: int
) -> None:
    """Each picture that of its own seed, whatever the batch."""
    options = ["--init", files["init"], "--strength-init", 0.5, "--batch-size", batch]
    found = made(cli, tiny_models, tmp_path / "o", PROMPT, "--num", 2, "--strength", 0, *options)
    image = Image.open(files["init"]).resize((16, 16), Image.Resampling.LANCZOS)
    for seed, file in enumerate(found):
        expected = plain("img2img", tiny_models, seed, image=image, strength=0.5)
        assert np.array_equal(pixels(file), expected)


def test_a_mask_and_a_size(
    cli: Cli, tiny_models: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--init", files["init"], "--mask", files["mask"], "--strength", 0]
    options += ["--width", 40, "--height", 24]
    (found,) = made(cli, tiny_models, tmp_path / "o", PROMPT, *options)
    sizes = {"width": 40, "height": 24}
    given = {"image": Image.open(files["init"]), "mask_image": Image.open(files["mask"])}
    expected = plain("inpaint", tiny_models, 0, **given, **sizes)
    assert np.array_equal(pixels(found), expected)


EDIT = "a red fox -> a white fox"


@pytest.mark.parametrize("how", [
    ["--strength", 0.5], ["--search", "prune", "--budget", 2], ["--strength", 0],
    ["--strength", 0.5, "--mask"],
])  # fmt: skip
def test_edits_come_again_to_the_bit(
    cli: Cli, tiny_models: Path, files: dict[str, Path], tmp_path: Path, how: list[Any]
) -> None:
    how = [*how, files["mask"]] if how[-1] == "--mask" else how
    out = tmp_path / "o"
    (file,) = made(cli, tiny_models, out, "--init", files["init"], "--edit", EDIT, *how)
    record = read_metadata(file).record
    assert record is not None
    assert record["prompt"] == "a white fox"
    assert record["settings"]["reward"] == "directional"
    assert record["settings"]["start"]["edit"] == EDIT
    again = cli("reproduce", file, "--json")
    assert again.code == 0, again.err
    assert again.data["largest_difference"] == 0
    Image.new("RGB", (40, 24)).save(files["init"])
    other = cli("reproduce", file)
    assert other.code == 2
    assert "the init" in other.err
    assert "other pixels" in other.err


def test_an_edit_is_guided_by_the_direction(
    cli: Cli, tiny_models: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--init", files["init"], "--edit", EDIT, "--strength", 0.5, "--strength-init", 0.8]
    (file,) = made(cli, tiny_models, tmp_path / "o", *options)
    scorer = clipguide.load_scorer(tiny_models / "clip")
    image = Image.open(files["init"])
    reward = clipguide.DirectionalReward(scorer, "a red fox", "a white fox", image)
    pipe = KINDS["img2img"].from_pretrained(tiny_models / "pipe", requires_safety_checker=False)
    small = image.resize((16, 16), Image.Resampling.LANCZOS)
    with clipguide.guide(pipe, reward, 0.5):
        (generator,) = make_generators([0])
        given = {"num_inference_steps": STEPS, "generator": generator, "strength": 0.8}
        expected = pipe("a white fox", image=small, **given).images[0]
    assert np.array_equal(pixels(file), np.asarray(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a fox", "--mask", "init"], "got --mask without --init"),
        (["a fox", "--strength-init", 0.5], "got --strength-init without --init"),
        (["--edit", "a fox -> a cat"], "got --edit without --init"),
        (["--init", "init", "--edit", "a fox"], "expected 'SOURCE -> TARGET'"),
        (["a fox", "--init", "init", "--strength-init", 2], "got --strength-init 2.0, expected"),
        (["a fox", "--init", "init", "--reward", "directional"], "directional without an edit"),
        (["a fox", "--init", "nowhere.png"], "nowhere.png"),
        (["--init", "init"], "Missing argument 'PROMPT...'"),
    ],
)
def test_what_is_refused(
    cli: Cli, tiny_models: Path, files: dict[str, Path], tmp_path: Path, options: list[Any],
    message: str,
) -> None:  # fmt: skip
    given = [files["init"] if option == "init" else option for option in options]
    base = ["generate", "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    done = cli(*base, "--strength", 0.5, "--steps", 2, "--out", tmp_path / "o", *given)
    assert done.code == 2, done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init", "nowhere.png"], "nowhere.png: no such file"),
        (["--init", "init", "--mask", "nowhere.png"], "nowhere.png: no such file"),
        (["--reward", "style:nowhere.png"], "nowhere.png: no such file"),
        (["--reward", "style:text.png"], "text.png: not an image"),
        (["--reward", "cosine + aesthetic:no.safetensors"], "got aesthetic:no.safetensors"),
        (["--search", "best_of", "--final-reward", "style:nowhere.png"], "nowhere.png: no such"),
    ],
)
def test_files_that_are_not_there_are_said_before_models_are_loaded(
    cli: Cli,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    Path("model").mkdir()  # could not be loaded either
    given = [files["init"] if option == "init" else option for option in options]
    base = ["generate", "a fox", "--model", "model", "--scorer", "model", "--strength", 0.5]
    done = cli(*base, *given)
    assert (done.code, message in done.err) == (2, True), done.err


def test_older_records_start_from_noise() -> None:
    record = Settings().to_json()
    del record["start"]
    assert Settings.from_json(record) == Settings()
    edited = Settings(start=Start("a.png", 0.5, None, EDIT), reward="directional")
    assert Settings.from_json(edited.to_json()) == edited


def test_twins_share_their_components(tiny_models: Path) -> None:
    pipe = KINDS["text"].from_pretrained(tiny_models / "pipe", requires_safety_checker=False)
    pipe = pipe.to(dtype=torch.bfloat16)
    twin = from_picture(pipe)
    assert type(twin) is KINDS["img2img"]
    assert type(from_picture(pipe, mask=True)) is KINDS["inpaint"]
    assert twin.unet is pipe.unet
    assert twin.unet.dtype == torch.bfloat16
    assert from_picture(twin) is twin
    assert native_size(pipe) == (16, 16)
    with pytest.raises(ValueError, match="diffusers has no pipeline that starts from a picture"):
        from_picture(DDPMPipeline(pipe.unet, pipe.scheduler))


def test_a_search_stops_when_verified_and_comes_again(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    """A probability that everything has, one that nothing has, and a prompt without swaps."""
    prompt, how = "a red cube left of a blue ball", ["--search", "best_of", "--budget", 4]
    first = {"easy": 1e-9, "hard": 1 - 1e-9}
    found = {
        name: made(cli, tiny_models, tmp_path / name, prompt, *how, "--until", p)[0]
        for name, p in first.items()
    }
    records = {name: read_metadata(file).record for name, file in found.items()}
    easy, hard = (records[name] for name in ("easy", "hard"))
    assert easy is not None
    assert hard is not None
    assert easy["seed"] == 0
    plain_best = made(cli, tiny_models, tmp_path / "plain", prompt, *how)[0]
    assert np.array_equal(pixels(found["hard"]), pixels(plain_best))
    assert cli("reproduce", found["easy"]).code == 0
    assert made(cli, tiny_models, tmp_path / "no", "a fox", *how, "--until", 0.5)
    base = ["generate", "a fox", "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    for options, message in ((["--until", 2], "got until 2.0"), (["--until", 0.5], "a search too")):
        done = cli(*base, "--strength", 1, *options, *(how if options[1] == 2 else []))
        assert done.code == 2
        assert message in done.err
