"""What guidance does in the runs of the samplers that have a guided model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.denoised import DenoisedGuide
from clipguide.guidance import GuidanceConfig
from clipguide.guidance.gradient import Decode
from clipguide.guidance.trace import Trace
from clipguide.rewards import Reward

from .noise import noise_level


class GuidedRuns:
    """Guides every run of the clones of one model; each run has a trace of its own.

    Args:
        reward: what to climb.
        decode: latents as the sampler steps them, to pictures; None for a reward of latents.
        config: the settings.
    """

    def __init__(self, reward: Reward, decode: Decode | None, config: GuidanceConfig) -> None:
        self.config = config
        self._reward, self._decode = reward, decode
        self._current = self._begin(None)  # settings are refused here, at the node

    @property
    def trace(self) -> Trace:
        """Of the last run."""
        return self._current.trace

    def _begin(self, seed: int | None) -> DenoisedGuide:
        """Of one run; the random numbers of the views are those of the sampler's seed."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return DenoisedGuide(self._reward, self._decode, self.config, generator)

    def sampled(
        self, run: Callable[..., Any], guider: Any, sigmas: Any, extra_args: Any, *rest: Any,
        **named: Any,
    ) -> Any:  # fmt: skip
        """Around one run of a sampler (ComfyUI's wrapper `sampler_sample`)."""
        self._current = self._begin(extra_args.get("seed"))
        samples = run(guider, sigmas, extra_args, *rest, **named)
        try:
            self._current.check_used()
        except RuntimeError as unguided:  # one part of a run may lie outside of the window
            logging.warning("clipguide: %s", unguided)
        return samples

    def denoised(self, step: dict[str, Any]) -> Tensor:
        """The new denoised x0 of a step (ComfyUI's `sampler_post_cfg_function`)."""
        level = noise_level(step["model"].model_sampling, step["sigma"])
        return self._current(step["denoised"], step["input"], level)
