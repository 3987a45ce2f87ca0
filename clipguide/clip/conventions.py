"""Whose scale is a score on? Four conventions of the same cosine, and a number that says which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.scorer import Scorer

CLIPSCORE_PREFIX = "A photo depicts"
"""What CLIPScore puts before a caption (Hessel et al. 2021, arXiv:2104.08718, section 3)."""


def cosine(cosines: Tensor, logit_scale: float) -> Tensor:
    """The cosine itself, in [-1, 1]."""
    del logit_scale
    return cosines


def clipscore(cosines: Tensor, logit_scale: float) -> Tensor:
    """CLIP-S = 2.5 * max(cos, 0) (Hessel et al. 2021, arXiv:2104.08718, section 3), in [0, 2.5].

    The cosine is that of the caption behind `CLIPSCORE_PREFIX`: `scale_of` has both.
    """
    del logit_scale
    return 2.5 * cosines.clamp(min=0)


def torchmetrics(cosines: Tensor, logit_scale: float) -> Tensor:
    """100 * max(cos, 0), as torchmetrics' CLIPScore for one pair, in [0, 100]."""
    del logit_scale
    return 100 * cosines.clamp(min=0)


def logit(cosines: Tensor, logit_scale: float) -> Tensor:
    """cos * logit_scale, the model's own logit (without a bias)."""
    return cosines * logit_scale


CONVENTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "cosine": cosine,
    "clipscore": clipscore,
    "torchmetrics": torchmetrics,
    "logit": logit,
}
"""Name -> function of (cosines, logit_scale)."""


PREFIXES = {"clipscore": CLIPSCORE_PREFIX}
"""Convention -> what it puts before a text; nothing where it is not named."""


def convert(cosines: Tensor, convention: str, logit_scale: float) -> Tensor:
    """Cosines on the scale of `convention`; its prefix is the caller's matter (`Scale.text`).

    Raises:
        ValueError: unknown convention (the choices are listed), or a number that is not finite.

    Example:
        >>> texts = [scale_of(scorer, "clipscore").text(prompt) for prompt in prompts]
        >>> convert(scorer.score(images, texts), "clipscore", scorer.logit_scale)
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"got convention {convention!r}, expected one of {[*CONVENTIONS]}")
    from clipguide.clip.finite import check_finite

    check_finite(cosines, "cosines")
    return check_finite(CONVENTIONS[convention](cosines, logit_scale), f"{convention} scores")


@dataclass(frozen=True)
class Scale:
    """What a scorer's numbers become in an output.

    Attributes:
        convention: its words.
        of: from the scorer's numbers to the output's.
        prefix: what is put before a text, a blank between them.
    """

    convention: str
    of: Callable[[Tensor], Tensor]
    prefix: str = ""

    def text(self, text: str) -> str:
        """What the text tower reads."""
        return f"{self.prefix} {text}".strip()

    def __str__(self) -> str:
        return f'{self.convention} of "{self.prefix} ..."' if self.prefix else self.convention


def scale_of(scorer: Scorer, convention: str | None, prefix: str | None = None) -> Scale:
    """A CLIP's cosines by one of `CONVENTIONS` (None: as they are); a cross-encoder's own numbers.

    Args:
        scorer: whose numbers they are.
        convention: as it is published, so `clipscore` reads "A photo depicts" before each text.
        prefix: what is put before a text in place of the convention's own; "": nothing.

    Raises:
        ValueError: unknown convention, or any of a cross-encoder, whose numbers are no cosines.
    """
    if scorer.convention != "cosine":
        if convention is not None:
            own = scorer.convention.partition(":")[0]
            raise ValueError(f"{scorer.name}: got convention {convention!r}, expected none ({own})")
        return Scale(scorer.convention, lambda values: values, (prefix or "").strip())
    name = convention or "cosine"
    if name not in CONVENTIONS:
        raise ValueError(f"got convention {name!r}, expected one of {[*CONVENTIONS]}")
    before = PREFIXES.get(name, "") if prefix is None else prefix
    return Scale(name, lambda cosines: convert(cosines, name, scorer.logit_scale), before.strip())


@dataclass(frozen=True)
class Score:
    """One number with everything needed to compare it: its convention and its model's name."""

    value: float
    convention: str
    scorer: str

    def to_dict(self) -> dict[str, float | str]:
        """For JSON: value, convention, scorer."""
        return asdict(self)
