"""A scorer by name, and the scores of pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from clipguide import load_scorer
from clipguide.clip.latent_scorer import LatentScorer

from .sockets import CATEGORY, Scorer
from .values import device_of, one_or_all, pictures, sections

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadScorer(io.ComfyNode):
    """A CLIP by name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideLoadScorer",
            display_name="Load CLIP scorer",
            category=CATEGORY,
            description="Loads a CLIP that scores pictures against prompts, or noisy latents.",
            search_aliases=["clip", "aesthetic", "clip score"],
            inputs=[
                io.String.Input(
                    "name",
                    default="starter",
                    tooltip="starter, starter:latent, open_clip:ARCH/TAG, openai:ARCH, "
                    "hf:REPOSITORY or a folder. A model of the Hub is downloaded once.",
                ),
                io.Combo.Input("device", options=["auto", "cpu"], default="auto"),
                io.Combo.Input("precision", options=[*PRECISIONS], default="float32"),
                io.Boolean.Input(
                    "any_vae",
                    default=False,
                    advanced=True,
                    tooltip="Of a scorer of latents: take those of a VAE with other weights too, "
                    "as where only its decoder was tuned further.",
                ),
            ],
            outputs=[Scorer.Output("scorer")],
        )

    @classmethod
    def execute(cls, name: str, device: str, precision: str, any_vae: bool) -> io.NodeOutput:
        scorer = load_scorer(name.strip(), device=device_of(device), dtype=PRECISIONS[precision])
        if isinstance(scorer, LatentScorer):
            scorer.any_autoencoder = any_vae
        return io.NodeOutput(scorer)


class ScoreImages(io.ComfyNode):
    """How well pictures follow a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideScoreImages",
            display_name="Score images",
            category=CATEGORY,
            description="The cosine of each picture to the prompt, or to its own prompt of a list.",
            inputs=[
                Scorer.Input("scorer"),
                io.Image.Input("images"),
                io.String.Input("prompt", multiline=True, tooltip=PROMPTS),
            ],
            outputs=[
                io.Float.Output("scores", is_output_list=True),
                io.String.Output("report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, scorer: Any, images: Any, prompt: str) -> io.NodeOutput:
        found = pictures(images)
        scores: list[float] = scorer.score(found, one_or_all(sections(prompt))).tolist()
        lines = [f"picture {place}: {score:.4f}" for place, score in enumerate(scores)]
        report = "\n".join([f"{scorer.name}, cosine", *lines])
        return io.NodeOutput(scores, report, ui=ui.PreviewText(report))


PROMPTS = "One prompt for the whole batch, or one for each picture with a line of --- between them."
