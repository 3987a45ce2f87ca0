"""search() of many prompts: each as if it were alone, in shared pipeline calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from diffusers import EulerAncestralDiscreteScheduler
from tiny_pipelines import ProjectionReward, tiny_scorer
from tiny_search import GUIDED, STEPS, pipeline, plain

from clipguide.clip.loading import load_scorer
from clipguide.guidance.config import GuidanceConfig
from clipguide.images import load_image, to_tensor
from clipguide.rewards import ClipReward, ContrastReward, PartsReward, Views
from clipguide.rewards.base import Reward, as_reward
from clipguide.rewards.per_prompt import PerPrompt
from clipguide.search import (
    METHODS,
    BestOf,
    Candidate,
    FeynmanKac,
    Prune,
    SoftValueDecoding,
    search,
    seeds_of,
)
from clipguide.search.lockstep import in_lockstep, together
from clipguide.search.rollout import Rollout
from clipguide.seeds import make_generators

PROMPTS = ["a b", "a fox", "b"]


def reward() -> Reward:
    return ClipReward(tiny_scorer(), PROMPTS) + ProjectionReward()


def alone(pipe: Any, method: Any, seeds: list[int], **settings: Any) -> list[list[Candidate]]:
    """The searches one after the other, each with a reward of its own prompt."""
    return [
        search(
            pipe, prompt, ClipReward(tiny_scorer(), prompt) + ProjectionReward(), method,
            seed=seed, num_inference_steps=STEPS, **settings,
        )
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]  # fmt: skip


def bits(found: list[list[Candidate]]) -> list[list[tuple[float, int, bytes]]]:
    return [[(c.score, c.seed, c.image.tobytes()) for c in one] for one in found]


@pytest.mark.parametrize(
    ("name", "config"),
    [*((name, None) for name in METHODS), ("prune", GUIDED[2]), ("svdd", GUIDED[2])],
)
def test_a_batch_of_one_is_the_prompt_alone_to_the_bit(name: str, config: GuidanceConfig | None):
    pipe, settings = pipeline(), {"budget": 4, "batch_size": 1, "guidance": config}
    apart = seeds_of(name, 4)
    seeds = [3 + place * apart for place in range(3)]
    many = search(pipe, PROMPTS, reward(), name, seed=3, num_inference_steps=STEPS, **settings)
    assert bits(many) == bits(alone(pipe, name, seeds, **settings))


@pytest.mark.parametrize(
    ("name", "config"),
    [*((name, None) for name in METHODS), ("prune", GUIDED[1]), ("svdd", GUIDED[1])],
)
def test_in_batches_the_candidates_are_the_same(name: str, config: GuidanceConfig | None):
    """To rounding: the same seeds in the same order, scores within 1e-4, pixels within 2 of 255."""
    pipe = pipeline(EulerAncestralDiscreteScheduler)
    settings = {"budget": 4, "guidance": config, "negative_prompt": "b a", "guidance_scale": 3.0}
    seeds = [5, 1005, 2005]
    many = search(
        pipe, PROMPTS, reward(), name, seed=seeds, batch_size=8, num_inference_steps=STEPS,
        **settings,
    )  # fmt: skip
    for found, expected in zip(
        many, alone(pipe, name, seeds, batch_size=1, **settings), strict=True
    ):
        assert [c.seed for c in found] == [c.seed for c in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4)
            assert a.log_weight == pytest.approx(b.log_weight, abs=1e-2)
            difference = torch.tensor(bytearray(a.image.tobytes())).int() - torch.tensor(
                bytearray(b.image.tobytes())
            )
            assert int(difference.abs().max()) <= 2


class Rows:
    """How many images each pass through the UNet held, both halves of CFG as one."""

    def __init__(self, pipe: Any) -> None:
        self.seen: list[int] = []
        self._hook = pipe.unet.conv_in.register_forward_pre_hook(self._count)

    def _count(self, module: Any, args: Any) -> None:
        self.seen.append(args[0].shape[0] // 2)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize(
    ("method", "batch_size", "rows"),
    [
        (BestOf(), 6, [6] * STEPS),
        (BestOf(), 4, ([4] * STEPS + [2] * STEPS)),
        # four of each started, two of each finished: 12 images, then 6
        (Prune(at=0.5, keep=0.5), 12, [12, 12, 6, 6]),
        (FeynmanKac(interval=0.5), 6, [6] * STEPS),
        (SoftValueDecoding(duplicates=2), 6, [6] * STEPS),
    ],
)
def test_batches_are_filled_with_other_prompts(method: Any, batch_size: int, rows: list[int]):
    pipe, budget = pipeline(EulerAncestralDiscreteScheduler), 3 if rows[0] == 12 else 2
    with Rows(pipe) as calls:
        search(
            pipe, PROMPTS, reward(), method, budget, batch_size=batch_size,
            num_inference_steps=STEPS,
        )  # fmt: skip
    assert calls.seen == rows


def test_stopping_is_each_prompt_s_own() -> None:
    pipe = pipeline()
    until = [-10.0, 10.0, -10.0]
    found = search(
        pipe, PROMPTS, reward(), "best_of", 4, until=until, batch_size=2,
        num_inference_steps=STEPS,
    )  # fmt: skip
    assert [len(one) for one in found] == [2, 4, 2]


@pytest.mark.parametrize("views", [Views(), Views(count=2, crop=(0.6, 1.0))])
def test_rows_of_a_reward_are_those_of_the_single_prompts(views: Views) -> None:
    """Every reward that holds prompts, in any order, some twice; sums and lists of them too."""
    scorer = tiny_scorer()
    made = {
        "clip": lambda prompt: ClipReward(scorer, prompt, views=views),
        "contrast": lambda prompt: ContrastReward(scorer, prompt, views=views),
        "parts": lambda prompt: PartsReward(scorer, prompt, views=views),
        "sum": lambda prompt: 2 * ClipReward(scorer, prompt, views=views) - ProjectionReward(),
    }
    prompts = ["a red cube left of a blue ball", "two foxes", "a green cone"]
    rows = [2, 0, 0, 1]
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, make in made.items():
        whole = make(prompts)
        assert whole.entries == 3, name
        for reward in (whole, PerPrompt([make(prompt) for prompt in prompts])):
            value = reward.for_entries(rows)(images, generators=make_generators(range(4)))
            for i, row in enumerate(rows):
                one = make(prompts[row])(images[i : i + 1], generators=make_generators([i]))
                torch.testing.assert_close(value[i : i + 1], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, r"got prompts \[\], expected one or more"),
        ({"prompt": ["a", " "]}, "none of them empty"),
        ({"reward": [ProjectionReward()] * 2}, "got rewards of 2 prompts for 3, expected as many"),
        ({"seed": [1, 2]}, "got 2 values for 3 prompts, expected one for each"),
        ({"until": [0.1]}, "got 1 values for 3 prompts, expected one for each"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"prompt": PROMPTS, "reward": ProjectionReward(), "budget": 1} | arguments
    with pytest.raises(ValueError, match=message):
        search(pipeline(), num_inference_steps=STEPS, **given)


def test_rewards_that_read_differently_are_refused() -> None:
    from clipguide.rewards.base import LatentReward

    of_latents = LatentReward(lambda latents, _: latents.mean((1, 2, 3)))
    with pytest.raises(ValueError, match="images beside latents"):
        PerPrompt([as_reward(ProjectionReward()), of_latents])


def test_an_interruption_ends_every_thread_and_leaves_the_pipeline() -> None:
    pipe = pipeline()
    picture = plain(pipe, 0)
    before, threads = set(vars(pipe)), threading.active_count()

    def interrupted(images: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(pipe, PROMPTS, interrupted, budget=2, num_inference_steps=STEPS)
    assert set(vars(pipe)) == before
    assert torch.equal(plain(pipe, 0), picture)
    assert threading.active_count() == threads


def same(owners: Any, items: Any) -> Any:
    return items


def test_a_failing_search_ends_the_others() -> None:
    threads = threading.active_count()

    def failing() -> int:
        together(same, ["x"], [1])
        raise ArithmeticError("here")

    with pytest.raises(ArithmeticError, match="here"):
        in_lockstep([lambda: together(same, ["x"], [1])[0], failing])
    assert threading.active_count() == threads


def test_equal_works_are_done_in_one_and_modes_are_the_caller_s() -> None:
    done: list[list[Any]] = []

    def work(owners: Any, items: Any) -> list[int]:
        done.append([*items])
        return [2 * item for item in items]

    def one(start: int) -> tuple[list[int], bool]:
        first = together(work, ["o"] * 2, [start, start + 1])
        return [*together(work, ["o"], [first[0]])], torch.is_grad_enabled()

    with torch.no_grad():
        found = in_lockstep([lambda s=s: one(s) for s in (1, 10)])
    assert found == [([4], False), ([40], False)]
    assert done == [[1, 2, 10, 11], [2, 20]]


class Own:
    """A method of a user's own: searched one prompt after the other."""

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        return BestOf()(rollout, budget, seed)


