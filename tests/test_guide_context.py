"""Entering and leaving `guide`: what is refused, and that everything is put back."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline, tiny_scheduler, tiny_vae

from clipguide.attach.decoders import inward_clamp, register_decoder, upcast
from clipguide.attach.guide import guide
from clipguide.attach.schedulers import register_scheduler
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.rewards import FunctionReward

REWARD = ProjectionReward()
MODES = pytest.mark.parametrize("mode", ["x0", "xt"])


def call(pipe: Any, steps: int = 2, **arguments: Any) -> Any:
    arguments.setdefault("output_type", "pt")
    return pipe("a fox", num_inference_steps=steps, generator=generators(0), **arguments).images


def state(pipe: Any) -> list[Any]:
    """Everything guidance could leave changed."""
    parameters = [
        (p.requires_grad, p.dtype, p.grad is None)
        for module in (pipe.unet, pipe.vae, pipe.text_encoder)
        for p in module.parameters()
    ]
    attributes = [{*vars(part)} for part in (pipe, pipe.scheduler, pipe.vae, pipe.unet)]
    parts = [part for module in (pipe.unet, pipe.vae) for part in module.modules()]
    checkpointing = [getattr(part, "gradient_checkpointing", None) for part in parts]
    hooks = [len(pipe.unet._forward_hooks), len(pipe.vae._forward_hooks)]
    return [parameters, attributes, checkpointing, hooks, type(pipe.scheduler)]


# --------------------------------------------------------------------------------- everything back


@MODES
@pytest.mark.parametrize("normalize", ["rms", "cfg"])
def test_everything_is_put_back(mode: Any, normalize: Any) -> None:
    pipe = tiny_pipeline()
    call(pipe)
    before = state(pipe)
    frozen = next(pipe.vae.parameters())
    frozen.requires_grad_(False)  # what was frozen stays frozen
    try:
        before = state(pipe)
        with guide(pipe, REWARD, 0.5, mode=mode, normalize=normalize, checkpoint=True):
            call(pipe)
        assert state(pipe) == before
    finally:
        frozen.requires_grad_(True)
    assert torch.is_grad_enabled()


@MODES
@pytest.mark.parametrize("where", ["callback", "reward", "body", "denoiser"])
def test_everything_is_put_back_after_an_exception(mode: Any, where: str) -> None:
    pipe = tiny_pipeline()
    call(pipe)
    before = state(pipe)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("on purpose")

    callback = fail if where == "callback" else None
    reward = FunctionReward(fail) if where == "reward" else REWARD
    handle = pipe.unet.register_forward_hook(fail) if where == "denoiser" else None
    try:
        with pytest.raises(KeyError, match="on purpose"), guide(pipe, reward, 0.5, mode=mode):
            fail() if where == "body" else call(pipe, callback_on_step_end=callback)
    finally:
        if handle is not None:
            handle.remove()
    assert state(pipe) == before
    assert torch.is_grad_enabled()


@MODES
@pytest.mark.parametrize("enabled", [True, False])
def test_the_gradient_mode_does_not_leak(mode: Any, enabled: bool) -> None:
    """Neither out of the call nor out of the context, whatever it was."""
    pipe = tiny_pipeline()
    with torch.set_grad_enabled(enabled):
        with guide(pipe, REWARD, 0.5, mode=mode):
            call(pipe)
            assert torch.is_grad_enabled() is enabled
            with pytest.raises(KeyError):
                call(pipe, callback_on_step_end=lambda *a: {}["missing"])
            assert torch.is_grad_enabled() is enabled
        assert torch.is_grad_enabled() is enabled


def test_the_gradient_mode_is_restored_where_no_pipeline_call_does_it() -> None:
    """A user's own loop, which has no decorator around it, fails in the middle."""
    pipe = tiny_pipeline()

    def fail_in_own_loop() -> None:
        pipe.scheduler.set_timesteps(2)
        latents = pipe.prepare_latents(1, 4, 16, 16, torch.float32, "cpu", generators(0)[0])
        assert torch.is_grad_enabled()
        assert latents.requires_grad
        raise KeyError("on purpose")

    with torch.no_grad():
        with pytest.raises(KeyError), guide(pipe, REWARD, 0.5, mode="xt"):
            fail_in_own_loop()
        assert not torch.is_grad_enabled()


@MODES
def test_checkpointing_gives_the_same_images(mode: Any) -> None:
    pipe = tiny_pipeline()
    with guide(pipe, REWARD, 0.5, mode=mode):
        plain = call(pipe)
    with guide(pipe, REWARD, 0.5, mode=mode, checkpoint=True):
        torch.testing.assert_close(call(pipe), plain, rtol=0, atol=1e-5)


def test_a_float16_autoencoder_that_overflows_is_float32_only_for_the_gradient() -> None:
    vae = tiny_vae().to(torch.float16)
    bits = [p.clone() for p in vae.parameters()]
    assert vae.config.force_upcast
    with upcast(vae):
        assert vae.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(bits, vae.parameters(), strict=True))
    assert vae.dtype == torch.float16
    vae.register_to_config(force_upcast=False)
    with upcast(vae):
        assert vae.dtype == torch.float16


def test_saturated_pixels_hear_only_the_way_back() -> None:
    x = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], requires_grad=True)
    uphill = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    clamped = inward_clamp(x)
    (gradient,) = torch.autograd.grad((clamped * uphill).sum(), x)
    assert torch.equal(clamped.detach(), torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]))
    assert gradient.tolist() == [1.0, 0.0, 1.0, -1.0, 0.0, -1.0]


# ------------------------------------------------------------------------------ the swapped class


def test_the_scheduler_looks_like_itself(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    plain = type(pipe.scheduler)
    with guide(pipe, REWARD, 0.5):
        call(pipe)
        inside = type(pipe.scheduler)
        assert inside is not plain
        assert isinstance(pipe.scheduler, DDIMScheduler)
        assert (inside.__name__, inside.__module__) == (plain.__name__, plain.__module__)
        assert inspect.signature(inside.step) == inspect.signature(plain.step)
        pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    config = (tmp_path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
    assert json.loads(config)["_class_name"] == "DDIMScheduler"
    assert type(pipe.scheduler) is plain


@pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy])
def test_a_copy_of_the_scheduler_is_plain_and_on_its_own(copier: Any) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(EulerDiscreteScheduler))
    with guide(pipe, REWARD, 0.5) as trace:
        call(pipe)
        copied = copier(pipe.scheduler)
        assert type(copied) is EulerDiscreteScheduler
        guided_steps = len(trace.steps)
        copied.set_timesteps(3)
        sample = torch.zeros(1, 4, 8, 8)
        copied.scale_model_input(sample, copied.timesteps[0])
        copied.step(sample, copied.timesteps[0], sample)
        assert len(trace.steps) == guided_steps
        assert copied.step_index == 1
        assert pipe.scheduler.step_index == 2
        call(pipe)
        assert len(trace.steps) == 2 * guided_steps


# -------------------------------------------------------------------------------- what is an error


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
