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
from clipguide.clip.scorer import Scorer
from clipguide.rewards import ClipReward, FunctionReward, Views

STEPS = 3
PROMPTS = ["a fox", "snow"]


class _NanBackward(torch.autograd.Function):
    """Identity whose gradient is NaN for the last sample (of its k consecutive rows)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        lost = grad[0].clone()
        lost[-1] = float("nan")
        return lost


def spoil(x: Tensor, how: str) -> Tensor:
    """The last row is non-finite: its values, or the gradient that passes through it."""
    if how == "backward":
        return _NanBackward.apply(x)
    lost = x.clone()
    lost[-1] = float("inf" if how == "overflow" else "nan")
    return lost


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
    """A CLIP whose preprocess or image tower spoils the calls it is told to."""

    def __init__(self, component: str, how: str, calls: set[int]) -> None:
        self.component, self.how, self.calls = component, how, calls
        self.inner, self.count = tiny_scorer().model, -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def preprocess(self, images: Tensor, match: Any) -> Tensor:
        self.count += 1
        return self._spoil("preprocess", self.inner.preprocess(images, match=match))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self._spoil("CLIP", self.inner.encode_image(pixels))

    def _spoil(self, component: str, x: Tensor) -> Tensor:
        hit = component == self.component and self.count in self.calls
        return spoil(x, self.how) if hit else x


def run(
    component: str, how: str, calls: set[int], mode: Any, *, views: int = 1, **settings: Any
) -> tuple[Any, Tensor]:
    """Two images, the second spoilt in one component at some steps."""
    pipe = tiny_pipeline()
    spoilt: Any = Spoilt(component, how, calls)
    reward: Any = ClipReward(Scorer(spoilt), PROMPTS, views=Views(count=views, flip=views > 1))
    if component == "reward":
        clean, count = reward, iter(range(10**6))
        reward = FunctionReward(
            lambda x: spoil(clean(x), how) if next(count) in calls else clean(x)
        )
    module = {"denoiser": pipe.unet, "decoder": pipe.vae.decoder}.get(component, nn.Identity())
    strength = settings.pop("strength", 0.5)
    scale = 4.0 if settings.get("normalize") == "cfg" else 1.0
    with (
        spoiling(module, how, calls),
        guide(pipe, reward, strength, mode=mode, **settings) as trace,
    ):
        images = draw(pipe, scale)
    return trace, images


def draw(pipe: Any, scale: float = 1.0) -> Tensor:
    return pipe(
        PROMPTS,
        num_inference_steps=STEPS,
        generator=generators(0, 1),
        output_type="pt",
        guidance_scale=scale,
    ).images


@cache
def clean_images(mode: Any) -> Tensor:
    return run("none", "forward", set(), mode)[1]


COMPONENTS = ["denoiser", "decoder", "preprocess", "CLIP", "reward"]
MATRIX = [
    (component, how, mode, at)
    for component in COMPONENTS
    for how in ("forward", "backward")
    for mode in ("x0", "xt")
    for at in range(STEPS)
    # mode x0 has no backward pass through the denoiser
    if (component, how, mode) != ("denoiser", "backward", "x0")
] + [
    # a clamp makes a white pixel of the decoder's overflow, which is finite
    (component, "overflow", mode, 1)
    for component in COMPONENTS
    if component != "decoder"
    for mode in ("x0", "xt")
]


@pytest.mark.parametrize(("component", "how", "mode", "at"), MATRIX)
def test_every_injection_is_found_named_and_kept_to_its_image(
    component: str, how: str, mode: Any, at: int
) -> None:
    clean = clean_images(mode)
    with pytest.warns(RuntimeWarning, match=rf"left unguided.*{component}"):
        trace, images = run(component, how, {at}, mode)
    assert {skip.component for skip in trace.skipped} == {component}
    assert {skip.sample for skip in trace.skipped} == {1}
    assert trace.skipped[0].step == at
    assert trace.steps[at].grad_norm[1].isnan()
    assert trace.steps[at].grad_norm[0].isfinite()
    torch.testing.assert_close(images[0], clean[0], rtol=0, atol=1e-4)
    if component == "denoiser" and how != "backward":  # the unguided image is lost as well
        assert [skip.step for skip in trace.skipped] == [*range(at, STEPS)]
    else:
        assert len(trace.skipped) == 1
        assert images.isfinite().all()
        assert images[1].std() > 0.01


@pytest.mark.parametrize("mode", ["x0", "xt"])
@pytest.mark.parametrize("component", COMPONENTS[1:])
def test_an_image_spoilt_at_every_step_is_the_unguided_one(component: str, mode: Any) -> None:
    with pytest.warns(RuntimeWarning, match=rf"3 of 6 image-steps.*'{component}': 3"):
        images = run(component, "backward", {*range(STEPS)}, mode)[1]
    unguided = draw(tiny_pipeline())
    torch.testing.assert_close(images[1], unguided[1], rtol=0, atol=1e-5)
    assert not torch.allclose(images[0], unguided[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("normalize", ["raw", "cfg", "clamp"])
def test_no_normalisation_lets_a_nan_through(normalize: Any) -> None:
    with pytest.warns(RuntimeWarning, match=r"1 of 6 image-steps.*CLIP"):
        images = run("CLIP", "backward", {1}, "x0", normalize=normalize)[1]
    assert images.isfinite().all()


def test_one_spoilt_view_leaves_its_image_unguided() -> None:
    with pytest.warns(RuntimeWarning, match=r"1 of 6 image-steps.*preprocess"):
        trace, images = run("preprocess", "forward", {1}, "x0", views=3)
    assert [(skip.step, skip.sample) for skip in trace.skipped] == [(1, 1)]
    assert images.isfinite().all()


def test_at_strength_zero_a_nan_is_reported_and_changes_nothing() -> None:
    with pytest.warns(RuntimeWarning, match=r"1 of 6 image-steps.*reward"):
        trace, images = run("reward", "forward", {1}, "x0", strength=0.0)
    assert trace.steps[1].score[1].isnan()
    assert torch.equal(images, draw(tiny_pipeline()))
