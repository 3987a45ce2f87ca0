"""NaN in any component at any step: found, named, and the other images guided as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from tiny_pipelines import generators, tiny_pipeline, tiny_scorer
from torch import Tensor, nn

from clipguide.attach.guide import guide
from clipguide.rewards import ClipReward, FunctionReward

STEPS = 3
PROMPTS = ["a fox", "snow"]


class _NanBackward(torch.autograd.Function):
    """Identity whose gradient is NaN for the last sample (of its k consecutive rows)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        spoilt = grad[0].clone()
        spoilt[-1] = float("nan")
        return spoilt


def spoil(x: Tensor, how: str) -> Tensor:
    if how == "backward":
        return _NanBackward.apply(x)
    spoilt = x.clone()
    spoilt[-1] = float("nan")
    return spoilt


@contextmanager
def spoiling(module: nn.Module, how: str, calls: set[int]) -> Iterator[None]:
    """The module's output is spoilt in these calls."""
    count = iter(range(10**6))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if next(count) not in calls:
            return None
        if isinstance(output, tuple):
            return (spoil(output[0], how), *output[1:])
        return spoil(output, how)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Spoilt:
    """A scorer whose preprocess or image tower spoils the calls it is told to."""

    def __init__(self, component: str, how: str, calls: set[int]) -> None:
        self.inner, self.component, self.how, self.calls = tiny_scorer(), component, how, calls
        self.count, self.model = -1, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def preprocess(self, images: Tensor, match: Any) -> Tensor:
        self.count += 1
        return self._spoil("preprocess", self.inner.preprocess(images, match=match))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self._spoil("CLIP", self.inner.model.encode_image(pixels))

    def _spoil(self, component: str, x: Tensor) -> Tensor:
        hit = component == self.component and self.count in self.calls
        return spoil(x, self.how) if hit else x


def run(component: str, how: str, calls: set[int], mode: Any) -> tuple[Any, Tensor]:
    """Two images, the second spoilt in one component at some steps."""
    pipe = tiny_pipeline()
    reward: Any = ClipReward(Spoilt(component, how, calls), PROMPTS)  # type: ignore[arg-type]
    if component == "reward":
        clean, count = reward, iter(range(10**6))
        reward = FunctionReward(
            lambda x: spoil(clean(x), how) if next(count) in calls else clean(x)
        )
    module = {"denoiser": pipe.unet, "decoder": pipe.vae.decoder}.get(component, nn.Identity())
    with spoiling(module, how, calls), guide(pipe, reward, 0.5, mode=mode) as trace:
        images = pipe(
            PROMPTS,
            num_inference_steps=STEPS,
            generator=generators(0, 1),
            output_type="pt",
            guidance_scale=1.0,
        ).images
    return trace, images


@cache
def clean_images(mode: Any) -> Tensor:
    return run("none", "forward", set(), mode)[1]


@pytest.mark.parametrize("mode", ["x0", "xt"])
@pytest.mark.parametrize("how", ["forward", "backward"])
@pytest.mark.parametrize("component", ["denoiser", "decoder", "preprocess", "CLIP", "reward"])
def test_every_injection_is_found_named_and_kept_to_its_image(
    component: str, how: str, mode: Any
) -> None:
    if (component, how, mode) == ("denoiser", "backward", "x0"):
        pytest.skip("mode x0 has no backward pass through the denoiser")
    clean = clean_images(mode)
    for at in range(STEPS) if how == "forward" else (1,):
        with pytest.warns(RuntimeWarning, match=rf"left unguided.*{component}"):
            trace, images = run(component, how, {at}, mode)
        assert {skip.component for skip in trace.skipped} == {component}
        assert {skip.sample for skip in trace.skipped} == {1}
        assert trace.skipped[0].step == at
        assert trace.steps[at].grad_norm[1].isnan()
        assert trace.steps[at].grad_norm[0].isfinite()
        torch.testing.assert_close(images[0], clean[0], rtol=0, atol=1e-4)
        if (component, how) != ("denoiser", "forward"):  # then the unguided image is lost too
            assert len(trace.skipped) == 1
            assert images.isfinite().all()
            assert images[1].std() > 0.01
