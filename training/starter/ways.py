"""Every way of making the starter follow a prompt, beside every other, for the seconds it takes.

Command: python -m training.starter.ways [--prompts 300] [--rows gradients ranks searches default]
             [--budgets 2 4 8] [--cfg 1 2 3 5 7.5] [--batch 20]
Hardware: one CPU core. Minutes: about 100 for all of 300 prompts; rows can run on a core each.
Seconds:  CPU seconds an image. A search takes one prompt at a time, rows with "batches" in their
          name --batch of them; "best of" is counted from unguided alone.
Columns:  oracle in percent with its 95 % bootstrap interval, on unseen combinations, cosines of the
          guiding and of the held-out CLIP, seconds, and of gradients the classifier-free scale
          whose displacement is as long ("Guidance Matters", https://arxiv.org/abs/2602.22570), at
          which an unguided row of its own is made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import Step, observe
from clipguide.clip.loading import load_scorer
from clipguide.evaluation.preference import bootstrap_mean
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.generation.sampling import method_of, reward_of
from clipguide.generation.settings import Settings, settings_for
from clipguide.rewards.named import load_reward
from clipguide.search import search
from clipguide.seeds import make_generators

from .measure import GRADIENTS, SEARCH_SEED, Bench, open_bench

ROWS = ("gradients", "ranks", "searches", "default")
SCALE_PROMPTS = 40
"""How many prompts the scale of equal displacement is measured on."""


@dataclass(frozen=True)
class Made:
    """Pictures of one way, in the order of the prompts, their clean latents, and CPU seconds."""

    images: list[Image.Image]
    latents: Tensor | None
    seconds: float


def sampled(bench: Bench, settings: Settings, first_seed: int, batch: int) -> Made:
    """One picture of each prompt, gradients and all, no search."""
    images, latents = list[Image.Image](), list[Tensor]()
    started = time.process_time()
    for start in range(0, len(bench.prompts), batch):
        part = bench.prompts[start : start + batch]
        last: list[Tensor] = []

        def keep(
            _pipe: Any, _index: int, _time: Any, found: dict[str, Tensor], last: list[Tensor] = last
        ) -> dict[str, Tensor]:
            last[:] = [found["latents"]]
            return found

        with _guidance(bench, settings, part):
            seeds = range(first_seed + start, first_seed + start + len(part))
            images += bench.pipe(
                part, generator=make_generators(seeds), num_inference_steps=bench.steps,
                guidance_scale=settings.cfg_scale, callback_on_step_end=keep,
            ).images  # fmt: skip
        latents += last
    return Made(images, torch.cat(latents), (time.process_time() - started) / len(images))


def _guidance(bench: Bench, settings: Settings, prompts: Sequence[str]) -> Any:
    if settings.guidance.strength == 0:
        return nullcontext()
    reward = reward_of(bench.scorer_of(settings), settings, prompts)
    return guide(bench.pipe, reward, config=settings.guidance, decoder=bench.decoder)


def searched(bench: Bench, settings: Settings) -> Made:
    """The settings' search, one prompt at a time."""
    scorer = bench.scorer_of(settings)
    loaded = {stage: load_reward(text, scorer) for stage, text in settings.choosing.items()}
    method = method_of(settings)
    started = time.process_time()
    images = [
        search(
            bench.pipe, prompt, reward_of(scorer, settings, [prompt]), method,
            budget=settings.budget, seed=SEARCH_SEED + 5 * settings.budget * i,
            guidance=settings.guidance if settings.guidance.strength > 0 else None,
            **{stage: one([prompt]) for stage, one in loaded.items()},
            batch_size=settings.batch_size, decoder=bench.decoder,
            num_inference_steps=bench.steps, guidance_scale=settings.cfg_scale,
        )[0].image
        for i, prompt in enumerate(bench.prompts)
    ]  # fmt: skip
    return Made(images, None, (time.process_time() - started) / len(images))


def equal_scale(bench: Bench, settings: Settings) -> float:
    """The classifier-free scale whose displacement from the unconditional prediction is as long as
    that of classifier-free and CLIP guidance together: the ratio of the norms, mean over steps."""
    some = replace(bench, prompts=bench.prompts[-SCALE_PROMPTS:])
    ratios: list[Tensor] = []
    halves: list[Tensor] = []

    def remember(_module: Any, _args: Any, output: Any) -> None:
        halves[:] = output[0].detach().chunk(2)

    def compare(step: Step) -> None:
        without, conditional = halves
        moved = (step.output - without).flatten(1).norm(dim=1)
        ratios.append(moved / (conditional - without).flatten(1).norm(dim=1))

    handle = bench.pipe.unet.register_forward_hook(remember)
    try:
        for start in range(0, len(some.prompts), bench.batch):
            part = some.prompts[start : start + bench.batch]
            with (
                _guidance(bench, settings, part),
                observe(bench.pipe) as observer,
                observer.watching(compare),
            ):
                bench.pipe(
                    part, generator=make_generators(range(len(part))),
                    num_inference_steps=bench.steps, guidance_scale=settings.cfg_scale,
                    output_type="latent",
                )  # fmt: skip
    finally:
        handle.remove()
    return float(torch.cat(ratios).mean())


