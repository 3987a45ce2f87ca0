"""How many steps and which scale a model is run with where the user does not say."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipguide.generation.settings import Settings
from clipguide.texts import read_text

ARGUMENTS = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale"}

# samplers for models distilled to few steps, as diffusers' own guides run them: without
# classifier-free guidance, which such a model has been taught already
FEW_STEPS: dict[str, dict[str, float]] = {
    "LCMScheduler": {"steps": 4, "cfg_scale": 1.0},
    "TCDScheduler": {"steps": 4, "cfg_scale": 0.0},
    "FlowMatchLCMScheduler": {"steps": 8, "cfg_scale": 1.0},
}
_CODE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NUMBER = r"\s*=\s*(\d+(?:\.\d+)?)\b"


@dataclass(frozen=True)
class ModelDefaults:
    """Steps and scale (None: the pipeline has none), and where they are from."""

    steps: int | None
    cfg_scale: float | None
    source: str


def resolve_settings(settings: Settings, pipe: Any) -> tuple[Settings, str]:
    """`settings` with the model's own steps and scale where they are None, and where they are from.

    The first of these that says anything counts, for both: the first example with the argument on
    the model's card (README.md); what samplers of distilled models are run with (`FEW_STEPS`),
    unless the pipeline is one for them; the defaults of the pipeline's `__call__`. The text is
    empty where nothing was missing.
    """
    missing = [name for name in ARGUMENTS if getattr(settings, name) is None]
    if not missing:
        return settings, ""
    found = model_defaults(settings.model, pipe)
    values = {name: getattr(found, name) for name in missing}
    chosen = " and ".join(
        f"{name.replace('_', '-')} {value:g}" for name, value in values.items() if value is not None
    )
    return replace(settings, **values), f"{chosen}, {found.source}" if chosen else ""


def model_defaults(model: str, pipe: Any) -> ModelDefaults:
    """What `resolve_settings` fills in."""
    called = call_defaults(pipe)
    card = card_defaults(model)
    if card:
        values, source = called | card, "as the model's card has it"
    elif type(pipe.scheduler).__name__ in FEW_STEPS and not _distilled(pipe):
        name = type(pipe.scheduler).__name__
        values, source = called | FEW_STEPS[name], f"as {name} is run"
    else:
        values, source = called, f"as {type(pipe).__name__} has it"
    steps, scale = values.get("steps"), values.get("cfg_scale")
    return ModelDefaults(None if steps is None else int(steps), scale, source)


def call_defaults(pipe: Any) -> dict[str, float]:
    """The defaults of the pipeline's own `__call__`, those that it has."""
    known = inspect.signature(pipe.__call__).parameters
    values = {name: known[key].default for name, key in ARGUMENTS.items() if key in known}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def card_defaults(model: str) -> dict[str, float]:
    """The same from the first example of the model's README.md that names them; {} without one."""
    card = _card(model)
    blocks: list[tuple[str, str]] = _CODE.findall(card) if card else []
    examples = [code for language, code in blocks if language in ("python", "py", "")]
    values: dict[str, float] = {}
    for name, key in ARGUMENTS.items():
        found = next((m for code in examples if (m := re.search(rf"\b{key}{_NUMBER}", code))), None)
        if found is not None:
            values[name] = float(found[1])
    return values


def _card(model: str) -> str | None:
    """README.md of a folder, or of a hub model, from its cache or fetched like the model itself."""
    file = Path(model) / "README.md"
    if not Path(model).is_dir():
        if "/" not in model:
            return None
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(model, "README.md"))
        except (OSError, ValueError):  # no card, or no network: the model itself was in the cache
            return None
    try:
        return read_text(file)
    except ValueError:
        return None


def _distilled(pipe: Any) -> bool:
    """Whether the pipeline's class is made for such a sampler and has its defaults right."""
    return call_defaults(pipe).get("steps", 50) <= 8
