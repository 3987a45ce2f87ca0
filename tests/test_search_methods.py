"""search(): every method, what it costs, what it refuses and what it leaves behind."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
)
from tiny_search import GUIDED, PROMPT, REWARD, STEPS, pipeline, plain, run

import clipguide
from clipguide.guidance.config import GuidanceConfig
from clipguide.images import to_pil
from clipguide.search import METHODS, Candidate, NoiseSearch, Prune, SoftValueDecoding, search
from clipguide.search.backstep import BackStep
from clipguide.search.fk import FeynmanKac
from clipguide.search.noise_gradient import NoiseGradient


class Calls:
    """Counts the images that really pass through a UNet, both halves of CFG as one."""

    def __init__(self, pipe: Any) -> None:
        self.images = 0.0
        self._hook = pipe.unet.conv_in.register_forward_pre_hook(self._count)

    def _count(self, module: Any, args: Any) -> None:
        self.images += args[0].shape[0] / 2

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


# ---------------------------------------------------------------------------------------- best_of


@pytest.mark.parametrize("cls", [DDIMScheduler, EulerAncestralDiscreteScheduler])
def test_best_of_is_plain_calls_ordered_to_the_bit(cls: type[Any]):
    pipe = pipeline(cls)
    images = [plain(pipe, seed) for seed in range(7, 11)]
    scores = [float(REWARD(image)) for image in images]
    found = run(pipe, budget=4, seed=7, batch_size=1)
    assert [c.score for c in found] == sorted(scores, reverse=True)
    assert found[0].score == max(scores)
    for candidate in found:
        expected = images[candidate.seed - 7]
        assert candidate.score == scores[candidate.seed - 7]
        assert candidate.image.tobytes() == to_pil(expected)[0].tobytes()


def test_batches_change_rounding_only():
    pipe = pipeline()
    single, batched = (run(pipe, budget=5, batch_size=size) for size in (1, 4))
    assert [c.seed for c in single] == [c.seed for c in batched]
    for a, b in zip(single, batched, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-4)


# ---------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("config", GUIDED)
def test_budget_order_and_repetition(name: str, config: GuidanceConfig | None):
    pipe, budget = pipeline(), 4
    if name == "noise_gradient" and config is not None:
        with pytest.raises(ValueError, match="noise_gradient has its own gradient"):
            run(pipe, name, budget=budget, guidance=config)
        return
    with Calls(pipe) as calls:
        first = run(pipe, name, budget=budget, seed=1, guidance=config)
    assert 0.75 * budget * STEPS < calls.images <= budget * STEPS
    if name != "prune":
        assert calls.images == budget * STEPS
    scores = [c.score for c in first]
    assert scores == sorted(scores, reverse=True)
    again = run(pipe, name, budget=budget, seed=1, guidance=config)
    assert [(c.score, c.seed) for c in first] == [(c.score, c.seed) for c in again]
    assert first[0].image.tobytes() == again[0].image.tobytes()


def test_second_order_calls_are_counted():
    pipe = pipeline(HeunDiscreteScheduler)
    with Calls(pipe) as calls:
        run(pipe, Prune(at=0.5, keep=0.5), budget=3)
    assert calls.images <= 3 * (2 * STEPS - 1)


def interrupted(images: torch.Tensor) -> torch.Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_the_pipeline_is_left_as_it_was(name: str):
    pipe = pipeline(EulerAncestralDiscreteScheduler)
    before, attributes = plain(pipe, 0), [set(vars(pipe)), set(vars(pipe.unet))]
    run(pipe, name, budget=4, guidance=None if name == "noise_gradient" else GUIDED[1])
    with pytest.raises(KeyboardInterrupt):
        search(pipe, PROMPT, interrupted, name, 4, num_inference_steps=STEPS)
    assert type(pipe.scheduler) is EulerAncestralDiscreteScheduler
    assert [set(vars(pipe)), set(vars(pipe.unet))] == attributes
    assert torch.equal(plain(pipe, 0), before)


@pytest.mark.parametrize("name", ["fk", "svdd"])
@pytest.mark.parametrize("cls", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_copies_that_could_not_part_are_refused(name: str, cls: type[Any]):
    with pytest.raises(ValueError, match=f"got {cls.__name__}.*EulerAncestral"):
        run(pipeline(cls), name, budget=4)


@pytest.mark.parametrize("name", ["fk", "svdd"])
def test_ddim_with_eta_adds_noise(name: str):
    assert run(pipeline(DDIMScheduler), name, budget=4, eta=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "expected one of best_of, prune, fk, svdd, noise"),
        ({"budget": 0}, "budget=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"method": "svdd", "budget": 3}, "got budget 3, expected at least duplicates=4"),
        ({"generator": torch.Generator()}, "'generator'"),
        ({"output_type": "latent"}, "'output_type'"),
        ({"method": "noise", "latents": torch.zeros(1, 4, 8, 8)}, "starts from noise"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        run(pipeline(), **arguments)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Prune, {"at": 0.0}),
        (Prune, {"at": 1.0}),
        (Prune, {"keep": 0.0}),
        (SoftValueDecoding, {"duplicates": 1}),
        (SoftValueDecoding, {"temperature": -1.0}),
        (NoiseSearch, {"neighbours": 0}),
        (NoiseSearch, {"radius": float("nan")}),
    ],
)
def test_settings_out_of_range(method: Any, settings: dict[str, float]):
    with pytest.raises(ValueError, match=f"got {next(iter(settings))}"):
        method(**settings)


def test_a_negative_prompt_in_either_form():
    pipe = pipeline()
    text, listed = (run(pipe, budget=2, negative_prompt=form) for form in ("c", ["c"]))
    assert [c.score for c in text] == [c.score for c in listed]
    assert [c.score for c in text] != [c.score for c in run(pipe, budget=2)]


def test_public_names():
    assert clipguide.search is search
    assert clipguide.Candidate is Candidate


NUMBERS = [
    (method, one.name, str(one.type))
    for method in (FeynmanKac, NoiseSearch, NoiseGradient, SoftValueDecoding, BackStep)
    for one in fields(method)
    if str(one.type) in ("int", "float")
]


@pytest.mark.parametrize(("method", "name", "kind"), NUMBERS)
def test_a_setting_that_is_no_number_is_refused(method: Any, name: str, kind: str) -> None:
    own = getattr(method(), name)
    assert method(**{name: np.int64(own) if kind == "int" else np.float64(own)}) == method()
    others = [True, "1", None, *([2.5] if kind == "int" else [])]
    for value in others:
        with pytest.raises(ValueError, match=f"got {name}={value!r}, expected a"):
            method(**{name: value})


@pytest.mark.parametrize("value", [True, (0.2, True), (0.2, "0.3")])
def test_a_share_that_is_no_number_is_refused(value: Any) -> None:
    for given in ({"at": value}, {"at": 0.5 if value is True else (0.2, 0.5), "keep": value}):
        with pytest.raises(ValueError, match=r"got a share (True|'0\.3'), expected a number"):
            Prune(**given)
