"""Searches by rewards that read latents: nothing is decoded before the end."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from families.registry import FAMILIES
from test_guide_noisy import contrast
from tiny_pipelines import ProjectionReward, draw, generators, tiny_pipeline, tiny_scheduler
from tiny_rewards import any_shape
from torch import Tensor

from clipguide import Candidate, LatentReward, guide, search
from clipguide.guidance import guidance_for
from clipguide.images import to_pil
from clipguide.rewards import Reward, as_reward
from clipguide.search.fk import FeynmanKac
from clipguide.search.prune import Prune
from clipguide.search.svdd import SoftValueDecoding

STEPS = {"num_inference_steps": 4}
METHODS: dict[str, Any] = {
    "best_of": "best_of",
    "prune": Prune(at=0.25, keep=0.5),
    "fk": FeynmanKac(temperature=20.0, interval=0.25),
    "svdd": SoftValueDecoding(duplicates=2),
    "noise": "noise",
}


def pipeline(method: str) -> Any:
    noisy = method in ("fk", "svdd")
    cls = EulerAncestralDiscreteScheduler if noisy else DDIMScheduler
    return tiny_pipeline(scheduler=tiny_scheduler(cls))


class Counted:
    """Counts the images that an autoencoder decodes."""

    def __init__(self, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        plain = vae.decode

        def decode(z: Tensor, *args: Any, **options: Any) -> Any:
            self.images += len(z)
            return plain(z, *args, **options)

        monkeypatch.setattr(vae, "decode", decode)


@pytest.mark.parametrize("method", METHODS)
def test_only_finished_pictures_are_decoded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline(method)
    counted = Counted(pipe.vae, monkeypatch)
    found = search(pipe, "a fox", contrast(), METHODS[method], 4, seed=3, batch_size=2, **STEPS)
    finished = {"best_of": 4, "prune": len(found), "fk": 4, "svdd": 4, "noise": 4}[method]
    assert counted.images == finished
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


@pytest.mark.parametrize("method", ["best_of", "prune"])
def test_a_score_is_that_of_the_picture_s_clean_latents(method: str) -> None:
    pipe = pipeline(method)
    found = search(pipe, "a fox", contrast(), METHODS[method], 4, seed=3, batch_size=2, **STEPS)
    for candidate in found:
        seed = generators(candidate.seed)
        clean = pipe("a fox", generator=seed, output_type="latent", **STEPS).images
        assert candidate.score == pytest.approx(float(contrast().of_latents(clean, 0.0)), abs=1e-5)
    best = pipe("a fox", generator=generators(found[0].seed), output_type="pt", **STEPS).images
    difference = torch.tensor(list(found[0].image.tobytes()), dtype=torch.int) - torch.tensor(
        list(to_pil(best)[0].tobytes()), dtype=torch.int
    )
    assert difference.abs().max() <= 1


def test_terms_of_both_kinds_choose_together() -> None:
    pipe, pixel = pipeline("best_of"), as_reward(ProjectionReward())
    scores = {
        name: {c.seed: c.score for c in search(pipe, "a fox", reward, "best_of", 3, **STEPS)}
        for name, reward in (
            ("latent", contrast()),
            ("pixel", pixel),
            ("both", contrast() + 0.2 * pixel),
        )
    }
    for seed, both in scores["both"].items():
        expected = scores["latent"][seed] + 0.2 * scores["pixel"][seed]
        assert both == pytest.approx(expected, abs=1e-5)


def test_a_search_inside_latent_guidance_is_guided_in_each_candidate() -> None:
    pipe = pipeline("prune")
    guidance = guidance_for(contrast(), strength=2.0)
    found = search(
        pipe, "a fox", contrast(), METHODS["prune"], 4, seed=3, guidance=guidance, batch_size=1,
        **STEPS,
    )  # fmt: skip
    best: Candidate = found[0]
    with guide(pipe, contrast(), config=guidance):
        own = pipe("a fox", generator=generators(best.seed)[0], output_type="np", **STEPS).images
    expected = to_pil(torch.from_numpy(own).permute(0, 3, 1, 2))[0]
    assert list(best.image.tobytes()) == list(expected.tobytes())


@pytest.mark.parametrize("method", METHODS)
def test_a_final_reward_orders_what_another_has_searched(method: str) -> None:
    """Of pictures and latents together; the search itself goes as without it."""
    final = contrast() + 2.0 * as_reward(ProjectionReward())
    call: Any = {"budget": 4, "seed": 3, "batch_size": 2, **STEPS}
    plain = search(pipeline(method), "a fox", contrast(), METHODS[method], **call)
    found = search(pipeline(method), "a fox", contrast(), METHODS[method], final=final, **call)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    if method == "noise" or method == "svdd":  # these decide by finished pictures on the way
        return
    assert {c.seed for c in found} == {c.seed for c in plain}
    own = {c.seed: c for c in plain}
    for candidate in found:
        before = own[candidate.seed]
        assert list(candidate.image.tobytes()) == list(before.image.tobytes())
        pixels = torch.from_numpy(np.array(before.image)).permute(2, 0, 1)[None].float() / 255
        more = 2.0 * float(ProjectionReward()(pixels))
        assert candidate.score == pytest.approx(before.score + more, abs=0.02)


@pytest.mark.parametrize("prompts", [["a fox"], ["a fox", "a cat"]], ids=["one", "two"])
@pytest.mark.parametrize("method", METHODS)
def test_a_preview_reward_decides_what_goes_on(method: str, prompts: list[str]) -> None:
    """The search by that reward alone, its pictures in the order of the other."""
    rank, order = as_reward(ProjectionReward()), contrast()
    call: Any = {"budget": 4, "seed": 3, "batch_size": 2, **STEPS}
    alone = search(pipeline(method), prompts, rank, METHODS[method], final=order, **call)
    found = search(pipeline(method), prompts, order, METHODS[method], preview=rank, **call)
    for some, others in zip(found, alone, strict=True):
        assert [c.seed for c in some] == [c.seed for c in others]
        assert [c.score for c in some] == [c.score for c in others]
        images = [[*c.image.tobytes()] for c in some]
        assert images == [[*c.image.tobytes()] for c in others]
    if method == "prune":  # the two rewards keep others here, so the test can fail
        plain = search(pipeline(method), prompts, order, METHODS[method], **call)
        kept = [{c.seed for c in some} for some in found]
        assert kept != [{c.seed for c in some} for some in plain]


def test_guidance_climbs_the_reward_whatever_ranks_the_previews() -> None:
    pipe, rank = pipeline("prune"), as_reward(ProjectionReward())
    guidance = guidance_for(contrast(), strength=2.0)
    best = search(
        pipe, "a fox", contrast(), METHODS["prune"], 4, seed=3, preview=rank, final=rank,
        guidance=guidance, batch_size=1, **STEPS,
    )[0]  # fmt: skip
    with guide(pipe, contrast(), config=guidance):
        own = pipe("a fox", generator=generators(best.seed)[0], output_type="np", **STEPS).images
    expected = to_pil(torch.from_numpy(own).permute(0, 3, 1, 2))[0]
    assert list(best.image.tobytes()) == list(expected.tobytes())
    with torch.no_grad():
        score = float(rank(torch.from_numpy(own).permute(0, 3, 1, 2)))
    assert best.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("aware", [False, True])
def test_looks_are_as_early_as_the_preview_reward_allows(aware: bool) -> None:
    """Of a reward made for previews three looks, of another one in the middle."""
    shown: list[int] = []

    class Seen(Reward):
        noise_aware = aware

        def __call__(self, images: Tensor, **_options: Any) -> Tensor:
            shown.append(len(images))
            return images.mean((1, 2, 3))

    options: Any = {"num_inference_steps": 10, "batch_size": 9, "final": contrast()}
    search(pipeline("prune"), "a fox", contrast(), "prune", 4, preview=Seen(), **options)
    assert shown == ([8, 6, 4] if aware else [5])


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerAncestralDiscreteScheduler])
def test_a_look_reads_x0_and_the_noisy_latent(scheduler: Any) -> None:
    """One look after two calls: what the reward was shown there, beside the scheduler's own x0."""
    pipe = tiny_pipeline(scheduler=tiny_scheduler(scheduler))
    shown: list[tuple[Tensor, float]] = []

    def seen(latents: Tensor, sigma_bar: float) -> Tensor:
        shown.append((latents.clone(), sigma_bar))
        return any_shape(latents, sigma_bar)

    search(pipe, "a fox", LatentReward(seen), Prune(at=0.5, keep=0.5), 3, batch_size=9, **STEPS)
    (clean, zero), (noisy, level) = shown[:2]
    calls: list[tuple[Tensor, Tensor]] = []
    plain = pipe.scheduler.step

    @functools.wraps(plain)  # diffusers asks its signature whether it draws noise
    def step(output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        result = plain(output, timestep, sample, **options | {"return_dict": True})
        calls.append((sample, result.pred_original_sample))
        return result if options.get("return_dict", True) else (result.prev_sample,)

    pipe.scheduler.step = step
    # as many at once as in the search: another batch is rounded elsewhere
    draw(pipe, *range(len(clean)), steps=4)
    sample, x0 = calls[1]
    assert zero == 0.0
    torch.testing.assert_close(clean, x0, rtol=0, atol=1e-5)
    ratio = noisy / sample  # the same latents, in the normal form
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)
    assert 0 < level < 1
    sigma = float(pipe.scheduler.sigmas[1]) if scheduler is not DDIMScheduler else None
    if sigma is not None:
        assert level == pytest.approx(sigma / (1 + sigma**2) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("role", ["reward", "final"])
def test_latents_of_another_autoencoder_are_refused(role: str) -> None:
    pipe = pipeline("best_of")
    pipe.vae = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        next(pipe.vae.parameters()).mul_(1.5)
    rewards: dict[str, Any] = {"reward": as_reward(ProjectionReward()), role: contrast()}
    with pytest.raises(ValueError, match="got latents of another autoencoder"):
        search(pipe, "a fox", rewards.pop("reward"), budget=1, **rewards, **STEPS)


PACKED = [f for f in FAMILIES if any(n in str(f) for n in ("Flux", "Qwen", "StableDiffusion3"))]


@pytest.mark.parametrize("family", PACKED, ids=str)
def test_packed_latents_are_read_unpacked(family: Any) -> None:
    pipe, shapes = family.build(), list[tuple[int, ...]]()

    def seen(latents: Tensor, sigma_bar: float) -> Tensor:
        shapes.append((*latents.shape,))
        return any_shape(latents, sigma_bar)

    options = family.call(1)
    prompt = options.pop("prompt", None)
    options.pop("num_images_per_prompt", None)
    options["num_inference_steps"] = family.steps
    search(pipe, prompt, LatentReward(seen), "best_of", 1, **options)
    assert {len(shape) for shape in shapes} == {4}
