"""`bench prune --pipeline`: what is recorded is what plain calls and their previews score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from tiny_pipelines import tiny_pipeline

from clipguide.clip.loading import load_scorer
from clipguide.rewards import ClipReward
from clipguide.search.preview_rewards import load_preview_rewards
from clipguide.search.pruning_replay import affordable, choose_schedule, compare_default
from clipguide.seeds import make_generators

Cli = Callable[..., Outcome]
PROMPTS, STEPS = ["a red fox", "a cat", "b", "a b"], 3


@pytest.fixture
def recorded(cli: Cli, tiny_models: Path, tmp_path: Path) -> tuple[Outcome, Path]:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    file = tmp_path / "rewards.npz"
    done = cli(
        "bench", "prune", "--pipeline", tiny_models / "pipe", "--scorer", tiny_models / "clip",
        "--prompts", tmp_path / "prompts.txt", "--pictures", 5, "--steps", STEPS, "--save", file,
        "--seed", 7, "--reward", "cosine", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    return done, file


def slow(models: Path, prompt: str, seed: int) -> list[float]:
    """The cosine of each preview, by the scheduler's own x0, and of the finished picture."""
    pipe: Any = tiny_pipeline().from_pretrained(models / "pipe")
    pipe.set_progress_bar_config(disable=True)
    reward = ClipReward(load_scorer(models / "clip"), prompt)
    scores: list[float] = []
    original = pipe.scheduler.step

    def step(output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        alpha = pipe.scheduler.alphas_cumprod[int(timestep)]
        x0 = (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
        decoded = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample
        scores.append(float(reward((decoded / 2 + 0.5).clamp(0, 1))))
        return original(output, timestep, sample, **options)

    pipe.scheduler.step = step
    (generator,) = make_generators([seed])
    made = pipe(prompt, generator=generator, num_inference_steps=STEPS, output_type="pt").images
    return [*scores[:-1], float(reward(torch.as_tensor(made)))]


def test_what_is_recorded(recorded: tuple[Outcome, Path], tiny_models: Path) -> None:
    rewards = load_preview_rewards(recorded[1])
    assert rewards.values.shape == (4, 5, STEPS)
    assert not rewards.noise_aware
    for prompt, picture in ((0, 0), (2, 4)):
        expected = slow(tiny_models, PROMPTS[prompt], 7 + picture)
        np.testing.assert_allclose(rewards.values[prompt, picture], expected, atol=2e-4)


def test_what_is_printed(cli: Cli, recorded: tuple[Outcome, Path]) -> None:
    done, file = recorded
    rewards = load_preview_rewards(file)
    budgets = affordable(rewards, [2, 4, 8, 16])
    assert budgets == [2, 4][: len(budgets)]
    rows = compare_default(rewards, budgets)
    assert {*done.data} == {"budgets", "use"}
    assert done.data["budgets"] == {
        key: {name: pytest.approx(row[name]) for name in ("best_of", "default")}
        for key, row in rows.items()
    }
    use = choose_schedule(rewards, budgets)
    assert done.data["use"]["at"] == use["at"]
    assert done.data["use"]["gain"] == pytest.approx(use["gain"])
    again = cli("bench", "prune", "--replay", file, "--choose", "--json")
    assert again.data == done.data
    table = cli("bench", "prune", "--replay", file, "--choose").out.splitlines()
    assert table[-1].startswith("use ")


def test_what_is_missing(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((), "give either --replay FILE, or --pipeline"),
        (("--pipeline", "starter"), "give --prompts FILE"),
        (("--pipeline", "starter", "--replay", "a.npz"), "give either"),
    ):
        done = cli("bench", "prune", *arguments)
        assert done.code == 2
        assert message in done.err
    (tmp_path / "prompts.txt").write_text("a fox")
    (tmp_path / "there.npz").touch()
    done = cli("bench", "prune", "--pipeline", "starter", "--prompts", tmp_path / "prompts.txt",
               "--save", tmp_path / "there.npz")  # fmt: skip
    assert done.code == 2
    assert "there.npz" in done.err
