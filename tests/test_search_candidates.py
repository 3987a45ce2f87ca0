"""A candidate is what the pipeline makes of its seed alone, and the pipeline stays as it was."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FirstBlockCacheConfig,
    FluxPipeline,
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionSAGPipeline,
)
from families import diffusions, flows_packed, latent_unets, pixels, stable_diffusion_3
from families.latent_unets import stable_diffusion
from families.parts import Family, ddim
from tiny_pipelines import tiny_scorer
from tiny_search import PROMPT, REWARD, STEPS, Stopped, pipeline, plain, run

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.guidance.config import GuidanceConfig
from clipguide.images import to_pil
from clipguide.rewards import ClipReward, Views
from clipguide.rewards.base import as_reward
from clipguide.search import FeynmanKac, NoiseSearch, SoftValueDecoding, search
from clipguide.search.call import Call
from clipguide.search.path import Path
from clipguide.search.rollout import Rollout
from clipguide.search.stages import StageRewards
from clipguide.seeds import make_generators

MODULES = (latent_unets, stable_diffusion_3, flows_packed, diffusions, pixels)
BY_NAME = {str(family): family for module in MODULES for family in module.FAMILIES}
PICTURES = [
    "StableDiffusionInpaintPipeline-4 channels",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Img2ImgPipeline",
    "FluxImg2ImgPipeline",
    "FluxKontextPipeline",
]
SIGNED = ["KandinskyV22Pipeline", "IFPipeline"]


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean((1, 2, 3))


def single(family: Family) -> tuple[str | None, dict[str, Any]]:
    """Prompt and arguments of a call for one image, as a user writes them."""
    call = family.call(1) | {"num_inference_steps": family.steps}
    call = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in call.items()}
    return call.pop("prompt", None), call


def alone(pipe: Any, prompt: str | None, call: dict[str, Any], seed: int) -> Any:
    text = {} if prompt is None else {"prompt": prompt}
    return pipe(**text, **call, generator=make_generators([seed])[0], output_type="pil").images[0]


@pytest.mark.parametrize("name", PICTURES + SIGNED)
@pytest.mark.parametrize("method", ["best_of", Stopped()], ids=["best_of", "stopped"])
def test_a_candidate_is_the_pipeline_s_picture_of_its_seed(name: str, method: Any) -> None:
    """Whatever `batch_size` says: pictures given are encoded with the candidate's own numbers."""
    family = BY_NAME[name]
    pipe, (prompt, call) = family.build(), single(family)
    found = search(pipe, prompt, brightness, method, 3, 5, batch_size=4, **call)
    assert {c.seed for c in found} >= {5, 6}
    for candidate in found:
        expected = alone(pipe, prompt, call, candidate.seed)
        if name in PICTURES:
            assert candidate.image.tobytes() == expected.tobytes()
        else:  # in one batch: its sums round differently
            pairs = zip(candidate.image.tobytes(), expected.tobytes(), strict=True)
            difference = [abs(a - b) for a, b in pairs]
            assert max(difference) <= 1


def clip_reward(views: Views) -> ClipReward:
    return ClipReward(tiny_scorer(), "a fox", views=views)


