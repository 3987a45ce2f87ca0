"""The starter's figures: unguided, guided, best of several, searched, on fixed prompts in one run.

Command: python -m training.starter.measure [--prompts 300] [--cfg 1 2 3] [--strength 1 2 4]
             [--ways unguided guided search latent default] [--best-of 2 4]
             [--budget 2 8] [--swaps 1000] [--batch 20]
             [--unet WORK/unet_model --prediction v_prediction]
Hardware: one CPU core. Minutes: about 50 for 300 prompts; each way can run on a core of its own.
Seconds:  a search takes one prompt at a time, the other rows --batch of them; --batch 1 compares.
Expected: the table of clipguide/assets/starter/README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from clipguide.attach.guide import guide
from clipguide.attach.starter import load_starter, load_starter_decoder
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import spec_of
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.data.scenes import render_array, sample_scene
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.evaluation.swaps import swap_accuracy
from clipguide.generation.sampling import reward_of
from clipguide.generation.settings import Settings, settings_for
from clipguide.guidance.config import GuidanceConfig
from clipguide.search import search

from . import models, previews, vae

UNSEEN_SEED = 900_000
"""First seed of the scenes that swaps are measured on; training begins at TRAIN_SEED."""
GRADIENTS = GuidanceConfig(4.0, "xt", normalize="clamp", window=(0.5, 1.0))
"""The gradients that were found best for the starter, of a contrast reward."""
WAYS = ("unguided", "guided", "search", "latent", "default")
"""Gradients and search by the scorer of pictures; by the latents gradients, and the default."""
SEARCH_SEED = 100_000
"""First seed of the searches: none that another row used."""
MIDDLE = 500
"""The timestep of a preview from the middle of sampling, of 1,000."""


@dataclass(frozen=True)
class Outcome:
    """What one way of sampling gave: images in the order of the prompts, and seconds for each."""

    images: list[Image.Image]
    seconds: float


@dataclass(frozen=True)
class Figures:
    """One row of the table; accuracies in percent, scores are cosines."""

    name: str
    oracle: float
    seen: float
    held_out: float
    guiding: float
    judging: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name:<44} {self.oracle:6.1f} {self.seen:6.1f} {self.held_out:6.1f} "
            f"{self.guiding:8.4f} {self.judging:8.4f} {self.seconds:7.3f}"
        )


HEADER = (
    f"{'':<44} {'oracle':>6} {'seen':>6} {'novel':>6} {'guiding':>8} {'held-out':>8} {'s/image':>7}"
)


def sample(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, *,
    scorer: Scorer, steps: int, batch: int, decoder: Any = None,
) -> Outcome:  # fmt: skip
    """One image per prompt and seed, `batch` of them at once; no search."""
    images: list[Image.Image] = []
    started = time.perf_counter()
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(s) for s in seeds[start : start + batch]]
        context: Any = nullcontext()
        if settings.guidance.strength > 0:
            reward = reward_of(scorer, settings, part)
            context = guide(pipe, reward, config=settings.guidance, decoder=decoder)
        with context:
            images += pipe(
                part, generator=generators, num_inference_steps=steps,
                guidance_scale=settings.cfg_scale,
            ).images  # fmt: skip
    return Outcome(images, (time.perf_counter() - started) / len(prompts))


def figures(
    name: str, outcome: Outcome, prompts: Sequence[str], novel: int, guiding: Scorer,
    judging: Scorer,
) -> Figures:  # fmt: skip
    """Judge an outcome; the last ``novel`` prompts are the held-out combinations."""
    right = [
        oracle_verdict(image, text).ok for image, text in zip(outcome.images, prompts, strict=True)
    ]
    seen = right[: len(right) - novel]
    return Figures(
        name,
        100 * sum(right) / len(right),
        100 * sum(seen) / max(1, len(seen)),
        100 * sum(right[len(seen) :]) / max(1, novel),
        float(guiding.score(outcome.images, list(prompts)).mean()),
        float(judging.score(outcome.images, list(prompts)).mean()),
        outcome.seconds,
    )


@dataclass(frozen=True)
class Bench:
    """The starter's models with the prompts they are measured on.

    Candidate k of prompt i has seed i + k times the number of prompts, whatever the way of
    sampling, so rows are compared seed by seed; candidates sampled for one row serve the next.
    """

    pipe: Any
    decoder: Any
    guiding: Scorer
    judging: Scorer
    prompts: list[str]
    novel: int
    steps: int
    batch: int
    sampled: dict[str, list[Outcome]] = field(default_factory=dict[str, list[Outcome]])

    def scorer_of(self, settings: Settings) -> Scorer:
        """What these settings guide by; figures are the scorer of pictures' always."""
        return self.guiding if settings.scorer == "starter" else _loaded(settings.scorer)

    def candidates(self, settings: Settings, count: int) -> list[Outcome]:
        """The first ``count`` candidates of every prompt."""
        found = self.sampled.setdefault(json.dumps(settings.to_json(), sort_keys=True), [])
        for k in range(len(found), count):
            seeds = range(k * len(self.prompts), (k + 1) * len(self.prompts))
            found.append(
                sample(
                    self.pipe, self.prompts, seeds, settings, scorer=self.scorer_of(settings),
                    steps=self.steps, batch=self.batch, decoder=self.decoder,
                )
            )  # fmt: skip
        return found[:count]

    def run(self, name: str, settings: Settings, *, candidates: int = 1) -> Figures:
        """One row: the best by the guiding CLIP of ``candidates`` images for each prompt."""
        outcomes = self.candidates(settings, candidates)
        started = time.perf_counter()
        scores = torch.stack([self.guiding.score(o.images, self.prompts) for o in outcomes])
        best = scores.argmax(dim=0).tolist()
        images = [outcomes[k].images[i] for i, k in enumerate(best)]
        ranking = (time.perf_counter() - started) / len(images) if candidates > 1 else 0.0
        whole = Outcome(images, sum(o.seconds for o in outcomes) + ranking)
        row = figures(name, whole, self.prompts, self.novel, self.guiding, self.judging)
        print(row, flush=True)
        return row

    def searched(self, name: str, settings: Settings, *, budget: int) -> Figures:
        """One row: the settings' search, one prompt at a time, the best picture of each."""
        scorer = self.scorer_of(settings)
        guidance = settings.guidance if settings.guidance.strength > 0 else None
        started = time.perf_counter()
        images = [
            search(
                self.pipe, prompt, reward_of(scorer, settings, [prompt]),
                settings.search or "best_of", budget=budget, seed=SEARCH_SEED + 5 * budget * i,
                guidance=guidance, batch_size=settings.batch_size, decoder=self.decoder,
                num_inference_steps=self.steps, guidance_scale=settings.cfg_scale,
            )[0].image
            for i, prompt in enumerate(self.prompts)
        ]  # fmt: skip
        outcome = Outcome(images, (time.perf_counter() - started) / len(images))
        row = figures(name, outcome, self.prompts, self.novel, self.guiding, self.judging)
        print(row, flush=True)
        return row


