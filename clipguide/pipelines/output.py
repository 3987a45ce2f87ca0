"""What the custom pipelines return: the images, and what CLIP said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusers.utils.outputs import BaseOutput

if TYPE_CHECKING:
    from clipguide.guidance.trace import Trace


@dataclass
class ClipGuidedOutput(BaseOutput):
    """One entry per image, in the order of the images.

    Attributes:
        images: as diffusers returns them for the call's `output_type`.
        nsfw_content_detected: of the safety checker; None where the pipeline has none.
        clip_cosines: cosine of each image with its prompt; None without a CLIP or without a text.
        candidate_indices: number of each image among the candidates of its prompt.
        seeds: of each image's generator, where a list of generators was given.
        clip_trace: what guidance did, step by step; None for an unguided call.
    """

    images: Any
    nsfw_content_detected: list[bool] | None = None
    clip_cosines: list[float] | None = None
    candidate_indices: list[int] | None = None
    seeds: list[int] | None = None
    clip_trace: Trace | None = None

    @property
    def clip_scores(self) -> list[float] | None:
        """The former name of `clip_cosines`: they are no CLIPScores, which have another scale."""
        return self.clip_cosines
