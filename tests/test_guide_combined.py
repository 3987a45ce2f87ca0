"""Pipelines of two pipelines, those that take a part of the timesteps, and those that cannot be."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from sweep.case import Case
from sweep.registry import CASES
from sweep.run import Sweep, answered, reward
from tiny_search import Stopped
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.layouts import sampling_pipeline
from clipguide.attach.samplers import sampler_label, set_sampler
from clipguide.attach.unsupported import Unsupported
from clipguide.search import Prune, search
from clipguide.search.call import Call

BY_NAME = {case.pipeline: case for case in CASES}
PRUNE = Prune(at=0.34, keep=0.5)


def sweep(name: str) -> Sweep:
    return Sweep(BY_NAME[name])


@pytest.mark.parametrize("name", ["KandinskyV22CombinedPipeline", "StableCascadeCombinedPipeline"])
def test_of_a_prior_and_a_decoder_in_one_the_decoder_is_guided(name: str) -> None:
    """Its scheduler is the one that steps, whatever the outer pipeline was given later."""
    one = sweep(name)
    one.pipe.scheduler = DDPMScheduler()
    with guide(one.pipe, reward, 0.2) as trace:
        guided = one.picture(5)
    assert len(trace.steps) >= 2
    assert abs(guided - one.plain(5)).max() > 0.01
    assert one.same() == "yes"
    assert one.found(PRUNE, 4) in ("0", "1")


def test_a_sampler_is_the_decoder_s() -> None:
    pipe = BY_NAME["KandinskyV22CombinedPipeline"].build()
    set_sampler(pipe, "ddpm")
    assert type(sampling_pipeline(pipe).scheduler) is type(pipe.scheduler) is DDPMScheduler
    assert sampler_label(pipe) == "DDPM"
    set_sampler(pipe, "ddim")


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("steps", [3, 5])
def test_a_pipeline_that_does_not_count_its_steps_is_pruned(strength: float, steps: int) -> None:
    """Kandinsky's image to image leaves the first timesteps out and says it nowhere."""
    one = sweep("KandinskyV22ControlnetImg2ImgPipeline")
    call = {**one.case.call, "strength": strength, "num_inference_steps": steps}
    if int(steps * strength) == 0:
        return
    found = search(one.pipe, None, reward, Stopped(), 2, 5, **call)
    assert {candidate.seed for candidate in found} == {5, 6}


# -------------------------------------------------------------------------------- what cannot be


class Deaf(diffusers.DiffusionPipeline):
    """Denoises without asking the scheduler, and counts more steps than it makes."""

    _num_timesteps = 4

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self, batch_size: int = 1, generator: Any = None, output_type: str = "pil") -> Any:
        self.unet(torch.zeros(batch_size, 3, 8, 8), 0)
        return diffusers.ImagePipelineOutput(torch.zeros(batch_size, 8, 8, 3).numpy())


class NoScheduler(diffusers.DiffusionPipeline):
    def __call__(self, generator: Any = None, output_type: str = "pil") -> Any: ...


def deaf() -> Deaf:
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    return Deaf(unet, DDPMScheduler())


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def test_a_loop_without_the_scheduler_is_named() -> None:
    with pytest.raises(ValueError, match="ended before scheduler step 2"):
        search(deaf(), None, brightness, Stopped(), 2)
    assert len(search(deaf(), None, brightness, "best_of", 2)) == 2
    with (
        pytest.raises(RuntimeError, match=r"or its loop does not call scheduler\.step"),
        guide(deaf(), brightness, 0.1, decoder=lambda z: z),
    ):
        deaf()()


@pytest.mark.parametrize("method", ["best_of", PRUNE])
def test_without_a_scheduler_nothing_is_searched(method: Any) -> None:
    with pytest.raises(ValueError, match="got NoScheduler, expected a pipeline with a scheduler"):
        search(NoScheduler(), None, brightness, method, 2)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("KandinskyV22PriorPipeline", "it makes an embedding, not a picture"),
        ("WuerstchenPriorPipeline", "it makes an embedding, not a picture"),
        ("MarigoldDepthPipeline", "those of a map of its picture"),
        ("LDMPipeline", "with no autoencoder of a known name"),
    ],
)
def test_what_makes_no_picture_is_refused_with_the_reason(name: str, why: str) -> None:
    one: Case = BY_NAME[name]
    with pytest.raises(Unsupported, match=why) as refusal, guide(one.build(), reward, 0.1):
        pass
    assert isinstance(refusal.value, ValueError)
    assert isinstance(refusal.value, NotImplementedError)


def test_a_pipeline_that_doubles_its_pictures_is_not_stopped() -> None:
    one = sweep("DiTPipeline")
    assert "steps every image together with its unconditional copy" in answered(one.found, PRUNE, 1)
    assert one.found("best_of", 4) == "0"


def test_a_pipeline_that_fails_for_several_images_makes_one_a_call() -> None:
    one = sweep("PRXPipeline")
    with pytest.raises(RuntimeError, match="must match the size"):
        one.pipe(**one.case.call, num_images_per_prompt=3)
    assert one.found("best_of", 4) == one.found(PRUNE, 4) == "0"


def test_a_scheduler_without_a_step_is_named() -> None:
    """Of predictors and correctors that are called in turn; by guide its own reason is said."""
    pipe = BY_NAME["ScoreSdeVePipeline"].build()
    with pytest.raises(Unsupported, match="ScoreSdeVeScheduler of ScoreSdeVePipeline has no meth"):
        search(pipe, None, reward, "best_of", 2)
    with pytest.raises(Unsupported, match="a predictor and a corrector"), guide(pipe, reward, 0.1):
        pass


def test_a_pipeline_of_given_latents_has_no_place_where_xt_starts() -> None:
    pipe = BY_NAME["StableDiffusionDiffEditPipeline"].build()
    with (
        pytest.raises(Unsupported, match="begins from latents that it is given"),
        guide(pipe, reward, 0.1, mode="xt"),
    ):
        pass


def test_a_list_of_one_phrase_stays_a_list() -> None:
    pipe = BY_NAME["StableDiffusionPipeline"].build()
    given = {
        "negative_prompt": ["dark"],
        "gligen_phrases": ["a fox"],
        "gligen_boxes": [[0, 0, 1, 1]],
    }
    arguments = Call(pipe, "a fox", given).arguments
    assert arguments == given | {"negative_prompt": "dark"}