@functools.cache
def _loaded(scorer: str) -> Scorer:
    """Once: what it costs to load is not what it costs to guide."""
    return load_scorer(scorer)


def open_bench(
    count: int, steps: int, batch: int, unet: Path | None = None, prediction: str = "v_prediction"
) -> Bench:
    """The bundled models; a third of the ``count`` prompts ask for held-out combinations.

    ``unet``: a folder with a diffusion model in place of the bundled one, and its ``prediction``.
    """
    novel = count // 3
    pipe: Any = load_starter()
    if unet is not None:
        pipe.unet = UNet2DConditionModel.from_pretrained(unet).eval().requires_grad_(False)
        pipe.scheduler = models.build_scheduler(prediction)
    pipe.set_progress_bar_config(disable=True)
    prompts = fixed_prompts(count - novel) + fixed_prompts(novel, held_out=True)
    guiding, judging = load_scorer("starter"), load_scorer("starter:judge")
    return Bench(pipe, load_starter_decoder(), guiding, judging, prompts, novel, steps, batch)


@torch.no_grad()
def print_swaps(bench: Bench, count: int) -> None:
    """How often each CLIP prefers a caption to its swaps: clean scenes, and x0 previews of them."""
    rng = Random(5)
    scenes = [sample_scene(UNSEEN_SEED + i, count=2) for i in range(count)]
    specs = [spec_of(scene, rng, relation=1.0) for scene in scenes]
    pixels = torch.stack([torch.from_numpy(render_array(scene)) for scene in scenes])
    clean = pixels.permute(0, 3, 1, 2)  # (N, 3, 128, 128) uint8
    pipe = bench.pipe
    scale = float(pipe.vae.config.scaling_factor)
    seen = previews.make_previews(
        scenes, vae.encode(pipe.vae, clean) * scale, pipe.unet, bench.decoder, pipe.text_encoder,
        pipe.tokenizer, pipe.scheduler, scale, torch.Generator().manual_seed(5), MIDDLE,
    )  # fmt: skip
    for name, scorer in (("guiding", bench.guiding), ("held-out", bench.judging)):
        for kind, images in (("clean", clean), (f"x0 previews at timestep {MIDDLE}", seen)):
            found = swap_accuracy(scorer.encode_image(images.float() / 255), specs,
                                  scorer.encode_text)  # fmt: skip
            shown = ", ".join(f"{swap} {100 * rate:.1f} %" for swap, rate in found.items())
            print(f"swap accuracy of the {name} CLIP, {count} {kind}: {shown}", flush=True)


