"""What pipelines decode beside pictures, and the messages where no step could be guided."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionLDM3DPipeline
from families import cascade
from families.latent_unets import stable_diffusion
from families.parts import ddim, vae
from families.stable_diffusion_3 import sd3
from tiny_pipelines import ProjectionReward, call, generators, tiny_pipeline
from tiny_search import Stopped
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.search import search
from clipguide.seeds import make_generators

REWARD = ProjectionReward()
SETTINGS = {"num_inference_steps": 3, "output_type": "np"}


@cache
def with_depth() -> Any:
    six = vae(in_channels=6, out_channels=6)
    return stable_diffusion(StableDiffusionLDM3DPipeline, ddim(), vae=six, image_encoder=None)


def last_preview(pipe: Any, run: Any, mode: Any = "x0", **settings: Any) -> tuple[Tensor, Any]:
    """The last guided x0 decoded, and what the call returned."""
    previews: list[Tensor] = []
    with (
        guide(pipe, brightness, 0.3, mode=mode, **settings),
        observe(pipe) as observer,
        observer.watching(lambda step: previews.append(step.images())),
    ):
        made = run()
    return previews[-1].permute(0, 2, 3, 1), made


def brightness(images: Tensor) -> Tensor:
    assert images.shape[1] == 3
    return images.mean((1, 2, 3))


@pytest.mark.parametrize("mode", ["x0", "xt"])
def test_of_a_picture_with_depth_the_picture_is_seen(mode: Any) -> None:
    pipe = with_depth()

    def run() -> Any:
        return pipe("a fox", generator=make_generators([0])[0], **SETTINGS)

    plain = run()
    preview, guided = last_preview(pipe, run, mode)
    assert guided.rgb.mean() > plain.rgb.mean()
    torch.testing.assert_close(preview, torch.from_numpy(guided.rgb), rtol=0, atol=1e-5)
    again = run()
    assert (again.rgb == plain.rgb).all()
    assert (again.depth == plain.depth).all()


@pytest.mark.parametrize("method", ["best_of", Stopped()], ids=["best_of", "stopped"])
def test_a_search_takes_the_picture_of_a_picture_with_depth(method: Any) -> None:
    pipe = with_depth()
    (found,) = search(pipe, "a fox", brightness, method, 1, 7, num_inference_steps=3)
    made = pipe("a fox", generator=make_generators([7])[0], **SETTINGS)  # as "pil" it fails
    assert found.image.tobytes() == (made.rgb[0] * 255).round().astype("uint8").tobytes()


def test_an_autoencoder_of_other_channels_is_refused_by_name() -> None:
    pipe = stable_diffusion(type(tiny_pipeline()), ddim(), vae=vae(in_channels=4, out_channels=4))
    with (
        pytest.raises(NotImplementedError, match=r"of StableDiffusionPipeline decodes 4 "),
        guide(pipe, REWARD, 0.3),
    ):
        call(pipe)


@pytest.mark.parametrize("mode", ["x0", "xt"])
def test_stable_cascade_is_guided_through_its_own_decoder(mode: Any) -> None:
    """Its loop leaves the last timestep out: the end of it is not the scheduler's."""
    pipe = cascade.stable_cascade()

    def run() -> Any:
        return pipe(**cascade.call(1), generator=make_generators([0])[0], **SETTINGS).images

    plain = run()
    preview, guided = last_preview(pipe, run, mode)
    assert guided.mean() > plain.mean()
    # the last step adds noise of .01
    torch.testing.assert_close(preview, torch.from_numpy(guided), rtol=0, atol=0.1)
    assert (run() == plain).all()
    small, _ = last_preview(pipe, run, decode_size=8)
    assert small.shape == preview.shape


def test_a_pipeline_s_own_decode_has_no_graph_whatever_decoder_is_given() -> None:
    pipe = cascade.stable_cascade()
    with guide(pipe, brightness, 0.3, mode="xt", decoder=lambda z: z[:, :3].sigmoid()) as trace:
        made = pipe(**cascade.call(1), generator=make_generators([0])[0], **SETTINGS)
    assert trace.steps
    assert made.images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_step_from_pure_noise_is_not_the_window_s_fault(steps: int) -> None:
    pipe = sd3(StableDiffusion3Pipeline)

    def run() -> Any:
        size: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": steps}
        return pipe("a fox", generator=generators(0), output_type="pt", **size).images

    if steps == 2:
        with guide(pipe, REWARD, 0.3, mode="xt") as trace:
            run()
        assert len(trace.steps) == 1
        return
    message = r"mode='xt' has no finite gradient .*\(1\.000; .*expected more steps, or mode='x0'"
    with pytest.raises(RuntimeError, match=message), guide(pipe, REWARD, 0.3, mode="xt"):
        run()
    with guide(pipe, REWARD, 0.3, mode="x0") as trace:
        run()
    assert len(trace.steps) == 1


def test_a_window_without_steps_is() -> None:
    pipe = tiny_pipeline()
    with (
        pytest.raises(RuntimeError, match="the window covers none of the 2 steps"),
        guide(pipe, REWARD, 0.3, mode="xt", window=(0.0, 0.01)),
    ):
        call(pipe)
