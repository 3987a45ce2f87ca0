"""Prune: sample several seeds, look at previews, finish the best."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io, ui

from clipguide.search.prune import Prune

from .autoencoders import check_latents
from .decoding import find_decoder
from .seed_runs import Previews, SamplerSettings, SeedRun, SeedRuns
from .sockets import CATEGORY, Reward


class PruneSeeds(io.ComfyNode):
    """Best of N with early pruning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguidePrune",
            display_name="Prune seeds",
            category=CATEGORY,
            description="Samples several seeds, scores their previews on the way and finishes the "
            "promising ones, within a budget of whole runs.",
            search_aliases=["best of n", "seeds", "search"],
            inputs=[
                io.Model.Input("model"),
                Reward.Input("reward"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                *_sampler_widgets(),
                *_search_widgets(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes previews in the place of the TAESD in models/vae_approx.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The finished ones, the best one first."),
                io.Int.Output("seeds", is_output_list=True),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, reward: Any, positive: Any, negative: Any, latent_image: Any, seed: int,
        budget: int, look_at: float, keep: float, vae: Any = None, **sampler: Any,
    ) -> io.NodeOutput:  # fmt: skip
        if "latents" in reward.reads:
            check_latents(reward, vae)
        decode = None
        if "images" in reward.reads:
            decode = find_decoder(model.get_model_object("latent_format"), vae)
        settings = SamplerSettings(positive, negative, **sampler)
        runs = SeedRuns(model, latent_image, settings, Previews(reward, decode))
        method = Prune() if look_at == 0 else Prune(look_at, keep)
        plan = method.plan(budget, runs.calls(), noise_aware=reward.noise_aware)
        alive = [SeedRun(seed + place) for place in range(plan.started)]
        for step, count in zip(plan.calls, plan.counts[1:], strict=True):
            alive = best(runs.to_step(alive, step), count)
        finished = best(runs.to_step(alive, runs.calls()), len(alive))
        report = "\n".join(
            [f"{plan.started} seeds begun, {plan.finished} finished"]
            + [f"seed {run.seed}: {run.score:.4f}" for run in finished]
        )
        samples = torch.cat([run.samples for run in finished])
        seeds = [run.seed for run in finished]
        return io.NodeOutput({"samples": samples}, seeds, report, ui=ui.PreviewText(report))


def best(runs: list[SeedRun], count: int) -> list[SeedRun]:
    """The `count` of highest score, best first; ties keep their order."""
    return sorted(runs, key=lambda run: -run.score)[:count]


def _sampler_widgets() -> list[io.Input]:
    """As KSampler has them."""
    return [
        io.Int.Input("seed", default=0, min=0, max=2**62, control_after_generate=True),
        io.Int.Input("steps", default=20, min=1, max=10000),
        io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1),
        io.Combo.Input("sampler_name", options=comfy.samplers.SAMPLER_NAMES),
        io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
    ]


def _search_widgets() -> list[io.Input]:
    share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.05}
    return [
        io.Int.Input(
            "budget",
            default=8,
            min=1,
            max=1024,
            tooltip="What it may cost, in whole runs of the sampler.",
        ),
        io.Float.Input(
            "look_at",
            default=0.0,
            **share,
            tooltip="The share of the steps before the only look; 0: as measured best for the "
            "scorer (in the middle; earlier and more often for one trained on previews).",
        ),
        io.Float.Input(
            "keep", default=0.5, **share, tooltip="The share of the seeds that goes on after it."
        ),
    ]