def main() -> None:
    """The table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300, help="how many fixed prompts")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, default=20, help="prompts at once, but for searches")
    parser.add_argument("--cfg", type=float, nargs="+", help="classifier-free scales to try")
    parser.add_argument("--swaps", type=int, default=0, help="scenes for the swap accuracies")
    parser.add_argument("--strength", type=float, nargs="+", default=[], help="guidance to try")
    parser.add_argument("--unet", type=Path, help="a folder, instead of the bundled one")
    parser.add_argument("--prediction", choices=models.PREDICTIONS, default="v_prediction",
                        help="what --unet predicts")  # fmt: skip
    parser.add_argument("--budget", type=int, nargs="+", help="of the default search")
    parser.add_argument("--best-of", type=int, nargs="*", default=[2, 4], help="candidates")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="rows to make")
    given = parser.parse_args()
    if given.swaps and given.prediction == "flow_prediction":
        parser.error("--swaps makes its previews by a noise schedule, which flow has not")
    bench = open_bench(given.prompts, given.steps, given.batch, given.unet, given.prediction)
    if given.swaps:
        print_swaps(bench, given.swaps)
    print(f"{given.prompts} prompts ({bench.novel} novel), {given.steps} steps\n{HEADER}")
    default = settings_for("starter", {"scorer": "starter"})
    plain = default.unguided()
    if "unguided" in given.ways:
        for scale in given.cfg or [plain.cfg_scale]:
            bench.run(f"unguided, cfg {scale:g}", replace(plain, cfg_scale=scale))
        for count in given.best_of:
            bench.run(f"best of {count}, unguided", plain, candidates=count)
    if "guided" in given.ways:
        for strength in given.strength or [GRADIENTS.strength]:
            config = replace(GRADIENTS, strength=strength)
            guided = replace(plain, guidance=config, reward="contrast")
            bench.run(f"gradients, strength {strength:g}", guided)
    if "search" in given.ways:
        for budget in given.budget or [default.budget]:
            bench.searched(f"{default.search} by previews, budget {budget}", default, budget=budget)
    latent = settings_for("starter", {})
    if "latent" in given.ways:
        bench.run("latent gradients", latent.without_search())
    if "default" in given.ways:
        for budget in given.budget or [latent.budget]:
            bench.searched(f"default: {latent.search}, budget {budget}", latent, budget=budget)


if __name__ == "__main__":
    main()
