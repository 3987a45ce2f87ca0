"""Guide model: a clone of a model whose samplers climb a reward."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
from comfy_api.latest import io

from clipguide.guidance import GuidanceConfig, guidance_for

from .autoencoders import check_latents
from .decoding import find_decoder
from .guided_runs import GuidedRuns
from .sockets import CATEGORY, Reward, Runs

BY_REWARD = "by the reward"


class GuideModel(io.ComfyNode):
    """MODEL in, MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideGuideModel",
            display_name="Guide model by CLIP",
            category=CATEGORY,
            description="Every sampler that has this model moves each step's denoised picture "
            "towards a higher reward. Works with every picture model and every sampler.",
            search_aliases=["clip guidance", "clip guided"],
            inputs=[io.Model.Input("model"), Reward.Input("reward"), *_settings(), _vae()],
            outputs=[
                io.Model.Output("model"),
                Runs.Output("trace", tooltip="Scores of every guided step of the last run."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, reward: Any, vae: Any = None, **given: Any) -> io.NodeOutput:
        config = settings_of(reward, **given)
        latent_format = model.get_model_object("latent_format")
        if "latents" in reward.reads:
            check_latents(reward, vae)
        decode = find_decoder(latent_format, vae) if "images" in reward.reads else None
        runs = GuidedRuns(reward, decode, config)
        return io.NodeOutput(patched(model, runs), runs)


def _vae() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Decodes for the reward in the place of the TAESD in models/vae_approx; needed by "
        "a scorer of latents, which checks whose they are.",
    )


def _settings() -> list[io.Input]:
    share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
    return [
        io.Float.Input(
            "strength",
            default=0.1,
            min=0.0,
            max=1000.0,
            step=0.01,
            tooltip="0: the model's own picture to the bit. With rms, the size of a step in units "
            "of what the noise leaves open.",
        ),
        io.Combo.Input(
            "mode",
            options=[BY_REWARD, "x0", "noisy"],
            default=BY_REWARD,
            tooltip="x0: climbs the decoded denoised picture. noisy: climbs the noisy latent by a "
            "scorer that reads it.",
        ),
        io.Combo.Input(
            "normalize",
            options=["rms", "clamp", "raw"],
            default="rms",
            tooltip="The unit of strength. clamp: the gradient itself, but never more than rms.",
        ),
        io.Float.Input(
            "window_low", default=0.0, **share, tooltip="Guided down to this noise level."
        ),
        io.Float.Input(
            "window_high",
            default=1.0,
            **share,
            tooltip="Guided from this noise level on; 1 is pure noise, 0 the finished picture.",
        ),
        io.Int.Input("every", default=1, min=1, max=100, advanced=True),
        io.Float.Input(
            "damping",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.05,
            advanced=True,
            tooltip="0: none. Else the width of the reward, which lets early steps go less far.",
        ),
        io.Boolean.Input(
            "own_settings",
            default=False,
            advanced=True,
            tooltip="Strength and normalize as the scorer of latents was measured best at.",
        ),
    ]


def settings_of(
    reward: Any, *, strength: float, mode: str, normalize: str, window_low: float,
    window_high: float, every: int, damping: float, own_settings: bool,
) -> GuidanceConfig:  # fmt: skip
    """The widgets as `clipguide.guide` names them.

    Raises:
        ValueError: a setting out of range.
    """
    given: dict[str, Any] = {"window": (window_low, window_high), "every": every}
    if not own_settings:
        given |= {"strength": strength, "normalize": normalize}
    if mode != BY_REWARD:
        given["mode"] = mode
    if damping > 0:
        given["damping"] = damping
    return guidance_for(reward, **given)


def patched(model: Any, runs: GuidedRuns) -> Any:
    """A clone whose samplers are guided; the model that came in stays as it is."""
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(runs.denoised)
    # in the options, not on the patcher: there, other wrappers count as other weights to load
    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE,
        "clipguide",
        runs.sampled,
        clone.model_options,
        is_model_options=True,
    )
    return clone
