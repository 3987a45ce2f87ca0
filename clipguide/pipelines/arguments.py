"""What the custom pipelines' calls take beside the arguments of the pipelines they inherit from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.guidance.config import GuidanceConfig, guidance_for
from clipguide.rewards.base import Reward, as_reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.attach.guide import Decoder

SETTINGS = "clip_guidance_"
"""How the names of single settings of a `GuidanceConfig` begin."""


@dataclass(frozen=True)
class ClipArguments:
    """The keyword arguments of a call that `ClipGuidedCall` adds.

    Attributes:
        clip_guidance_strength: 0 or more; 0 is the pipeline itself to the bit. None: 0.1, or what
            the scorer of a `clip_reward` that reads latents was measured best at.
        clip_guidance_mode, _normalize, _damping, _window, _every: see `GuidanceConfig`; None is its
            default.
        clip_guidance: all settings in one value, in the place of the single ones.
        clip_guidance_decoder, _decode_size: see `clipguide.guide`; an AutoencoderTiny for the same
            latents, or a small size, makes guidance cheap.
        clip_reward: what is climbed in the place of the CLIP's cosine with the prompt: any reward
            or expression of rewards that `clipguide.guide` takes. It needs no `clip_model`, unless
            candidates are to be chosen.
        clip_prompt: what CLIP reads in the place of `prompt` (needed with `prompt_embeds`): one
            text for all prompts, or one for each.
        clip_negative_prompt: what guidance leads away from.
        clip_views: random crops and flips of what CLIP sees while guiding.
        num_candidates: images sampled per prompt, at least `num_images_per_prompt`; the best by
            CLIP score are returned, best first. None samples as many as are returned and leaves
            their order. All candidates are one batch.

    Raises:
        ValueError: `clip_guidance` and single settings; `clip_reward` and a negative prompt or
            views, which are the CLIP reward's; a setting out of range.
    """

    clip_guidance_strength: float | None = None
    clip_guidance_mode: str | None = None
    clip_guidance_normalize: str | None = None
    clip_guidance_damping: float | None = None
    clip_guidance_window: tuple[float, float] | None = None
    clip_guidance_every: int | None = None
    clip_guidance: GuidanceConfig | None = None
    clip_guidance_decoder: Decoder | str | None = None
    clip_guidance_decode_size: int | None = None
    clip_reward: Reward | Callable[[Tensor], Tensor] | None = None
    clip_prompt: str | list[str] | None = None
    clip_negative_prompt: str | list[str] | None = None
    clip_views: Views | None = None
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        if self.clip_guidance is not None and self._settings():
            raise ValueError(
                f"got clip_guidance and {', '.join(SETTINGS + name for name in self._settings())}, "
                "expected one or the other"
            )
        for name in ("clip_negative_prompt", "clip_views"):
            if self.clip_reward is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"got clip_reward and {name}, expected one or the other: {name} is of the "
                    "reward that is made from the prompt"
                )
        self.config()

    def config(self) -> GuidanceConfig:
        """The settings of guidance."""
        if self.clip_guidance is not None:
            return self.clip_guidance
        if self.clip_reward is None:
            return GuidanceConfig(**self._settings())
        return guidance_for(as_reward(self.clip_reward), **self._settings())

    def reward(self, scorer: Scorer | None, texts: list[str]) -> Any:
        """What is climbed; None where there is no reward, and no CLIP or no text to make one of."""
        if self.clip_reward is not None:
            return self.clip_reward
        if scorer is None:
            return None
        views = self.clip_views or Views()
        return ClipReward(scorer, texts, negative=self.clip_negative_prompt, views=views)

    def _settings(self) -> dict[str, Any]:
        """The single settings that were given."""
        names = ("strength", "mode", "normalize", "damping", "window", "every")
        given = {name: getattr(self, SETTINGS + name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


NAMES = tuple(field.name for field in fields(ClipArguments))


def call_signature(own: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a pipeline's own call, in their order, and ours behind them by keyword."""
    signature = inspect.signature(own)
    theirs = [*signature.parameters.values()]
    rest = [p for p in theirs if p.kind is p.VAR_KEYWORD]
    ours = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.default is MISSING else field.default,
            annotation=field.type,
        )
        for field in fields(ClipArguments)
    ]
    named = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*named, *ours, *rest])
