"""Rewards: what guidance climbs and pruning ranks by."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from clipguide import ClipReward, ContrastReward
from clipguide.rewards import Views

from .regions import Regions, single
from .scoring import PROMPTS
from .sockets import CATEGORY, Region, Reward, Scorer
from .values import one_or_all, sections


def view_inputs() -> list[io.Input]:
    """The widgets of random looks at a picture."""
    return [
        io.Int.Input(
            "views",
            default=1,
            min=1,
            max=64,
            tooltip="Random looks at each picture.",
            advanced=True,
        ),
        io.Float.Input(
            "crop",
            default=1.0,
            min=0.05,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip="The smallest share of the area that a look sees; 1: the whole picture.",
        ),
    ]


class MakeClipReward(io.ComfyNode):
    """The cosine to a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideClipReward",
            display_name="CLIP reward",
            category=CATEGORY,
            description="The cosine of the picture to the prompt, less that to a negative one.",
            inputs=[
                Scorer.Input("scorer"),
                io.String.Input("prompt", multiline=True, tooltip=PROMPTS),
                io.String.Input("negative", multiline=True, tooltip="What to stay away from."),
                io.Float.Input("negative_weight", default=0.5, min=0.0, max=10.0, step=0.05),
                *view_inputs(),
                Region.Input("region", optional=True),
            ],
            outputs=[Reward.Output("reward")],
        )

    @classmethod
    def execute(
        cls, scorer: Any, prompt: str, negative: str, negative_weight: float, views: int,
        crop: float, region: Regions | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        reward = ClipReward(
            scorer,
            one_or_all(sections(prompt)),
            negative=one_or_all(sections(negative)) if negative.strip() else None,
            negative_weight=negative_weight,
            views=Views(views, (crop, 1.0)),
            region=single(region),
        )
        return io.NodeOutput(reward)


class MakeContrastReward(io.ComfyNode):
    """How surely it is the prompt and none of its alternatives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideContrastReward",
            display_name="Contrast reward",
            category=CATEGORY,
            description="How surely CLIP tells the prompt from what it is mistaken for. Use it "
            "with normalize: clamp.",
            inputs=[
                Scorer.Input("scorer"),
                io.String.Input("prompt", multiline=True, tooltip=PROMPTS),
                io.String.Input(
                    "alternatives",
                    multiline=True,
                    tooltip="What the prompt must be told from, one a line; empty: the prompt with "
                    "things, colours or sides exchanged.",
                ),
                *view_inputs(),
                Region.Input("region", optional=True),
            ],
            outputs=[Reward.Output("reward")],
        )

    @classmethod
    def execute(
        cls, scorer: Any, prompt: str, alternatives: str, views: int, crop: float,
        region: Regions | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        prompts = sections(prompt)
        others = [lines(part) for part in sections(alternatives)] if alternatives.strip() else None
        looks = Views(views, (crop, 1.0))
        reward = ContrastReward(scorer, prompts, others, views=looks, region=single(region))
        return io.NodeOutput(reward)


class MakeLatentReward(io.ComfyNode):
    """A reward of the noisy latent itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideLatentReward",
            display_name="Latent reward",
            category=CATEGORY,
            description="A reward of the noisy latents by a scorer that reads them: guidance "
            "without decoding (mode noisy).",
            inputs=[
                Scorer.Input("scorer", tooltip="One of latents, such as starter:latent."),
                io.String.Input("prompt", multiline=True, tooltip=PROMPTS),
                io.Combo.Input("kind", options=[*KINDS], default="contrast"),
            ],
            outputs=[Reward.Output("reward")],
        )

    @classmethod
    def execute(cls, scorer: Any, prompt: str, kind: str) -> io.NodeOutput:
        if scorer.reads != "latents":
            raise ValueError(
                f"got {scorer.name}, a scorer of pictures, expected one that reads latents, such "
                "as starter:latent (CLIP reward and contrast reward take scorers of pictures)"
            )
        return io.NodeOutput(KINDS[kind](scorer, sections(prompt)))


KINDS: dict[str, Any] = {"contrast": ContrastReward, "cosine": ClipReward}


class AddRewards(io.ComfyNode):
    """A weighted sum of two."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weight: dict[str, Any] = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05}
        return io.Schema(
            node_id="ClipguideAddRewards",
            display_name="Add rewards",
            category=CATEGORY,
            description="weight_1 · reward_1 + weight_2 · reward_2; a single one is scaled.",
            inputs=[
                Reward.Input("reward_1"),
                io.Float.Input("weight_1", **weight),
                io.Float.Input("weight_2", **weight),
                Reward.Input("reward_2", optional=True),
            ],
            outputs=[Reward.Output("reward")],
        )

    @classmethod
    def execute(
        cls, reward_1: Any, weight_1: float, weight_2: float, reward_2: Any = None
    ) -> io.NodeOutput:
        total = weight_1 * reward_1
        return io.NodeOutput(total if reward_2 is None else total + weight_2 * reward_2)


def lines(text: str) -> list[str]:
    """The lines of a text that have anything in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]
