"""CLIP guidance as a block of Modular Diffusers: between the denoiser and the scheduler's step.

The same session as the hook's (`guide`), so the same images and scores to the bit. As a block it is
saved, shown and edited with the pipeline's other blocks; `guide(pipe, ...)` works there too.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import (
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from clipguide.attach.guide import check_used
from clipguide.attach.hook import refuse_hooked
from clipguide.attach.latent_reading import LatentReading, find_reading
from clipguide.attach.layouts import Prepared
from clipguide.attach.modes import Mode, Objective, check_reads, find_mode
from clipguide.attach.preserve import Freeze, pipeline_modules
from clipguide.attach.recurrence import refuse_multistep
from clipguide.attach.schedule import Schedule
from clipguide.attach.session import Session
from clipguide.attach.unsupported import Unsupported
from clipguide.guidance.config import GuidanceConfig, guidance_for
from clipguide.guidance.trace import Trace
from clipguide.rewards.base import Reward, as_reward

NAME = "clip_guidance"
"""Of the block inside a denoising loop."""

AFTER_DENOISERS = (
    "StableDiffusionXLLoopAfterDenoiser",
    "StableDiffusionXLInpaintLoopAfterDenoiser",
    "StableDiffusion3LoopAfterDenoiser",
    "FluxLoopAfterDenoiser",
)
"""Blocks that hand `noise_pred` and `latents` to the scheduler as they are; tested one by one."""


class ClipGuidanceStep(ModularPipelineBlocks):
    """Displaces the model output of each step so that its x0 climbs a reward.

    A leaf of a denoising loop, before the block that makes the scheduler's step
    (`add_clip_guidance` puts it there). It reads from the pipeline call:

        clip_reward: what to climb, see `clipguide.guide`; None leaves the pipeline as it is.
        clip_guidance: `GuidanceConfig`; None for what `guide` takes by itself. Mode "xt" is
            refused: a modular pipeline runs under `torch.no_grad`, and no block of it can start a
            graph that reaches from the latents through the denoiser's block. Targets other than
            "output", recurrence and mode "tilt" are refused too: they act after the scheduler's
            step.
        clip_decoder: see `decoder` of `clipguide.guide`.
        generator: as always; the reward's views take its seeds and do not advance it.

    and returns `clip_trace`, the `Trace` of the call.

    Raises: as `clipguide.guide`. Cost: the same.

    Example:
        >>> from diffusers import StableDiffusionXLAutoBlocks
        >>> blocks = add_clip_guidance(StableDiffusionXLAutoBlocks())
        >>> pipe = blocks.init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
        >>> pipe.load_components()
        >>> fox = ClipReward(scorer, "a red fox")
        >>> images = pipe(prompt="a red fox", clip_reward=fox, output="images")
    """

    @property
    def description(self) -> str:
        """What block diagrams say of it."""
        return "Guides each step by the gradient of a reward of the predicted image (clipguide)."

    @property
    def inputs(self) -> list[InputParam]:
        """Of the pipeline call."""
        return [
            InputParam("clip_reward", type_hint=Reward, description="Images (B, 3, H, W) to (B,)."),
            InputParam("clip_guidance", type_hint=GuidanceConfig, description="How to guide."),
            InputParam("clip_decoder", description="In the place of the pipeline's autoencoder."),
            InputParam("generator", description="Of the call; its seeds are those of the views."),
            InputParam("height", type_hint=int, description="Of the images, for packed latents."),
            InputParam("width", type_hint=int, description="Of the images, for packed latents."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """The trace."""
        return [OutputParam("clip_trace", type_hint=Trace, description="Score of every step.")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any, i: int, t: Any) -> tuple[Any, Any]:
        """One step of the loop; `state` is the loop's block state."""
        if i == 0:
            state.clip_session = _session(components, state)
        session: Session | None = state.clip_session
        state.clip_trace = None if session is None else session.trace
        if session is None:
            return components, state
        state.noise_pred = session.output(state.noise_pred, state.latents, t)
        if i == len(state.timesteps) - 1:
            check_used(components, components.scheduler, session)
        return components, state