HEADER = (
    f"{'':<46} {'oracle':>21} {'unseen':>6} {'guide':>6} {'judge':>6} {'CPU s':>6} {'scale':>6}"
)


def show(bench: Bench, name: str, made: Made, scale: float | None = None) -> None:
    """One row."""
    right = [
        float(oracle_verdict(image, text).ok)
        for image, text in zip(made.images, bench.prompts, strict=True)
    ]
    low, high = bootstrap_mean(right)
    unseen = right[len(right) - bench.novel :]
    cosines = [
        float(scorer.score(made.images, bench.prompts).mean())
        for scorer in (bench.guiding, bench.judging)
    ]
    oracle = f"{100 * sum(right) / len(right):5.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"
    print(
        f"{name:<46} {oracle:>21} {100 * sum(unseen) / max(1, len(unseen)):6.1f} {cosines[0]:6.3f} "
        f"{cosines[1]:6.3f} {made.seconds:6.3f} {'' if scale is None else f'{scale:6.2f}'}",
        flush=True,
    )


def gradients(bench: Bench, plain: Settings, latent: Settings, scales: Sequence[float]) -> None:
    """Unguided at some scales, and each way of gradients with its scale of equal displacement."""
    exact = replace(plain, guidance=GRADIENTS, reward="contrast")
    for scale in scales:
        made = sampled(bench, replace(plain, cfg_scale=scale), 0, bench.batch)
        show(bench, f"unguided, scale {scale:g}, batches", made)
    for name, settings in (("latent gradients", latent), ("exact xt gradients", exact)):
        scale = equal_scale(bench, settings)
        show(bench, f"{name}, batches", sampled(bench, settings, 0, bench.batch), scale)
        equal = replace(plain, cfg_scale=scale)
        made = sampled(bench, equal, 0, bench.batch)
        show(bench, f"unguided, scale {scale:.2f} (of {name}), batches", made)


def ranks(bench: Bench, plain: Settings, counts: Sequence[int]) -> None:
    """Best of N unguided, by the CLIP of pictures and by that of latents."""
    size = len(bench.prompts)
    found = [sampled(bench, plain, k * size, bench.batch) for k in range(max(counts))]
    latent = load_reward("contrast", load_scorer("starter:latent"))(bench.prompts)
    with torch.no_grad():
        by_latents = torch.stack(
            [latent.of_latents(made.latents, 0.0) for made in found if made.latents is not None]
        )
    by_pixels = torch.stack([bench.guiding.score(made.images, bench.prompts) for made in found])
    for count in counts:
        for name, scores in (("the pixel CLIP", by_pixels), ("the latent one", by_latents)):
            best = scores[:count].argmax(dim=0).tolist()
            images = [found[k].images[i] for i, k in enumerate(best)]
            seconds = sum(made.seconds for made in found[:count])
            show(bench, f"best of {count} by {name}, batches", Made(images, None, seconds))


def searches(bench: Bench, plain: Settings, budgets: Sequence[int]) -> None:
    """Pruned search without gradients, by each CLIP's contrast; unguided before it, for seconds."""
    show(bench, "unguided, one at a time", sampled(bench, plain, 0, 1))
    for budget in budgets:
        for scorer, name in (("starter", "previews"), ("starter:latent", "latents")):
            asked = replace(plain, scorer=scorer, reward="contrast", search="prune")
            asked = replace(asked, budget=budget, batch_size=20)
            show(bench, f"pruned by {name}, budget {budget}", searched(bench, asked))


def default(bench: Bench, plain: Settings, latent: Settings, budgets: Sequence[int]) -> None:
    """Latent gradients one prompt at a time, alone and with pruned search; unguided for seconds."""
    show(bench, "unguided, one at a time", sampled(bench, plain, 0, 1))
    show(bench, "latent gradients, one at a time", sampled(bench, latent, 0, 1))
    for budget in budgets:
        asked = replace(settings_for("starter", {}), budget=budget, batch_size=20)
        show(bench, f"the same, pruned search, budget {budget}", searched(bench, asked))


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300, help="how many fixed prompts")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0, 7.5])
    given = parser.parse_args()
    bench = open_bench(given.prompts, given.steps, given.batch)
    print(f"{given.prompts} prompts ({bench.novel} unseen), {given.steps} steps\n{HEADER}")
    whole = settings_for("starter", {"scorer": "starter"})
    plain = whole.unguided()
    latent = settings_for("starter", {}).without_search()
    parts: dict[str, Callable[[], None]] = {
        "gradients": lambda: gradients(bench, plain, latent, given.cfg),
        "ranks": lambda: ranks(bench, plain, given.budgets),
        "searches": lambda: searches(bench, plain, given.budgets),
        "default": lambda: default(bench, plain, latent, given.budgets),
    }
    for row in given.rows:
        parts[row]()


if __name__ == "__main__":
    main()