def test_a_method_of_one_s_own_takes_many_prompts_too() -> None:
    pipe = pipeline()
    own, best = (
        search(pipe, PROMPTS, reward(), method, 2, batch_size=2, num_inference_steps=STEPS)
        for method in (Own(), BestOf())
    )
    assert [[c.seed for c in one] for one in own] == [[c.seed for c in one] for one in best]


def test_generate_searches_its_prompts_together(
    cli: Callable[..., Outcome], tiny_models: Path, tmp_path: Path
) -> None:
    """Rows are by prompt, each with scores of its own picture, and as if every prompt was alone."""
    base = ["generate", *PROMPTS, "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    base += ["--steps", 3, "--search", "prune", "--budget", 3, "--num", 2, "--json", "--compare"]
    runs = {}
    for size in (1, 16):
        done = cli(*base, "--batch-size", size, "--out", tmp_path / str(size))
        assert done.code == 0, done.err
        runs[size] = done.data["results"]
    scorer = load_scorer(tiny_models / "clip")
    for single, row in zip(runs[1], runs[16], strict=True):
        assert [row[key] for key in ("prompt", "seed", "role", "file")] == [
            single[key] for key in ("prompt", "seed", "role", "file")
        ]
        image = load_image(tmp_path / "16" / row["file"])
        assert row["scores"][0]["value"] == pytest.approx(
            float(scorer.score([image], row["prompt"])), abs=1e-5
        )
        before = to_tensor(load_image(tmp_path / "1" / row["file"]))
        assert float((to_tensor(image) - before).abs().max()) <= 2 / 255
    guided = [row for row in runs[16] if row["role"] == "guided"]
    assert [row["prompt"] for row in guided] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert guided[0]["batch"]["prompts"] == PROMPTS
