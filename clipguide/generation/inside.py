"""What went on inside a picture while it was made: its x0 previews as a strip, what guidance's
gradient moved in them, and its trace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from clipguide.attach.observe import ObservedPipeline, Step
from clipguide.guidance.trace import Trace
from clipguide.images import to_pil
from clipguide.report.metadata import save_drawing
from clipguide.report.trace_picture import trace_picture

FRAMES, SIDE = 8, 96  # previews in a strip, and the longest side of each in pixels


@dataclass
class Look:
    """One step of a picture.

    Attributes:
        observed: decodes.
        x0: the clean latent, (1, ...).
        unguided: the same before guidance moved it; None for a step that is not guided.
    """

    observed: ObservedPipeline
    x0: Tensor
    unguided: Tensor | None

    @cached_property
    def preview(self) -> Tensor:
        """x0 decoded, (1, 3, H, W) in [0, 1]."""
        return self.observed.images(self.x0)

    def moved(self) -> Tensor:
        """What guidance changed in the preview, (1, 3, H, W) in [-1, 1]; 0 without guidance."""
        if self.unguided is None:
            return torch.zeros_like(self.preview)
        return self.preview - self.observed.images(self.unguided)


class Inside:
    """Remembers one picture's clean latents by step, and what guidance did.

    It is shown every step (`ImageGenerator.watch`) and the trace. A scheduler without a verified
    rule for x0 leaves no previews.

    Example:
        inside = Inside()
        ImageGenerator(models, settings, inside, inside.take).sample_batch(batch)
        inside.save(Path("strip.png"), Path("moved.png"), Path("trace.png"))
    """

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self._looks: list[Look] = []
        self._unknown = False

    def __call__(self, step: Step) -> None:
        if self._unknown:
            return
        try:
            x0, unguided = step.x0(), step.unguided_x0()
        except NotImplementedError:
            self._unknown = True
            return
        first = None if unguided is None else unguided[:1].detach()
        self._looks.append(Look(step.observed, x0[:1].detach(), first))

    def take(self, trace: Trace) -> None:
        """What guidance did in the call."""
        self.trace = trace

    def frames(self, count: int = FRAMES) -> list[Image.Image]:
        """Up to `count` previews, evenly spread, the last step's the last. A decode each."""
        return [to_pil(look.preview)[0] for look in self._chosen(count)]

    def moved(self, count: int = FRAMES) -> list[Image.Image]:
        """The gradient of guidance at the steps of `frames`, as what it moved in each preview.

        Grey is nothing, lighter is what became lighter; all are amplified alike, so that the
        largest change is black or white. A guidance that adds to the sample after the step (target
        other than "output") moves no preview. [] where nothing was moved.
        Cost: a decode for each guided frame beside that of `frames`.
        """
        moved = [look.moved() for look in self._chosen(count)]
        largest = max((float(one.abs().max()) for one in moved), default=0.0)
        if largest == 0:
            return []
        return [to_pil((0.5 + one / (2 * largest)).clamp(0, 1))[0] for one in moved]

    def save(self, strip: Path, moved: Path, trace: Path) -> None:
        """Writes the strips, and the trace of a guided picture, where there is anything to show;
        one that is there stays."""
        for file, frames in ((strip, self.frames), (moved, self.moved)):
            if not file.exists() and (shown := frames()):
                save_drawing(_beside(shown), file, [])
        if self.trace is not None and self.trace.steps and not trace.exists():
            save_drawing(trace_picture(self.trace), trace, [])

    def _chosen(self, count: int) -> list[Look]:
        steps = len(self._looks)
        number = min(count, steps)
        return [self._looks[round((i + 1) * steps / number) - 1] for i in range(number)]


def _beside(frames: list[Image.Image]) -> Image.Image:
    for frame in frames:
        frame.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (sum(f.width for f in frames), max(f.height for f in frames)))
    left = 0
    for frame in frames:
        sheet.paste(frame, (left, 0))
        left += frame.width
    return sheet
