"""Modular Diffusers pipelines that follow their prompt by CLIP: a block that makes the reward.

Custom blocks. `ClipGuidanceStep` of clipguide sits in every denoising loop before the scheduler's
step (`pip install clipguide`); the block here makes what it climbs, from the prompt and a CLIP.

    blocks = ModularPipelineBlocks.from_pretrained("pipelines", trust_remote_code=True)
    pipe = blocks.init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
    pipe.load_components()
    pipe.update_components(
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-large-patch14"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-large-patch14"),
    )
    state = pipe(prompt="a red fox", clip_guidance_strength=0.1)
    state.get("images"), state.get("clip_trace")

For other blocks: `with_clip_guidance(StableDiffusion3AutoBlocks())`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import SequentialPipelineBlocks, StableDiffusionXLAutoBlocks
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import (
    ComponentSpec,
    InputParam,
    OutputParam,
)
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from clipguide.attach.modular import add_clip_guidance
from clipguide.clip.loading import scorer_of
from clipguide.guidance.config import GuidanceConfig
from clipguide.pipelines.arguments import NAMES, ClipArguments
from clipguide.rewards.base import Reward, as_reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.views import Views


class CLIPRewardStep(ModularPipelineBlocks):
    """Makes `clip_reward` and `clip_guidance` of the prompt; the first block of a pipeline.

    Inputs: `clip_guidance_strength` (0: the pipeline unguided, to the bit), `_normalize`,
    `_damping`, `_window`, `_every` (see `clipguide.guidance.config.GuidanceConfig`), `clip_prompt`
    in the place of `prompt`, `clip_negative_prompt`, `clip_views`; or `clip_reward`, any reward in
    the place of the prompt's, and `clip_guidance`, all settings in one value.
    """

    @property
    def description(self) -> str:
        """What block diagrams say of it."""
        return "Makes the CLIP reward that guidance climbs, from the prompt."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec("clip_model", CLIPModel),
            ComponentSpec("clip_processor", CLIPProcessor),
        ]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("prompt", type_hint=str | list[str]),
            InputParam("clip_guidance_strength", type_hint=float),
            InputParam("clip_guidance_normalize", type_hint=str),
            InputParam("clip_guidance_damping", type_hint=float),
            InputParam("clip_guidance_window", type_hint=tuple),
            InputParam("clip_guidance_every", type_hint=int),
            InputParam("clip_prompt", type_hint=str | list[str]),
            InputParam("clip_negative_prompt", type_hint=str | list[str]),
            InputParam("clip_views", type_hint=Views),
            InputParam("clip_reward", type_hint=Reward | Callable[[Tensor], Tensor]),
            InputParam("clip_guidance", type_hint=GuidanceConfig),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("clip_reward", type_hint=Reward),
            OutputParam("clip_guidance", type_hint=GuidanceConfig),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        given = self.get_block_state(state)
        given.clip_guidance = _arguments(given).config()
        if given.clip_guidance.strength == 0:
            given.clip_reward = None
        elif given.clip_reward is not None:
            given.clip_reward = as_reward(given.clip_reward)
        else:
            given.clip_reward = _reward(components, given)
        self.set_block_state(state, given)
        return components, state


class CLIPGuidedStableDiffusionXLBlocks(SequentialPipelineBlocks):
    """Every workflow of Stable Diffusion XL, guided by a CLIP."""

    block_classes = [CLIPRewardStep, *StableDiffusionXLAutoBlocks.block_classes]  # noqa: RUF012
    block_names = ["clip_reward", *StableDiffusionXLAutoBlocks.block_names]  # noqa: RUF012
    _workflow_map = StableDiffusionXLAutoBlocks._workflow_map

    def __init__(self) -> None:
        super().__init__()
        self.sub_blocks = add_clip_guidance(self).sub_blocks

    @property
    def description(self) -> str:
        """What block diagrams say of it."""
        return "Stable Diffusion XL guided by CLIP, for every workflow of its auto blocks."


def with_clip_guidance(blocks: Any) -> Any:
    """A copy of a pipeline's blocks (`StableDiffusion3AutoBlocks()`, ...) that is guided by CLIP.

    Raises: NotImplementedError for a denoising loop that is not verified.
    """
    guided = add_clip_guidance(blocks)
    guided.sub_blocks.insert("clip_reward", CLIPRewardStep(), 0)
    return guided


def _arguments(given: Any) -> ClipArguments:
    """The arguments of the call, checked."""
    return ClipArguments(**{name: getattr(given, name) for name in NAMES if hasattr(given, name)})


def _reward(components: Any, given: Any) -> ClipReward:
    texts = given.prompt if given.clip_prompt is None else given.clip_prompt
    if components.clip_model is None or components.clip_processor is None:
        raise ValueError(
            "got a pipeline without clip_model and clip_processor, expected both: pass them to "
            "update_components (or clip_guidance_strength=0)"
        )
    if not texts:
        raise ValueError("got no text for CLIP, expected prompt or, with embeddings, clip_prompt")
    return ClipReward(
        scorer_of(components.clip_model, components.clip_processor),
        texts,
        negative=given.clip_negative_prompt,
        views=given.clip_views or Views(),
    )
