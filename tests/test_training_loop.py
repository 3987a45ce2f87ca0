"""The training loop: AdamW and EMA spelled out in plain numbers, and resumed runs to the bit."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipguide.training.loop import LoopSettings, StepFunction, learning_rate_at, train

SETTINGS = LoopSettings(
    steps=7, learning_rate=0.05, warmup=2, weight_decay=0.1, ema_decay=0.5, seed=3,
    log_every=100, save_every=2,
)  # fmt: skip
STATE = "state.safetensors"


class Killed(Exception):
    """Stands for whatever ends a run in the middle of a step."""


def silent(line: str) -> None:
    """No log."""


def network() -> nn.Module:
    """Two layers, always with the same first weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def regression(
    model: nn.Module, before: Callable[[int], None] = lambda index: None
) -> StepFunction:
    """Squared error on random points; ``before`` is told of each step."""

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        before(index)
        points = torch.randn((8, 3), generator=generator)
        return {"loss": (model(points).squeeze(-1) - points.sum(dim=-1)).pow(2).mean()}

    return step


def killing(at: int) -> Callable[[int], None]:
    """Raises in step ``at``."""

    def before(index: int) -> None:
        if index == at:
            raise Killed

    return before


def run(folder: Path, settings: LoopSettings = SETTINGS, kill_at: int = -1) -> dict[str, Tensor]:
    """Average and parameters after a run, or up to the step it was killed in."""
    model = network()
    try:
        average = train({"m": model}, regression(model, killing(kill_at)), settings, folder, silent)
    except Killed:
        return {}
    return average | {f"final {name}": value.detach() for name, value in model.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", range(7))
def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, kill_at: int) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "killed", kill_at=kill_at)
    torch.manual_seed(kill_at)  # torch's own generator must not matter
    assert_same(run(tmp_path / "killed"), whole)
    states = [(tmp_path / name / STATE).read_bytes() for name in ("whole", "killed")]
    assert states[0] == states[1]


def test_a_run_may_be_killed_many_times(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for kill_at in (3, 3, 5, 6):
        run(tmp_path / "killed", kill_at=kill_at)
    assert_same(run(tmp_path / "killed"), whole)


def test_only_the_steps_since_the_last_checkpoint_are_done_again(tmp_path: Path) -> None:
    seen: list[int] = []

    def before(index: int) -> None:
        seen.append(index)
        if seen.count(5) == 1 and index == 5:
            raise Killed

    for _ in range(2):
        model = network()
        try:
            train({"m": model}, regression(model, before), SETTINGS, tmp_path, silent)
        except Killed:
            continue
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6]


def test_a_finished_run_is_loaded_and_not_made_again(tmp_path: Path) -> None:
    whole = run(tmp_path)
    assert_same(run(tmp_path, kill_at=0), whole)  # no step is taken, so none is killed
    assert int(load_file(tmp_path / STATE)["optimizer.step.m.0.weight"]) == 7


def test_a_step_draws_the_same_numbers_whatever_came_before(tmp_path: Path) -> None:
    def drawn(name: str, settings: LoopSettings) -> list[float]:
        numbers: list[float] = []
        weight = nn.Parameter(torch.ones(()))

        def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
            numbers.append(float(torch.rand((), generator=generator)))
            return {"loss": weight * 1.0}

        module = nn.Module()
        module.register_parameter("w", weight)
        train({"m": module}, step, settings, tmp_path / name, silent)
        return numbers

    long = drawn("long", SETTINGS)
    assert len(set(long)) == 7
    assert drawn("short", replace(SETTINGS, steps=4)) == long[:4]
    assert drawn("short", SETTINGS) == long[4:]
    assert not set(drawn("other", replace(SETTINGS, seed=4))) & set(long)


