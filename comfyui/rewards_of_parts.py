"""The reward of each thing of a prompt, everywhere or where it belongs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from clipguide import PartsReward
from clipguide.rewards import Views
from clipguide.rewards.parts import JOINS

from .regions import Regions
from .rewards import lines, view_inputs
from .scoring import PROMPTS
from .sockets import CATEGORY, Region, Reward, Scorer
from .values import one_or_all, sections


class MakePartsReward(io.ComfyNode):
    """The cosines to the parts of a prompt, joined."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguidePartsReward",
            display_name="Parts reward",
            category=CATEGORY,
            description="Asks for every thing of a prompt, each in the whole picture or in its own "
            "region.",
            inputs=[
                Scorer.Input("scorer"),
                io.String.Input("prompt", multiline=True, tooltip=PROMPTS),
                io.String.Input(
                    "parts",
                    multiline=True,
                    tooltip="One a line; empty: the things that the prompt names.",
                ),
                io.Combo.Input("join", options=[*JOINS], default="softmin"),
                *view_inputs(),
                Region.Input(
                    "regions", optional=True, tooltip="One for each part, in order (see `after`)."
                ),
            ],
            outputs=[Reward.Output("reward")],
        )

    @classmethod
    def execute(
        cls, scorer: Any, prompt: str, parts: str, join: str, views: int, crop: float,
        regions: Regions | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        prompts = sections(prompt)
        if len(prompts) > 1 and regions is not None:
            raise ValueError("got regions with several prompts, expected one prompt")
        rows = [lines(part) for part in sections(parts)] if parts.strip() else None
        texts = rows[0] if rows is not None and len(prompts) == 1 else rows
        looks = Views(views, (crop, 1.0))
        return io.NodeOutput(
            PartsReward(scorer, one_or_all(prompts), texts, regions, join, views=looks)
        )
