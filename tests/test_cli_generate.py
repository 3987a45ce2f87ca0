"""`clipguide generate`: what is written, and that it is what diffusers and `guide` make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

from clipguide.attach.loading import load_pipeline
from clipguide.cli.tables import how_made
from clipguide.clip.loading import load_scorer
from clipguide.generation.models import load_models
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.guidance.config import GuidanceConfig
from clipguide.report.metadata import parse_parameters

Cli = Callable[..., Outcome]


@pytest.fixture
def generate(cli: Cli, tiny_models: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs `generate` on the tiny models, three steps, into `tmp_path/out`."""

    def run(*arguments: object) -> Outcome:
        base = ["generate", "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
        return cli(*base, "--steps", 3, "--out", tmp_path / "out", *arguments)

    return run


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)  # Pillow's own reader


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def pipeline(tiny_models: Path) -> Any:
    pipe: Any = load_pipeline(tiny_models / "pipe")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_file_says_what_it_is(generate: Cli, tmp_path: Path, tiny_models: Path) -> None:
    done = generate("a red fox", "b", "--seed", 5, "--judge", tiny_models / "judge", "--json")
    assert done.code == 0, done.err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["0000-a-red-fox.png", "0001-b.png", "contact_sheet.png", "results.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()]
    assert rows == done.data["results"]
    for row, prompt, seed in zip(rows, ["a red fox", "b"], [5, 6], strict=True):
        path = tmp_path / "out" / row["file"]
        record = json.loads(text_of(path)["clipguide"])
        assert record == {key: value for key, value in row.items() if key != "file"}
        assert (record["prompt"], record["seed"]) == (prompt, seed)
        assert record["ai_generated"] is True
        assert record["schema"] == 1
        assert record["versions"]["torch"] == torch.__version__
        assert record["settings"]["steps"] == 3
        with Image.open(path) as image:
            digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        assert record["pixels_sha256"] == digest
        weights = load_scorer(tiny_models / "clip")
        assert record["models"]["scorer"]["sha256"] == weights.content_hash


def test_scores_are_those_of_the_finished_pictures(
    generate: Cli, tmp_path: Path, tiny_models: Path
) -> None:
    generate("a red fox", "b", "--judge", tiny_models / "judge")
    for line in (tmp_path / "out" / "results.jsonl").open():
        row = json.loads(line)
        for score, name in zip(row["scores"], ["clip", "judge"], strict=True):
            scorer = load_scorer(tiny_models / name)
            again = float(scorer.score([tmp_path / "out" / row["file"]], row["prompt"]))
            assert score["value"] == pytest.approx(again, abs=1e-6)
            assert (score["convention"], score["scorer"]) == ("cosine", str(tiny_models / name))


def test_other_tools_can_read_the_parameters(generate: Cli, tmp_path: Path) -> None:
    generate("a red fox, b", "--negative", "cat", "--sampler", "euler_a", "--seed", 9)
    text = text_of(tmp_path / "out" / "0000-a-red-fox-b.png")["parameters"]
    lines = text.split("\n")
    assert lines[:2] == ["a red fox, b", "Negative prompt: cat"]
    assert lines[2].startswith("Steps: 3, Sampler: Euler a, CFG scale: 7.5, Seed: 9, Size: 16x16, ")
    assert parse_parameters(text).fields["CLIP guidance strength"] == "0.1"


def test_the_twin_is_what_diffusers_makes(generate: Cli, tmp_path: Path, tiny_models: Path) -> None:
    generate("a fox", "--compare", "--strength", 2, "--seed", 3)
    generator = torch.Generator().manual_seed(3)
    made = pipeline(tiny_models)("a fox", num_inference_steps=3, generator=generator).images[0]
    twin = pixels(tmp_path / "out" / "0000-a-fox-unguided.png")
    assert np.abs(twin - np.asarray(made, dtype=np.int16)).max() == 0
    guided = pixels(tmp_path / "out" / "0000-a-fox.png")
    assert np.abs(twin - guided).max() > 8
    sheet = pixels(tmp_path / "out" / "0000-a-fox-compare.png")
    assert sheet.shape[1] > 2 * 192  # both pictures, enlarged, side by side


def test_the_picture_is_what_guide_makes(generate: Cli, tmp_path: Path, tiny_models: Path) -> None:
    import clipguide

    options = ["--strength", 0.5, "--window", "0.2:1", "--every", 2, "--mode", "xt"]
    generate("a fox", "--seed", 3, *options)
    pipe = pipeline(tiny_models)
    reward = clipguide.ClipReward(load_scorer(tiny_models / "clip"), "a fox")
    with clipguide.guide(pipe, reward, 0.5, mode="xt", window=(0.2, 1), every=2):
        generator = torch.Generator().manual_seed(3)
        made = pipe("a fox", num_inference_steps=3, generator=generator).images[0]
    difference = pixels(tmp_path / "out" / "0000-a-fox.png") - np.asarray(made, dtype=np.int16)
    assert np.abs(difference).max() == 0


@pytest.mark.parametrize(("batch_size", "tolerance"), [(1, 0), (3, 1)])
def test_a_picture_depends_on_its_own_seed_alone(
    generate: Cli, tmp_path: Path, batch_size: int, tolerance: int
) -> None:
    generate("a fox", "--num", 3, "--seed", 5, "--batch-size", batch_size)
    generate("a fox", "--num", 1, "--seed", 7)
    together = pixels(tmp_path / "out" / "0002-a-fox.png")
    alone = pixels(tmp_path / "out" / "0003-a-fox.png")
    assert np.abs(together - alone).max() <= tolerance
    other = pixels(tmp_path / "out" / "0001-a-fox.png")
    assert np.abs(other - alone).max() > 8


def test_a_search_keeps_the_best(generate: Cli, tmp_path: Path, tiny_models: Path) -> None:
    search = ["--search", "best_of", "--budget", 5, "--num", 2, "--strength", 0]
    rows = generate("a fox", "--seed", 20, *search, "--json").data["results"]
    scorer, pipe = load_scorer(tiny_models / "clip"), pipeline(tiny_models)
    cosines: dict[int, float] = {}
    for seed in range(20, 25):
        generator = torch.Generator().manual_seed(seed)
        image = pipe("a fox", num_inference_steps=3, generator=generator).images
        cosines[seed] = float(scorer.score(image, "a fox"))
    best = sorted(cosines, key=lambda seed: -cosines[seed])[:2]
    assert [row["seed"] for row in rows] == best
    assert [row["scores"][0]["value"] for row in rows] == pytest.approx(
        [cosines[seed] for seed in best], abs=1e-5
    )


def test_the_twin_of_a_search_is_what_the_first_seed_gives_without_it(
    generate: Cli, tmp_path: Path, tiny_models: Path
) -> None:
    search = ["--search", "best_of", "--budget", 6, "--num", 2, "--strength", 0]
    rows = generate("a fox", "--seed", 20, "--compare", *search, "--json").data["results"]
    assert [row["role"] for row in rows] == ["guided", "unguided"] * 2
    assert [how_made(row) for row in rows] == ["search best_of", "unguided"] * 2
    climbed = rows[0] | {"settings": rows[0]["settings"] | {"guidance": {"strength": 2.0}}}
    assert how_made(climbed) == "guided, search best_of"
    assert [row["seed"] for row in rows[1::2]] == [20, 21]
    made = pipeline(tiny_models)(
        "a fox", num_inference_steps=3, generator=torch.Generator().manual_seed(20)
    ).images[0]
    twin = pixels(tmp_path / "out" / rows[1]["file"])
    assert np.abs(twin - np.asarray(made, dtype=np.int16)).max() == 0


def test_searches_of_one_run_share_no_seed(generate: Cli) -> None:
    """A budget of 2 starts up to 7 samples, so the second search begins at seed 8."""
    search = ["--search", "prune", "--budget", 2, "--strength", 0, "--json"]
    rows = generate("a fox", "a fox", *search).data["results"]
    assert [row["batch"]["seeds"] for row in rows] == [[0], [8]]
    assert rows[0]["seed"] < 8 <= rows[1]["seed"] < 16


def test_a_search_that_finishes_too_few_says_so(tiny_models: Path) -> None:
    settings = Settings(
        model=str(tiny_models / "pipe"), scorer=str(tiny_models / "clip"), search="prune",
        budget=5, steps=3, guidance=GuidanceConfig(0.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="finishes 3, expected a larger budget"):
        ImageGenerator(load_models(settings), settings).sample_batch(
            Batch((ImageRequest("a fox", 0),), "guided", keep=4)
        )


def test_a_second_run_keeps_the_first(generate: Cli, tmp_path: Path) -> None:
    generate("a fox")
    first = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    generate("a fox", "--seed", 1)
    assert all(path.read_bytes() == data for path, data in first.items())
    assert len(list((tmp_path / "out").glob("*.png"))) == 2 * len(first)
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2


def test_no_metadata_writes_nothing_into_the_pictures(generate: Cli, tmp_path: Path) -> None:
    generate("a fox", "--no-metadata", "--compare")
    assert [text_of(path) for path in (tmp_path / "out").glob("*.png")] == [{}] * 4


def test_data_is_on_stdout_and_progress_on_stderr(generate: Cli) -> None:
    done = generate("a fox", "--json")
    assert len(done.data["results"]) == 1
    assert "sampling" in done.err
    assert "%|" in done.err
    table = generate("a fox").out
    assert table.splitlines()[0].split() == ["picture", "seed", "guiding", "CLIP", "seconds"]


def test_a_failed_run_leaves_no_half_written_file(
    generate: Cli, tmp_path: Path, tiny_models: Path
) -> None:
    done = generate("a fox", "--window", "0:0")  # no step is guided: fails after sampling
    assert done.code != 0
    assert list((tmp_path / "out").iterdir()) == []


def test_latents_of_a_tuned_decoder_need_force(cli: Cli, tmp_path: Path) -> None:
    """The starter with its decoder tuned on: refused, taken with --force, recorded, reproduced."""
    pipe: Any = load_pipeline("starter")
    with torch.no_grad():
        next(pipe.vae.decoder.parameters()).mul_(1.001)
    pipe.save_pretrained(tmp_path / "pipe")
    base = ["generate", "a red star", "--model", tmp_path / "pipe", "--scorer", "starter:latent",
            "--steps", 2, "--out", tmp_path / "out"]  # fmt: skip
    refused = cli(*base)
    assert refused.code == 2
    assert "latents of another autoencoder" in refused.err
    assert "--force" in refused.err
    assert cli(*base, "--force").code == 0
    assert cli("reproduce", tmp_path / "out" / "0000-a-red-star.png").code == 0
    idle = cli(*base[:-1], tmp_path / "idle", "--scorer", "starter", "--force")
    assert idle.code == 2
    assert "reads images, expected a scorer of latents" in idle.err
