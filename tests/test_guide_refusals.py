"""What `guide` refuses, at the door and inside; what is allowed right beside it."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler
from tiny_pipelines import ProjectionReward, call, tiny_pipeline

from clipguide.attach.decoders import register_decoder
from clipguide.attach.guide import guide
from clipguide.attach.schedulers import register_scheduler
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel

REWARD = ProjectionReward()


def test_nesting_on_one_scheduler_is_refused() -> None:
    pipe = tiny_pipeline()
    before = call(pipe)
    with (
        pytest.raises(RuntimeError, match="already inside a guide"),
        guide(pipe, REWARD, 0.5),
        guide(pipe, REWARD, 0.5),
    ):
        pass
    assert torch.equal(call(pipe), before)


def test_two_pipelines_with_their_own_schedulers_may_nest() -> None:
    one, two = tiny_pipeline(), tiny_pipeline()
    with guide(one, REWARD, 0.5) as outer, guide(two, REWARD, 0.5) as inner:
        call(one)
        call(two, steps=3)
    assert (len(outer.steps), len(inner.steps)) == (2, 3)


def test_replacing_the_scheduler_inside_is_an_error() -> None:
    pipe = tiny_pipeline()
    old, new = pipe.scheduler, EulerDiscreteScheduler.from_config(pipe.scheduler.config)

    def replace_and_call() -> None:
        pipe.scheduler = new
        call(pipe)

    def call_and_replace() -> None:
        call(pipe)
        pipe.scheduler = new

    message = r"pipe\.scheduler was replaced inside guide\(\) \(DDIMScheduler by EulerDiscrete"
    with pytest.raises(RuntimeError, match=message), guide(pipe, REWARD, 0.5) as trace:
        replace_and_call()
    assert trace.steps == []  # stopped before the first step
    pipe.scheduler = old
    with pytest.raises(RuntimeError, match=message), guide(pipe, REWARD, 0.5):
        call_and_replace()
    assert type(old) is DDIMScheduler


def test_a_context_that_guides_nothing_is_an_error() -> None:
    pipe = tiny_pipeline()
    with (
        pytest.raises(RuntimeError, match="was not called inside"),
        guide(pipe, REWARD, 0.5),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match=r"covers none of the 2 steps.*ran from 0\.\d+ to 0\.0"),
        guide(pipe, REWARD, 0.5, window=(0.999, 1.0)),
    ):
        call(pipe)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused_at_the_door(strength: float) -> None:
    with pytest.raises(ValueError, match="got strength"):
        guide(tiny_pipeline(), REWARD, strength)


def test_config_and_single_settings_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="got config and single settings"):
        guide(tiny_pipeline(), REWARD, 0.7, config=GuidanceConfig())


def test_an_unknown_scheduler_is_refused_and_can_be_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipguide.attach.schedulers.SCHEDULERS", {})
    pipe = tiny_pipeline()
    with pytest.raises(NotImplementedError, match="register_scheduler"), guide(pipe, REWARD, 0.5):
        pass

    def level(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
        alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
        return NoiseLevel(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

    register_scheduler("DDIMScheduler", level, ("epsilon",))
    with guide(pipe, REWARD, 0.5) as trace:
        call(pipe)
    assert len(trace.steps) == 2


def test_an_unknown_latent_layout_is_refused_and_can_be_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipguide.attach.decoders.DECODERS", {})
    pipe = tiny_pipeline()
    with (
        pytest.raises(NotImplementedError, match=r"AutoencoderKL has no decoder.*register_decoder"),
        guide(pipe, REWARD, 0.5),
    ):
        pass
    register_decoder(
        "AutoencoderKL",
        lambda vae: lambda z: vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5,
    )
    with guide(pipe, REWARD, 0.5) as trace:
        call(pipe)
    assert len(trace.steps) == 2
    with pytest.raises(TypeError, match="got decoder int"), guide(pipe, REWARD, decoder=5):  # type: ignore[arg-type]
        pass


def test_latents_of_another_shape_are_refused() -> None:
    pipe = tiny_pipeline()
    other = AutoencoderKL(norm_num_groups=4, block_out_channels=(8,), latent_channels=16)
    with (
        pytest.raises(NotImplementedError, match=r"\(1, 4, 8, 8\).*\(B, 16, h, w\).*register"),
        guide(pipe, REWARD, 0.5, decoder=other),
    ):
        call(pipe)


def test_a_reward_without_gradient_or_of_the_wrong_shape_is_refused() -> None:
    pipe = tiny_pipeline()
    with (
        pytest.raises(ValueError, match="not differentiable"),
        guide(pipe, lambda x: x.detach().sum((1, 2, 3)), 0.5),
    ):
        call(pipe)
    with (
        pytest.raises(ValueError, match=r"shape \(\), expected \(1,\)"),
        guide(pipe, lambda x: x.sum(), 0.5),
    ):
        call(pipe)


def test_inference_mode_works_in_x0_and_is_refused_in_xt() -> None:
    pipe = tiny_pipeline()
    with guide(pipe, REWARD, 0.5):
        expected = call(pipe)
    with torch.inference_mode(), guide(pipe, REWARD, 0.5):
        found = call(pipe)
    torch.testing.assert_close(found.clone(), expected, rtol=0, atol=1e-6)
    with (
        pytest.raises(RuntimeError, match="inference_mode"),
        torch.inference_mode(),
        guide(pipe, REWARD, 0.5, mode="xt"),
    ):
        call(pipe)


def test_offloaded_weights_are_refused_in_mode_xt() -> None:
    pipe = tiny_pipeline()
    pipe.unet = copy.deepcopy(pipe.unet)
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    with (
        pytest.raises(RuntimeError, match=r"offloading on unet.*mode='x0'"),
        guide(pipe, REWARD, 0.5, mode="xt"),
    ):
        pass
    with guide(pipe, REWARD, 0.5) as trace:
        call(pipe)
    assert len(trace.steps) == 2


def test_something_that_is_no_pipeline_is_refused() -> None:
    with pytest.raises(ValueError, match="got Linear, expected a pipeline"):
        guide(torch.nn.Linear(1, 1), REWARD).__enter__()  # type: ignore[arg-type]
    assert diffusers.DDIMScheduler is DDIMScheduler
