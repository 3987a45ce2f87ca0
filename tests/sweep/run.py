"""What guide and search make of one pipeline class: a row of the table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from PIL import Image
from sweep.case import Case
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.search import Prune, search
from clipguide.seeds import make_generators

SEED = 5
COLUMNS = (
    "strength 0", "x0 seen", "xt seen", "best_of 1", "best_of 4", "prune 1", "prune 4", "left"
)  # fmt: skip
CLOSE = 1e-4
"""Of pictures in [0, 1]."""


def reward(images: Tensor) -> Tensor:
    """The sine of a fixed random projection, for images of any size."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(images.shape[1:], generator=generator).to(images)
    return (images * weight).flatten(1).mean(1).mul(8).sin()  # (B,)


class Sweep:
    """One pipeline: its plain pictures, and what the package makes of it.

    Raises:
        ValueError: the plain pipeline's picture is not finite, of one value, or another one the
            second time: a row would say nothing.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.pipe = case, case.build()
        self._plain: dict[int, np.ndarray[Any, Any]] = {}
        first = self.plain(SEED)
        if not np.isfinite(first).all() or first.std() < 1e-3:
            raise ValueError("its own picture is not finite, or of one value")
        if not np.array_equal(first, self.picture(SEED)):
            raise ValueError("its own picture of a seed is another one the second time")

    def picture(self, seed: int) -> np.ndarray[Any, Any]:
        """What the pipeline makes of a seed, pictures as (1, H, W, 3) in [0, 1]."""
        taken = inspect.signature(self.pipe.__call__).parameters
        kind = {"output_type": "np"} if "output_type" in taken else {}
        generator = make_generators([seed])[0]
        made = self.pipe(**deepcopy(self.case.call), **kind, generator=generator)
        value = next(iter(made.values())) if isinstance(made, dict) else made[0]
        return np.asarray(value)

    def plain(self, seed: int) -> np.ndarray[Any, Any]:
        """The pipeline's own picture."""
        if seed not in self._plain:
            self._plain[seed] = self.picture(seed)
        return self._plain[seed]

    def same(self) -> str:
        """Whether the picture is what it was, to the bit."""
        return "yes" if np.array_equal(self.picture(SEED), self.plain(SEED)) else "**no**"

    def undisturbed(self) -> str:
        """The same inside `guide` of strength 0."""
        with guide(self.pipe, reward, 0.0):
            return self.same()

    def seen(self, mode: str) -> str:
        """How far the last guided x0 decoded is from the picture that the call returned."""
        previews: list[Tensor] = []
        with (
            guide(self.pipe, reward, 0.2, mode=mode) as trace,
            observe(self.pipe) as observer,
            observer.watching(lambda step: previews.append(step.images())),
        ):
            returned = self.picture(SEED)
        preview = previews[-1][:1].permute(0, 2, 3, 1).numpy()  # DiT: the second is unconditional
        if not trace.steps or preview.shape != returned.shape:
            return f"**{preview.shape} for {returned.shape}**"
        far = float(np.abs(preview - returned).max())
        if far < CLOSE:
            return f"{far:.0e}"
        return f"{far:.0e}: {self.case.why}" if self.case.why else f"**{far:.0e}**"

    def found(self, method: Any, batch: int) -> str:
        """By how many of 255 levels candidates differ from the pipeline's pictures, at most."""
        call = deepcopy(self.case.call)
        prompt = call.pop("prompt", None)
        budget = 2 if (method, batch) == ("best_of", 1) else 3
        candidates = search(
            self.pipe, prompt, reward, method, budget, SEED, batch_size=batch, **call
        )
        far = max(self._levels(c.image, c.seed) for c in candidates)
        return f"{far}" if far <= 1 else f"**{far}**"

    def _levels(self, image: Image.Image, seed: int) -> int:
        plain = (self.plain(seed)[0] * 255).round().astype(int)
        return int(np.abs(np.asarray(image).astype(int) - plain).max())

    def row(self) -> list[str]:
        """The cells, in the order of `COLUMNS`."""
        first = answered(self.undisturbed)
        pruning = Prune(at=0.34, keep=0.5)
        return [
            first,
            # a refusal to guide is the same in every mode
            *([first] * 2 if refused(first) else [answered(self.seen, m) for m in ("x0", "xt")]),
            *(answered(self.found, "best_of", batch) for batch in (1, 4)),
            *(answered(self.found, pruning, batch) for batch in (1, 4)),
            answered(self.same),
        ]


def answered(ask: Callable[..., str], *args: Any) -> str:
    """The answer, the refusal, or (bold) anything else that was raised."""
    try:
        return ask(*args)
    except ValueError as refusal:
        return f"{type(refusal).__name__}: {one_line(refusal)}"
    except Exception as error:
        return f"**{type(error).__name__}: {one_line(error)}**"


def refused(cell: str) -> bool:
    """Whether a cell is a refusal: what was asked for was named and the reason said."""
    return cell.startswith(("Unsupported: ", "ValueError: "))


def one_line(error: BaseException) -> str:
    """Its message in a cell of a table."""
    return " ".join(str(error).split()).replace("|", "/")[:500]
