"""What went on inside a picture while it was made: its x0 previews as a strip, and its trace."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from clipguide.attach.observe import ObservedPipeline, Step
from clipguide.guidance.trace import Trace
from clipguide.images import to_pil
from clipguide.report.metadata import save_drawing
from clipguide.report.trace_picture import trace_picture

FRAMES, SIDE = 8, 96  # previews in a strip, and the longest side of each in pixels


class Inside:
    """Remembers one picture's clean latents by step, and what guidance did.

    It is shown every step (`ImageGenerator.watch`) and the trace. A scheduler without a verified
    rule for x0 leaves no previews.

    Example:
        inside = Inside()
        ImageGenerator(models, settings, inside, inside.take).sample_batch(batch)
        inside.save(Path("strip.png"), Path("trace.png"))
    """

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self._clean: list[tuple[ObservedPipeline, Tensor]] = []
        self._unknown = False

    def __call__(self, step: Step) -> None:
        if self._unknown:
            return
        try:
            self._clean.append((step.observed, step.x0()[:1].detach()))
        except NotImplementedError:
            self._unknown = True

    def take(self, trace: Trace) -> None:
        """What guidance did in the call."""
        self.trace = trace

    def frames(self, count: int = FRAMES) -> list[Image.Image]:
        """Up to `count` previews, evenly spread, the last step's the last. A decode each."""
        steps = len(self._clean)
        number = min(count, steps)
        places = [round((i + 1) * steps / number) - 1 for i in range(number)]
        chosen = [self._clean[place] for place in places]
        return [to_pil(observed.images(x0))[0] for observed, x0 in chosen]

    def save(self, strip: Path, trace: Path) -> None:
        """Writes the strip, and the trace of a guided picture, where there is anything to show;
        one that is there stays."""
        if self._clean and not strip.exists():
            save_drawing(_beside(self.frames()), strip, [])
        if self.trace is not None and self.trace.steps and not trace.exists():
            save_drawing(trace_picture(self.trace), trace, [])


def _beside(frames: list[Image.Image]) -> Image.Image:
    for frame in frames:
        frame.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (sum(f.width for f in frames), max(f.height for f in frames)))
    left = 0
    for frame in frames:
        sheet.paste(frame, (left, 0))
        left += frame.width
    return sheet
