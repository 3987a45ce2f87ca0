"""What guidance does not do, and why: the schedulers of diffusers without a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipguide.attach.unsupported import Unsupported

_TOKENS = "it samples discrete tokens, which have no gradient"
_INVERSION = "it runs from an image to its noise: there is no image to make, nothing to guide"

# class name -> why there is no x0 to guide
REFUSED: dict[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "DDIMInverseScheduler": _INVERSION,
    "DPMSolverMultistepInverseScheduler": _INVERSION,
    "FlowMapEulerDiscreteScheduler": (
        "its model predicts the mean velocity between two noise levels, from which x0 follows only "
        "where the second is 0"
    ),
    "HeliosScheduler": (
        "its stages are a pyramid of resolutions with a velocity towards the end of a stage, not "
        "towards x0"
    ),
    "HeliosDMDScheduler": "its noise levels come as arguments of `step`, from tables of a stage",
    "KarrasVeScheduler": (
        "its `step` takes two noise levels in place of a timestep and a sample, and a second "
        "method corrects it"
    ),
    "PiflowScheduler": (
        "its model output is a policy for many substeps, with one x0 for each of them"
    ),
    "RFD4ProteinaScheduler": "its samples are coordinates of proteins, not images",
    "ScoreSdeVeScheduler": (
        "it has no `step`: a predictor and a corrector are called in turn, on different outputs"
    ),
}

# argument of `step` -> its value where it changes nothing
_NEUTRAL: dict[str, Any] = {
    "s_churn": 0.0,  # noise is added inside the step, after x0 was read
    "pred_original_sample": None,  # x0 is given; the model output is not looked at
    "per_token_timesteps": None,  # every token has a noise level of its own
}


def refuse_arguments(scheduler: Any, given: Mapping[str, Any]) -> None:
    """Refuses arguments of `step` under which the rule's x0 is not the scheduler's.

    Raises:
        NotImplementedError: names the argument.
    """
    for name, neutral in _NEUTRAL.items():
        value = given.get(name, neutral)
        if value is not neutral and (neutral is None or value > neutral):
            raise Unsupported(
                f"{type(scheduler).__name__}.step was given {name}=, under which its x0 is not the "
                "one that was verified; leave it out inside guide()"
            )


def unverified_settings(scheduler: Any) -> str | None:
    """What in a scheduler's config breaks its rule, or None."""
    config = scheduler.config
    flow = config.get("prediction_type") == "flow_prediction"
    if "use_flow_sigmas" in config and flow != bool(config.get("use_flow_sigmas")):
        if flow:
            return "prediction_type='flow_prediction' without use_flow_sigmas=True"
        if config.get("prediction_type") == "v_prediction":
            return "prediction_type='v_prediction' with use_flow_sigmas=True"
    redraws = config.get("stochastic_sampling") or type(scheduler).__name__.endswith("LCMScheduler")
    if config.get("invert_sigmas") and redraws:
        return "invert_sigmas=True together with noise drawn at every step"
    return None
