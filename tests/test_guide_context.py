"""Entering and leaving `guide`: everything is put back, and the scheduler looks like itself."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny_pipelines import (
    ProjectionReward,
    call,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_vae,
)

from clipguide.attach.decoders import inward_clamp, upcast
from clipguide.attach.guide import guide
from clipguide.rewards import FunctionReward

REWARD = ProjectionReward()
MODES = pytest.mark.parametrize("mode", ["x0", "xt"])


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
