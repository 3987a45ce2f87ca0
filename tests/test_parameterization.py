"""x0 and back: against the definitions of the prediction types, for any noise level."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipguide.guidance.parameterization import COEFFICIENTS, NoiseLevel, parameterization

ANGLES = st.floats(0.02, math.pi / 2 - 0.02)


def levels() -> dict[str, st.SearchStrategy[NoiseLevel]]:
    """Each prediction type with the kind of schedules it is used in."""
    preserving = ANGLES.map(lambda t: NoiseLevel(math.cos(t), math.sin(t)))
    k_space = st.floats(0.01, 80.0).map(lambda s: NoiseLevel(1.0, s))
    flow = st.floats(0.01, 0.99).map(lambda s: NoiseLevel(1 - s, s))
    either = st.one_of(preserving, k_space)
    return {
        "epsilon": either,
        "v_prediction": either,
        "sample": st.one_of(either, flow),
        "flow_prediction": flow,
    }


def draw(seed: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def defined_output(prediction: str, level: NoiseLevel, x0: Tensor, eps: Tensor) -> Tensor:
    """What a perfect denoiser returns, from the papers' definitions alone."""
    angle = math.atan2(level.sigma, level.alpha)
    return {
        "epsilon": eps,
        "v_prediction": math.cos(angle) * eps - math.sin(angle) * x0,
        "sample": x0,
        "flow_prediction": eps - x0,
    }[prediction]


@pytest.mark.parametrize("prediction", [*COEFFICIENTS])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_recovers_a_constructed_x0(prediction: str, data: st.DataObject, seed: int) -> None:
    level = data.draw(levels()[prediction])
    x0, eps = draw(seed)
    x = level.alpha * x0 + level.sigma * eps
    out = defined_output(prediction, level, x0, eps)
    torch.testing.assert_close(
        parameterization(prediction, level).x0(x, out), x0, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("prediction", [*COEFFICIENTS])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_displacing_the_output_displaces_x0(
    prediction: str, data: st.DataObject, seed: int
) -> None:
    rule = parameterization(prediction, data.draw(levels()[prediction]))
    x, out, delta = draw(seed, 3)
    moved = rule.x0(x, rule.displace(out, delta)) - rule.x0(x, out)
    torch.testing.assert_close(moved, delta, rtol=1e-9, atol=1e-9)


@given(sigma=st.floats(1e-3, 80.0))
def test_noise_level_is_the_same_number_in_every_space(sigma: float) -> None:
    k_space = NoiseLevel(1.0, sigma)
    preserving = NoiseLevel(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))
    assert k_space.sigma_bar == pytest.approx(preserving.sigma_bar)
    assert k_space.variance == pytest.approx(preserving.sigma**2)


@pytest.mark.parametrize(
    ("prediction", "level", "invertible"),
    [
        ("epsilon", NoiseLevel(0.0, 1.0), False),  # x0 is not in the sample at all
        ("v_prediction", NoiseLevel(0.0, 1.0), True),
        ("flow_prediction", NoiseLevel(0.0, 1.0), True),
        ("epsilon", NoiseLevel(1.0, 0.0), False),  # the output has no say any more
        ("v_prediction", NoiseLevel(1.0, 0.0), False),
        ("sample", NoiseLevel(1.0, 0.0), True),
    ],
)
def test_singular_levels_are_known(prediction: str, level: NoiseLevel, invertible: bool) -> None:
    assert parameterization(prediction, level).invertible is invertible


def test_half_precision_is_computed_in_float32_and_given_back_in_half() -> None:
    level = NoiseLevel(0.6, 0.8)
    x, out = (t.to(torch.float16) for t in draw(0))
    rule = parameterization("epsilon", level)
    assert rule.x0(x, out).dtype == torch.float32
    torch.testing.assert_close(rule.x0(x, out), (x.float() - 0.8 * out.float()) / 0.6)
    assert rule.displace(out, torch.ones(2, 4, 3, 3)).dtype == torch.float16


def test_unknown_prediction_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"got prediction type 'score'.*epsilon.*flow_prediction"):
        parameterization("score", NoiseLevel(1.0, 1.0))
