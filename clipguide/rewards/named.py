"""Rewards by name: what a reward expression (`clipguide.rewards.expression`) stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipguide.rewards.base import Reward, WeightedSum
from clipguide.rewards.expression import Term, parse_reward
from clipguide.rewards.reward_table import NAMES, NO_EDIT, Asked, Edit
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

__all__ = ["NAMES", "Edit", "LoadedReward", "check_reward", "load_reward"]


@dataclass(frozen=True)
class LoadedReward:
    """A reward expression with what it needs in memory, for any prompts.

    Attributes:
        terms: weights, names and arguments.
        scorer: that of the run.
        loaded: of each term, by its label, what its name loads.
        edit: what is edited; None: nothing.
    """

    terms: tuple[Term, ...]
    scorer: Scorer
    loaded: Mapping[str, Any]
    edit: Edit | None = None

    def __call__(self, prompts: Sequence[str], views: Views = Views()) -> Reward:
        """The reward for these prompts, one per picture of a batch."""
        terms = tuple((term.weight, self._built(term, prompts, views)) for term in self.terms)
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1]
        return WeightedSum(terms)

    @property
    def identities(self) -> dict[str, dict[str, str]]:
        """ "reward LABEL" -> name and SHA-256 of what a term loads."""
        found: dict[str, dict[str, str]] = {}
        for term in self.terms:
            digest = NAMES[term.name].digest
            if digest is not None:
                sha256 = digest(self.loaded[term.label])
                found[f"reward {term.label}"] = {"name": term.label, "sha256": sha256}
        return found

    def _built(self, term: Term, prompts: Sequence[str], views: Views) -> Reward:
        named = NAMES[term.name]
        argument = term.argument or (named.default or "")
        asked = Asked(self.scorer, prompts, views, argument, self.loaded[term.label], self.edit)
        return named.build(asked)


def check_reward(text: str, *, edit: bool = False) -> tuple[Term, ...]:
    """The terms of a reward expression, each of a known name and with the argument it takes.

    Args:
        text: the expression.
        edit: whether something is edited, without which there is no `directional`.

    Raises:
        ValueError: see `parse_reward`; an unknown name, all of them being listed; an argument that
            is missing, superfluous or unknown.

    Example:
        >>> [term.label for term in check_reward("contrast + 0.3*aesthetic:laion-l14 - 0.1*tv")]
        ['contrast', 'aesthetic:laion-l14', 'tv']
    """
    terms = parse_reward(text)
    for term in terms:
        if term.name not in NAMES:
            raise ValueError(f"got reward {term.name}, expected one of {', '.join(NAMES)}")
        named = NAMES[term.name]
        if term.argument and not named.argument:
            raise ValueError(f"got reward {term.label}, expected {term.name} without an argument")
        if not term.argument and named.default is None:
            raise ValueError(f"got reward {term.name}, expected {term.name}: and {named.argument}")
        if term.name == "directional" and not edit:
            raise ValueError(NO_EDIT)
        named.check(term.argument or named.default or "")
    return terms


def need_files(text: str) -> None:
    """Read the small files that a reward expression names, before what takes minutes is loaded.

    Raises:
        ValueError: see `check_reward`; a file that is not there, ImageError of a picture.
    """
    for term in check_reward(text, edit=True):
        NAMES[term.name].need(term.argument or NAMES[term.name].default or "")


def load_reward(text: str, scorer: Scorer, edit: Edit | None = None) -> LoadedReward:
    """A reward expression, ready to be asked for prompts.

    Args:
        text: such as "contrast + 0.3*aesthetic:laion-l14 - 0.1*tv"; the names are `NAMES`: the
            run's scorer says `cosine`, `contrast` (`contrast:"a cat|two dogs"` names what the
            picture must be told from), `parts` (`parts:mean`, `:product`, `:softmin`),
            `style:FILE` and `aesthetic:FILE.safetensors`; `teacher.cosine` and `teacher.contrast`
            are of pictures by the teacher of a scorer of latents; the others bring their own
            models.
        scorer: that of the run.
        edit: what is edited, for `directional`.

    Cost: loading the models that are named.

    Raises:
        ValueError: see `check_reward`, or a model or file that cannot be loaded.

    Example:
        >>> reward = load_reward("cosine - 0.1*tv", scorer)(["a red fox", "a cat"])
        >>> reward(images).shape
        torch.Size([2])
    """
    terms = check_reward(text, edit=edit is not None)
    loaded: dict[str, Any] = {}
    for term in terms:
        named = NAMES[term.name]
        if term.label not in loaded:
            loaded[term.label] = named.load(scorer, term.argument or named.default or "")
    return LoadedReward(terms, scorer, loaded, edit)
