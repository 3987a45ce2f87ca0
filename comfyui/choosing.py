"""Pick best: pictures ordered by how well they follow a prompt."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from clipguide import rerank

from .sockets import CATEGORY, Scorer
from .values import as_image, pictures


class PickBest(io.ComfyNode):
    """Reranking."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguidePickBest",
            display_name="Pick best images",
            category=CATEGORY,
            description="The pictures of a batch that follow the prompt best, the best one first.",
            search_aliases=["rerank", "best of n"],
            inputs=[
                Scorer.Input("scorer"),
                io.Image.Input("images"),
                io.String.Input("prompt", multiline=True),
                io.Int.Input("top_k", default=1, min=1, max=4096),
                io.Float.Input(
                    "diversity",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0: by score alone. More: near copies of a better picture come later.",
                ),
                Scorer.Input(
                    "judge",
                    optional=True,
                    tooltip="A second scorer that orders those which the first one let through.",
                ),
            ],
            outputs=[
                io.Image.Output("images"),
                io.Int.Output("places", is_output_list=True),
                io.Float.Output("scores", is_output_list=True),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls, scorer: Any, images: Any, prompt: str, top_k: int, diversity: float,
        judge: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        found = pictures(images)
        scorers = [scorer] if judge is None else [scorer, judge]
        ranked = rerank(found, prompt.strip(), scorers, top_k, diversity=diversity)
        lines = [f"picture {row.index}: {row.score:.4f} ({row.scorer})" for row in ranked]
        report = "\n".join(lines)
        chosen = torch.stack([found[row.index] for row in ranked])
        places, scores = [row.index for row in ranked], [row.score for row in ranked]
        return io.NodeOutput(as_image(chosen), places, scores, report, ui=ui.PreviewText(report))