# --- the checkpoint ------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    run(tmp_path, kill_at=3)
    before = (tmp_path / STATE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(index: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # bytes of any one file

    model = network()
    try:
        with pytest.raises(Exception, match=r"(?i)file too large"):
            train({"m": model}, regression(model, fill_the_disk), SETTINGS, tmp_path, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / STATE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert_same(run(tmp_path), run(tmp_path.with_name("whole")))


def test_what_is_frozen_is_neither_trained_nor_kept(tmp_path: Path) -> None:
    model = network()
    frozen = model.get_submodule("0").requires_grad_(False)
    kept = {name: value.clone() for name, value in frozen.state_dict().items()}
    average = train({"m": model}, regression(model), SETTINGS, tmp_path, silent)
    assert sorted(average) == ["m.2.bias", "m.2.weight"]
    assert_same(dict(frozen.state_dict()), kept)
    assert not [name for name in load_file(tmp_path / STATE) if ".m.0." in name]


# --- the arithmetic ------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_then_follows_half_a_cosine() -> None:
    settings = LoopSettings(steps=110, learning_rate=0.3, warmup=10)
    rates = [learning_rate_at(step, settings) for step in range(111)]
    assert rates[:10] == pytest.approx([0.03 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.3)
    assert rates[60] == pytest.approx(0.15)  # half way down
    assert rates[35] == pytest.approx(0.3 * math.cos(math.pi / 8) ** 2)  # cos² of half the angle
    assert rates[110] == pytest.approx(0.0, abs=1e-15)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert learning_rate_at(0, LoopSettings(steps=5, learning_rate=0.3, warmup=0)) == 0.3


def _slow(slopes: list[list[float]], start: list[float], s: LoopSettings) -> list[list[float]]:
    """Weights after each step of AdamW on loss = slope · weight, and last their EMA; in floats.

    Algorithm 2 of https://arxiv.org/abs/1711.05101, after clipping the whole gradient's length.
    """
    w, m, v = list(start), [0.0] * len(start), [0.0] * len(start)
    average, history = list(start), list[list[float]]()
    for t, slope in enumerate(slopes):
        length = math.sqrt(sum(g * g for g in slope))
        rate = learning_rate_at(t, s)
        keep = min(s.ema_decay, (1 + t) / (10 + t))
        for i, raw in enumerate(slope):
            g = raw * min(1.0, s.max_grad_norm / length)
            m[i] = s.betas[0] * m[i] + (1 - s.betas[0]) * g
            v[i] = s.betas[1] * v[i] + (1 - s.betas[1]) * g * g
            mean, square = m[i] / (1 - s.betas[0] ** (t + 1)), v[i] / (1 - s.betas[1] ** (t + 1))
            w[i] -= rate * (mean / (math.sqrt(square) + 1e-8) + s.weight_decay * w[i])
            average[i] = keep * average[i] + (1 - keep) * w[i]
        history.append(list(w))
    return [*history, average]


@pytest.mark.parametrize("ema_decay", [0.0, 0.3, 0.999])
def test_weights_and_average_are_what_plain_numbers_say(tmp_path: Path, ema_decay: float) -> None:
    settings = replace(SETTINGS, steps=40, warmup=5, ema_decay=ema_decay)
    # some gradients are longer than the limit and some are not
    slopes = torch.randn((40, 2), generator=torch.Generator().manual_seed(1)) * 0.8
    weight = nn.Parameter(torch.tensor([0.5, -2.0]))
    module = nn.Module()
    module.register_parameter("w", weight)
    seen: list[list[float]] = []

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        seen.append(weight.detach().tolist())
        return {"loss": (weight * slopes[index]).sum()}

    average = train({"m": module}, step, settings, tmp_path, silent)["m.w"]
    *weights, expected = _slow(slopes.tolist(), [0.5, -2.0], settings)
    assert torch.allclose(torch.tensor(seen[1:]), torch.tensor(weights[:-1]), atol=2e-6)
    assert torch.allclose(weight.detach(), torch.tensor(weights[-1]), atol=2e-6)
    assert torch.allclose(average, torch.tensor(expected), atol=2e-6)
    assert torch.equal(average, weight.detach()) == (ema_decay == 0.0)


def test_the_log_gives_the_mean_of_each_loss_since_the_last_line(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.zeros(()))
    module = nn.Module()
    module.register_parameter("w", weight)
    lines: list[str] = []

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": 0.0 * weight + index, "other": torch.tensor(10.0 * index)}

    settings = LoopSettings(steps=5, learning_rate=0.1, log_every=2)
    train({"m": module}, step, settings, tmp_path, lines.append)
    assert [line.rsplit("  ", 1)[0] for line in lines] == [
        "step 2/5  loss 0.5000  other 5.0000",
        "step 4/5  loss 2.5000  other 25.0000",
    ]