def _session(components: Any, state: Any) -> Session | None:
    """Of one pipeline call; None for an unguided one."""
    if state.clip_reward is None:
        return None
    reward = as_reward(state.clip_reward)
    config: GuidanceConfig = state.clip_guidance or guidance_for(reward)
    check_reads(config.mode, reward)
    mode = find_mode(config.mode)
    if mode.graph_through_denoiser:
        raise Unsupported(
            f"got mode={config.mode!r} in a modular pipeline, expected 'x0': it runs under "
            "torch.no_grad, and none of its blocks can start a graph that reaches through the "
            "denoiser's"
        )
    _refuse_after_step(config, mode)
    if config.normalize == "cfg":
        raise Unsupported(
            "got normalize='cfg' in a modular pipeline, expected another: its guider calls the "
            "denoiser once for each condition, so there is no batch to read the CFG direction from"
        )
    scheduler: Any = components.scheduler
    refuse_hooked(scheduler)
    refuse_multistep(scheduler, config)
    schedule = Schedule(scheduler)
    reading = _reading(components, state, reward)
    parts = [] if reading.decoder is None else [reading.decoder]
    modules = [*pipeline_modules(components), *parts] if "images" in reward.reads else []
    session = Session(schedule, Objective(reward, reading, Freeze(modules), config))
    session.call_begins(state.generator)
    return session


def _refuse_after_step(config: GuidanceConfig, mode: type[Mode]) -> None:
    if config.target != "output" or config.recurrence or mode.acts_after_step:
        raise ValueError(
            f"got target {config.target!r}, recurrence={config.recurrence} and mode "
            f"{config.mode!r} in a modular pipeline, expected 'output', 0 and 'x0': the block ends "
            "before the scheduler's step, and these act after it (clipguide.guide does them)"
        )


def _reading(components: Any, state: Any, reward: Reward) -> LatentReading:
    """As `find_reading`; the latents of Flux are unpacked by the size of the call."""
    reading = find_reading(components, reward, Prepared(), state.clip_decoder)
    if type(components).__name__ != "FluxModularPipeline":
        return reading
    size: tuple[int, int, int] = (state.height, state.width, components.vae_scale_factor)
    classic: Any = FluxPipeline

    def unpacked(latents: Tensor) -> Tensor:
        return classic._unpack_latents(latents, *size)

    return LatentReading(
        lambda latents: reading.grid(unpacked(latents)),
        lambda latents: reading.decode(unpacked(latents)),
        reading.decoder,
    )


def add_clip_guidance(blocks: Any) -> Any:
    """A copy of `blocks` with a `ClipGuidanceStep` in every denoising loop in it.

    Args:
        blocks: of diffusers' Modular Diffusers: a loop, or anything that holds loops, such as
            `StableDiffusionXLAutoBlocks()` or the `blocks` of a `ModularPipeline`.

    Raises:
        NotImplementedError: a loop whose scheduler block is not verified, or no loop at all.
        ValueError: guided already.
    """
    guided = copy.deepcopy(blocks)
    loops = [block for block in _tree(guided) if isinstance(block, LoopSequentialPipelineBlocks)]
    if not loops:
        raise Unsupported(f"{type(blocks).__name__} holds no denoising loop")
    for loop in loops:
        _add_to_loop(loop)
    return guided


def _tree(block: Any) -> list[Any]:
    """The block and all below it."""
    return [block, *(part for below in block.sub_blocks.values() for part in _tree(below))]


def _add_to_loop(loop: Any) -> None:
    names = [type(block).__name__ for block in loop.sub_blocks.values()]
    if NAME in loop.sub_blocks:
        raise ValueError(f"got {type(loop).__name__} with a {NAME!r} block, expected one without")
    index = next((i for i, name in enumerate(names) if name in AFTER_DENOISERS), None)
    if index is None:
        raise Unsupported(
            f"{type(loop).__name__} of {', '.join(names)} makes its scheduler step in no verified "
            f"block (verified: {', '.join(AFTER_DENOISERS)}); use clipguide.guide(pipe, ...), or "
            "insert a ClipGuidanceStep yourself where noise_pred and latents are those of the step"
        )
    loop.sub_blocks.insert(NAME, ClipGuidanceStep(), index)
