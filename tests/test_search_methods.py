"""search(): every method against plain pipeline calls; what it costs; what it leaves behind."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from tiny_pipelines import ProjectionReward, tiny_pipeline, tiny_scheduler

import clipguide
from clipguide.attach.guide import guide
from clipguide.guidance.config import GuidanceConfig
from clipguide.images import to_pil
from clipguide.search import METHODS, Candidate, NoiseSearch, Prune, SoftValueDecoding, search
from clipguide.seeds import make_generators

PROMPT, STEPS = "a b", 4
REWARD = ProjectionReward()
DETERMINISTIC = [
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
]
STOCHASTIC = [DDPMScheduler, EulerAncestralDiscreteScheduler]
GUIDED = [None, GuidanceConfig(0.2), GuidanceConfig(0.2, mode="xt", window=(0.0, 0.9))]


def pipeline(cls: type[Any] = DDPMScheduler, kind: str = "text", **config: Any) -> Any:
    return tiny_pipeline(kind, tiny_scheduler(cls, **config))


def run(pipe: Any, method: Any = "best_of", **arguments: Any) -> list[Candidate]:
    return search(pipe, PROMPT, REWARD, method, **{"num_inference_steps": STEPS, **arguments})


def plain(pipe: Any, seed: int, **arguments: Any) -> torch.Tensor:
    """One image of the stock pipeline, (1, 3, H, W)."""
    generator = make_generators([seed])[0]
    settings = {"num_inference_steps": STEPS, "output_type": "pt", **arguments}
    return pipe(PROMPT, generator=generator, **settings).images


class Calls:
    """Counts the images that really pass through a UNet, both halves of CFG as one."""

    def __init__(self, pipe: Any) -> None:
        self.images = 0.0
        self._hook = pipe.unet.conv_in.register_forward_pre_hook(self._count)

    def _count(self, module: Any, args: Any) -> None:
        self.images += args[0].shape[0] / 2

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


# ---------------------------------------------------------------------------------------- best_of


@pytest.mark.parametrize("cls", [DDIMScheduler, EulerAncestralDiscreteScheduler])
def test_best_of_is_plain_calls_ordered_to_the_bit(cls: type[Any]):
    pipe = pipeline(cls)
    images = [plain(pipe, seed) for seed in range(7, 11)]
    scores = [float(REWARD(image)) for image in images]
    found = run(pipe, budget=4, seed=7, batch_size=1)
    assert [c.score for c in found] == sorted(scores, reverse=True)
    assert found[0].score == max(scores)
    for candidate in found:
        expected = images[candidate.seed - 7]
        assert candidate.score == scores[candidate.seed - 7]
        assert candidate.image.tobytes() == to_pil(expected)[0].tobytes()


def test_batches_change_rounding_only():
    pipe = pipeline()
    single, batched = (run(pipe, budget=5, batch_size=size) for size in (1, 4))
    assert [c.seed for c in single] == [c.seed for c in batched]
    for a, b in zip(single, batched, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-4)


# ------------------------------------------------------------------------------------------ prune


@pytest.mark.parametrize("cls", DETERMINISTIC + STOCHASTIC)
def test_pruning_finishes_its_survivors_as_if_never_stopped(cls: type[Any]):
    """Multistep histories, second-order stages and the noise stream, replayed to the bit."""
    pipe = pipeline(cls)
    found = run(pipe, Prune(at=0.5), budget=3, seed=3, batch_size=1)
    assert found
    for candidate in found:
        assert candidate.score == float(REWARD(plain(pipe, candidate.seed)))


@pytest.mark.parametrize("config", GUIDED[1:])
def test_pruning_guided_trajectories(config: GuidanceConfig):
    pipe = pipeline(DPMSolverMultistepScheduler)
    found = run(pipe, "prune", budget=2, seed=3, batch_size=1, guidance=config)
    for candidate in found:
        with guide(pipe, REWARD, config=config):
            expected = plain(pipe, candidate.seed)
        assert candidate.score == float(REWARD(expected))
        assert candidate.score > float(REWARD(plain(pipe, candidate.seed)))


@pytest.mark.parametrize("config", GUIDED[1:])
def test_what_was_guided_before_is_not_guided_again(config: GuidanceConfig):
    """Rewards taken: one per guided step, one per preview, one per finished image."""
    seen: list[int] = []

    def counting(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return REWARD(images)

    pipe, method = pipeline(), Prune(at=0.5, keep=0.5)
    full = dataclasses.replace(config, window=(0.0, 1.0))
    found = search(pipe, PROMPT, counting, method, 3, guidance=full, num_inference_steps=STEPS)
    started = method.started(3, STEPS // 2, STEPS)
    assert sum(seen) == (started + len(found)) * STEPS // 2 + started + len(found)


def test_pruning_keeps_the_best_previews():
    """Those whose x0 after `at` of the calls scores best, by the scheduler's own x0."""
    pipe, method = pipeline(DDIMScheduler), Prune(at=0.5, keep=0.5)
    count = method.started(3, STEPS // 2, STEPS)
    previews: list[float] = []
    for seed in range(count):
        latents = make_latents(pipe, make_generators([seed]))
        pipe.scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps[: STEPS // 2]:
                out = pipe.scheduler.step(denoised(pipe, latents, t), t, latents)
                latents = out.prev_sample
            previews.append(float(REWARD(decoded(pipe, out.pred_original_sample))))
    best = sorted(range(count), key=lambda i: -previews[i])[: method.finished(count)]
    assert {c.seed for c in run(pipe, method, budget=3)} == set(best)


def test_pruning_image_to_image():
    pipe = pipeline(DPMSolverMultistepScheduler, "img2img")
    source = torch.rand(1, 3, 16, 16, generator=make_generators([1])[0])
    inputs = {"image": source, "strength": 0.7}
    found = run(pipe, Prune(at=0.5), budget=2, batch_size=1, **inputs)
    for candidate in found:
        assert candidate.score == float(REWARD(plain(pipe, candidate.seed, **inputs)))


@pytest.mark.parametrize(("budget", "started", "finished"), [(16, 37, 9), (1, 1, 1), (2, 5, 1)])
def test_pruning_arithmetic(budget: int, started: int, finished: int):
    """T = 20, 5 calls before the preview: N·5 + K·15 <= budget·20, and no larger N fits."""
    method = Prune()
    assert method.started(budget, 5, 20) == started
    assert method.finished(started) == finished
    assert started * 5 + finished * 15 <= budget * 20
    assert (started + 1) * 5 + method.finished(started + 1) * 15 > budget * 20


# ------------------------------------------------------------------------------------ svdd, noise


def make_latents(pipe: Any, generators: list[torch.Generator]) -> torch.Tensor:
    noise = [torch.randn(1, 4, 8, 8, generator=g) for g in generators]
    return torch.cat(noise) * pipe.scheduler.init_noise_sigma


def denoised(pipe: Any, latents: torch.Tensor, t: Any) -> torch.Tensor:
    """UNet with classifier-free guidance 7.5, as StableDiffusionPipeline; (B, 4, 8, 8)."""
    text, empty = pipe.encode_prompt(PROMPT, "cpu", len(latents), True)
    scaled = pipe.scheduler.scale_model_input(torch.cat([latents] * 2), t)
    low, high = pipe.unet(scaled, t, torch.cat([empty, text])).sample.chunk(2)
    return low + 7.5 * (high - low)


def decoded(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def slow_svdd(pipe: Any, seeds: list[int]) -> torch.Tensor:
    """One image by Algorithm 1 of arXiv 2408.08252 with alpha = 0; its reward."""
    generators = make_generators(seeds)
    latents = make_latents(pipe, generators)
    pipe.scheduler.set_timesteps(STEPS)
    schedulers = [copy.deepcopy(pipe.scheduler) for _ in seeds]  # one each: nothing is shared
    for t in pipe.scheduler.timesteps:
        out = denoised(pipe, latents, t)
        alpha_bar = pipe.scheduler.alphas_cumprod[t]
        x0 = (latents - (1 - alpha_bar).sqrt() * out) / alpha_bar.sqrt()
        best = int(REWARD(decoded(pipe, x0)).argmax())
        schedulers = [copy.deepcopy(schedulers[best]) for _ in seeds]
        x, out = latents[best : best + 1], out[best : best + 1]
        rows = [s.step(out, t, x, generator=g) for s, g in zip(schedulers, generators, strict=True)]
        latents = torch.cat([row.prev_sample for row in rows])
    return REWARD(decoded(pipe, latents)).max()


@pytest.mark.parametrize("cls", [DDPMScheduler, SASolverScheduler])
def test_svdd_is_its_algorithm_and_beats_plain_samples(cls: type[Any]):
    """SASolver remembers noise and model outputs of earlier steps: they move with the sample."""
    pipe = pipeline(cls)
    found = run(pipe, SoftValueDecoding(duplicates=3), budget=7, seed=5, batch_size=3)
    expected = [slow_svdd(pipe, [5, 6, 7]), slow_svdd(pipe, [8, 9, 10])]
    assert [c.score for c in found] == pytest.approx(sorted(map(float, expected))[::-1], abs=1e-5)
    samples = [c.score for c in run(pipe, budget=6, seed=5)]
    assert min(c.score for c in found) > sum(samples) / len(samples)


def test_svdd_draws_in_proportion_to_exp_value():
    method = SoftValueDecoding(duplicates=2, temperature=0.5)
    chance = make_generators([0, 1])
    values = torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    picks = torch.stack([method.pick(values, chance) for _ in range(2000)]).double()
    share = torch.softmax(torch.tensor([0.0, 1.0]), 0)[1]  # second of the first group
    assert float(picks[:, 0].mean()) == pytest.approx(float(share), abs=5 * 0.5 / 2000**0.5)
    low = torch.softmax(torch.tensor([2.0, 0.0]), 0)[1]  # rows 2 and 3 are the second group
    assert float(picks[:, 1].mean() - 2) == pytest.approx(float(low), abs=5 * 0.5 / 2000**0.5)


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, DDIMScheduler])
def test_noise_search_is_plain_calls_around_the_best(cls: type[Any]):
    pipe, radius = pipeline(cls), 0.4
    found = run(pipe, NoiseSearch(neighbours=3, radius=radius), budget=6, seed=2)
    by_seed = {c.seed: c.score for c in found}
    pivot = max(range(2, 5), key=lambda seed: by_seed[seed])
    latents = {s: torch.randn(1, 4, 8, 8, generator=make_generators([s])[0]) for s in range(2, 8)}
    for seed in range(2, 5):
        assert by_seed[seed] == pytest.approx(float(REWARD(plain(pipe, seed))), abs=1e-4)
    for seed in range(5, 8):
        mixed = (1 - radius**2) ** 0.5 * latents[pivot] + radius * latents[seed]
        expected = float(REWARD(plain(pipe, 0, latents=mixed)))
        assert by_seed[seed] == pytest.approx(expected, abs=1e-4)


# ---------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("config", GUIDED)
def test_budget_order_and_repetition(name: str, config: GuidanceConfig | None):
    pipe, budget = pipeline(), 4
    with Calls(pipe) as calls:
        first = run(pipe, name, budget=budget, seed=1, guidance=config)
    assert 0.75 * budget * STEPS < calls.images <= budget * STEPS
    if name != "prune":
        assert calls.images == budget * STEPS
    scores = [c.score for c in first]
    assert scores == sorted(scores, reverse=True)
    again = run(pipe, name, budget=budget, seed=1, guidance=config)
    assert [(c.score, c.seed) for c in first] == [(c.score, c.seed) for c in again]
    assert first[0].image.tobytes() == again[0].image.tobytes()


def test_second_order_calls_are_counted():
    pipe = pipeline(HeunDiscreteScheduler)
    with Calls(pipe) as calls:
        run(pipe, Prune(at=0.5, keep=0.5), budget=3)
    assert calls.images <= 3 * (2 * STEPS - 1)


def interrupted(images: torch.Tensor) -> torch.Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_the_pipeline_is_left_as_it_was(name: str):
    pipe = pipeline(EulerAncestralDiscreteScheduler)
    before, attributes = plain(pipe, 0), [set(vars(pipe)), set(vars(pipe.unet))]
    run(pipe, name, budget=4, guidance=GUIDED[1])
    with pytest.raises(KeyboardInterrupt):
        search(pipe, PROMPT, interrupted, name, 4, num_inference_steps=STEPS)
    assert type(pipe.scheduler) is EulerAncestralDiscreteScheduler
    assert [set(vars(pipe)), set(vars(pipe.unet))] == attributes
    assert torch.equal(plain(pipe, 0), before)


@pytest.mark.parametrize("name", ["fk", "svdd"])
@pytest.mark.parametrize("cls", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_copies_that_could_not_part_are_refused(name: str, cls: type[Any]):
    with pytest.raises(ValueError, match=f"got {cls.__name__}.*EulerAncestral"):
        run(pipeline(cls), name, budget=4)


@pytest.mark.parametrize("name", ["fk", "svdd"])
def test_ddim_with_eta_adds_noise(name: str):
    assert run(pipeline(DDIMScheduler), name, budget=4, eta=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "expected one of best_of, prune, fk, svdd, noise"),
        ({"budget": 0}, "budget=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"method": "svdd", "budget": 3}, "got budget 3, expected at least duplicates=4"),
        ({"generator": torch.Generator()}, "'generator'"),
        ({"output_type": "latent"}, "'output_type'"),
        ({"method": "noise", "latents": torch.zeros(1, 4, 8, 8)}, "starts from noise"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        run(pipeline(), **arguments)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Prune, {"at": 0.0}),
        (Prune, {"at": 1.0}),
        (Prune, {"keep": 0.0}),
        (SoftValueDecoding, {"duplicates": 1}),
        (SoftValueDecoding, {"temperature": -1.0}),
        (NoiseSearch, {"neighbours": 0}),
        (NoiseSearch, {"radius": float("nan")}),
    ],
)
def test_settings_out_of_range(method: Any, settings: dict[str, float]):
    with pytest.raises(ValueError, match=f"got {next(iter(settings))}"):
        method(**settings)


def test_a_negative_prompt_in_either_form():
    pipe = pipeline()
    text, listed = (run(pipe, budget=2, negative_prompt=form) for form in ("c", ["c"]))
    assert [c.score for c in text] == [c.score for c in listed]
    assert [c.score for c in text] != [c.score for c in run(pipe, budget=2)]


def test_public_names():
    assert clipguide.search is search
    assert clipguide.Candidate is Candidate
