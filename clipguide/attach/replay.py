"""What keeps a pipeline's steps from being replayed: memory that only running them fills.

A search that looks at previews stops a call and makes its steps again without the denoiser. The
scheduler remembers what it must, since it runs again; a cache in between would stay empty.
"""

from __future__ import annotations

from typing import Any

from clipguide.attach.denoisers import denoisers
from clipguide.attach.layouts import named
from clipguide.attach.unsupported import Unsupported

_KEYS = "its first step fills a cache of keys and values that the others read"
_MOMENTUM = "its guidance has a momentum over the steps"
_DOUBLED = "it steps every image together with its unconditional copy"
_ATTENTION = "it reads the attention maps of the step it is in"

# pipeline class -> what is remembered
REMEMBERING: dict[str, str] = {
    "DiTPipeline": _DOUBLED,
    "Flux2KleinKVPipeline": _KEYS,
    "GlmImagePipeline": _KEYS,
    "QwenImage21Pipeline": _KEYS,
    "HunyuanImagePipeline": _MOMENTUM,
    "HunyuanImageRefinerPipeline": _MOMENTUM,
    "SemanticStableDiffusionPipeline": _MOMENTUM,
    "StableDiffusionPipelineSafe": _MOMENTUM,
    "StableDiffusionSAGPipeline": _ATTENTION,
    "StableDiffusionAttendAndExcitePipeline": _ATTENTION,
    "StableDiffusionPix2PixZeroPipeline": _ATTENTION,
    "LEditsPPPipelineStableDiffusion": _ATTENTION,
    "LEditsPPPipelineStableDiffusionXL": _ATTENTION,
}


def refuse_replay(pipe: Any) -> None:
    """Raises where a pipeline's steps cannot be replayed.

    Raises:
        NotImplementedError: names the pipeline, or the cache of its denoiser, and what to do.
    """
    name = named(pipe, REMEMBERING)
    if name is not None:
        raise Unsupported(
            f"{type(pipe).__name__} cannot be stopped and continued: {REMEMBERING[name]}; use the "
            "methods that run it as a whole, best_of or noise"
        )
    for module in denoisers(pipe):
        if any(_remembers(part) for part in module.modules()):
            raise Unsupported(
                f"{type(module).__name__} has a cache over steps, which a stopped and continued "
                "call would not fill; disable_cache() first, or use the methods that run a "
                "pipeline as a whole, best_of or noise"
            )


def ended_early(pipe: Any, calls: int) -> ValueError:
    """The error of a call that was over before the scheduler step at which it was to be stopped."""
    return ValueError(
        f"got {type(pipe).__name__}, whose call ended before scheduler step {calls}, expected a "
        "loop over the scheduler's timesteps: it cannot be stopped and continued; use best_of or "
        "noise, which run it as a whole"
    )


def _remembers(module: Any) -> bool:
    """Whether a hook of diffusers' keeps something of a step for the next (FasterCache, ...)."""
    registry = getattr(module, "_diffusers_hook", None)
    hooks: dict[str, Any] = {} if registry is None else registry.hooks
    return any(getattr(hook, "_is_stateful", False) for hook in hooks.values())
