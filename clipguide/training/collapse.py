"""Says when a contrastive loss has come to rest where every image and caption looks alike."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field


def patience_of(steps: int) -> int:
    """Steps in a row that make a collapse in a run of so many: a third of them, from 8 to 50.

    A model begins near the value of collapse, because nothing has been learned yet: a few steps
    there say nothing, and so a run of fewer than 8 is never called collapsed.
    """
    return max(8, min(50, steps // 3))


class CollapseWarning(UserWarning):
    """The loss has stayed at the value that says nothing has been learned."""


@dataclass
class CollapseGuard:
    """Watches a loss; warns once when it stays near its value of collapse, ln(B) for most losses.

    Attributes:
        patience: steps in a row that make a collapse; the first steps of a healthy run are fewer.
        tolerance: how far from the value counts as near, as a share of it.
        near: steps in a row that were near; a resumed run goes on with those of its checkpoint.

    Example:
        >>> guard = CollapseGuard(patience=2)
        >>> guard.update(4.85, 4.852); guard.update(4.86, 4.852)
        >>> guard.collapsed
        True
    """

    patience: int = 50
    tolerance: float = 0.02
    near: int = 0
    _warned: bool = field(default=False, repr=False)

    @property
    def collapsed(self) -> bool:
        """Whether the last `patience` steps were all near."""
        return self.near >= self.patience

    def update(self, loss: float, value: float) -> None:
        """One step's loss, and `clipguide.clip.losses.collapsed_value` of its batch.

        A batch of a single pair, whose loss is 0 whatever the model is, says nothing and is left
        out.

        Warns:
            CollapseWarning: the first time the run counts as collapsed.
        """
        if value <= 0:
            return
        near = abs(loss - value) <= self.tolerance * value
        self.near = self.near + 1 if near else 0
        if self.collapsed and not self._warned:
            self._warned = True
            warnings.warn(
                f"the loss has stayed at {loss:.3f} for {self.near} steps, where every image and "
                f"caption looks alike ({value:.3f}): lower the learning rate, or use infonce",
                CollapseWarning,
                stacklevel=2,
            )