RANDOM = {
    "views": (Views(count=2, crop=(0.5, 1.0)), {}),
    "smoothing": (Views(), {"smoothing": 2, "smoothing_radius": 0.3}),
    "both, in a window": (
        Views(count=2, noise=0.1), {"smoothing": 2, "window": (0.0, 0.9), "every": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "mode"),
    [("views", "x0"), ("views", "tilt"), ("smoothing", "x0"), ("both, in a window", "xt")],
)
def test_random_guidance_goes_on_where_it_was_stopped(case: str, mode: Any) -> None:
    views, settings = RANDOM[case]
    if mode == "tilt":
        settings = {**settings, "damping": None}
    pipe, reward = pipeline(), clip_reward(views)
    config = GuidanceConfig(0.3, mode=mode, **settings)
    arguments = {"num_inference_steps": STEPS, "batch_size": 1, "guidance": config}
    found = search(pipe, PROMPT, reward, Stopped(), 1, 3, **arguments)
    found += search(pipe, PROMPT, reward, FeynmanKac(ess=0.0, interval=0.4), 1, 3, **arguments)
    for candidate in found:
        with guide(pipe, reward, config=config):
            expected = plain(pipe, candidate.seed)
        assert candidate.image.tobytes() == to_pil(expected)[0].tobytes()


def test_copies_of_a_particle_draw_views_of_their_own() -> None:
    """Each particle's streams are its seed's, also after it has followed another."""
    pipe, reward = pipeline(DDIMScheduler), clip_reward(Views(count=1, crop=(0.5, 0.6)))
    with guide(pipe, reward, config=GuidanceConfig(0.3)), observe(pipe) as observer:
        call = Call(pipe, PROMPT, {"num_inference_steps": 4})
        rollout = Rollout(call, StageRewards(reward), 2, observer)
        paths, _ = rollout.advance([Path(1), Path(2)], 2)
        copy = paths[1].following(paths[0])
        assert {*copy.guidance.random} == {"views", "smoothing"}
        ours = rollout.finish([copy, paths[0]]).images
    assert not torch.equal(ours[0], ours[1])  # without noise of the scheduler: by their views


def test_a_search_inside_guide_with_a_generator_is_refused() -> None:
    """Its candidates would depend on their place in the batch, not on their seed."""
    pipe = pipeline()
    context = guide(pipe, REWARD, 0.1, generator=torch.Generator())
    with pytest.raises(ValueError, match="generator"), context:
        run(pipe, budget=1)


def test_svdd_of_one_image_per_call_is_svdd_of_a_batch() -> None:
    pipe = pipeline(DDPMScheduler)
    method = SoftValueDecoding(duplicates=3)
    with observe(pipe) as observer:
        call = Call(pipe, PROMPT, {"num_inference_steps": STEPS})
        rollout = Rollout(call, StageRewards(as_reward(REWARD)), 1, observer)
        (batch,) = method._decode(rollout, [5, 6, 7])
        one = method._decode_alone(rollout, [5, 6, 7])
    assert one.score == pytest.approx(batch.score, abs=1e-5)
    assert one.seed == batch.seed


def test_svdd_of_a_pipeline_that_takes_a_picture() -> None:
    family = BY_NAME["StableDiffusionImg2ImgPipeline"]
    prompt, call = single(family)
    pipe = stable_diffusion(type(family.build()), pipeline(DDPMScheduler).scheduler)
    found = search(pipe, prompt, brightness, SoftValueDecoding(2), 4, **call)
    assert len(found) == 2


def test_noise_search_with_a_control_picture_and_not_of_a_picture() -> None:
    control = BY_NAME["StableDiffusionControlNetPipeline"]
    prompt, call = single(control)
    assert len(search(control.build(), prompt, brightness, NoiseSearch(2), 3, **call)) == 3
    picture = BY_NAME["StableDiffusionImg2ImgPipeline"]
    prompt, call = single(picture)
    with pytest.raises(ValueError, match="got image="):
        search(picture.build(), prompt, brightness, "noise", 3, **call)


# ------------------------------------------------------------------------- what a search leaves


@cache
def pag() -> Any:
    return stable_diffusion(StableDiffusionPAGPipeline, ddim(), pag_applied_layers="mid")


def processors(pipe: Any) -> list[Any]:
    return [*pipe.unet.attn_processors.values()]


@pytest.mark.parametrize("method", ["best_of", "prune"])
def test_a_pipeline_that_changes_its_modules_for_a_call_has_them_back(method: str) -> None:
    pipe = pag()
    before = processors(pipe)
    found = run(pipe, method, budget=4, batch_size=1)
    assert [*map(id, processors(pipe))] == [*map(id, before)]
    for scale in (3.0, 1.0):  # another scale sets other processors
        expected = plain(pipe, found[0].seed, pag_scale=scale)
    assert torch.equal(expected, plain(pag(), found[0].seed, pag_scale=1.0))


def test_an_error_in_a_search_leaves_the_modules_too() -> None:
    pipe = pag()
    before = processors(pipe)
    with pytest.raises(ValueError, match="adds no noise"):
        run(pipe, "fk", budget=2)
    assert [*map(id, processors(pipe))] == [*map(id, before)]


@pytest.mark.parametrize(
    "cls", [StableDiffusionSAGPipeline, StableDiffusionAttendAndExcitePipeline]
)
def test_what_remembers_its_steps_is_refused_by_name(cls: type[Any]) -> None:
    pipe = stable_diffusion(cls, ddim())
    with pytest.raises(NotImplementedError, match=f"{cls.__name__} cannot be stopped.*best_of"):
        run(pipe, "prune", budget=4)


def test_a_cache_over_steps_is_refused_until_it_is_switched_off() -> None:
    pipe = flows_packed.flux(FluxPipeline)
    arguments = {"num_inference_steps": 4, "height": 16, "width": 16, "max_sequence_length": 16}
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(NotImplementedError, match="disable_cache"):
        search(pipe, PROMPT, brightness, "prune", 4, **arguments)
    pipe.transformer.disable_cache()
    assert search(pipe, PROMPT, brightness, "prune", 4, **arguments)
