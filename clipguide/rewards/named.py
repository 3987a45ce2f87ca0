"""Rewards by name: what a reward expression (`clipguide.rewards.expression`) stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.clip.weights import hash_weights
from clipguide.data.alternatives import alternatives_of
from clipguide.images import load_image
from clipguide.rewards.aesthetic import HEADS, AestheticReward
from clipguide.rewards.base import Reward, WeightedSum
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.expression import Term, parse_reward
from clipguide.rewards.parts import JOINS, PartsReward
from clipguide.rewards.penalties import RangePenalty, SaturationPenalty, TotalVariationPenalty
from clipguide.rewards.preference import PREFERENCES, PreferenceReward
from clipguide.rewards.style import StyleReward
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


@dataclass(frozen=True)
class Asked:
    """What a reward is made for.

    Attributes:
        scorer: that of the run.
        prompts: one per picture of the batch.
        views: random looks at each picture.
        argument: what stood after the colon, or the name's default.
        loaded: what `NamedReward.load` gave.
    """

    scorer: Scorer
    prompts: Sequence[str]
    views: Views
    argument: str
    loaded: Any


@dataclass(frozen=True)
class NamedReward:
    """A reward by name.

    Attributes:
        build: makes it.
        argument: what stands after the colon, in words; "" where nothing does.
        default: the argument where none is given; None: one has to be.
        check: raises ValueError for an argument that cannot be right, before anything is loaded.
        load: what is loaded once for all prompts: a head, a CLIP, a picture.
        digest: SHA-256 of that, which a picture's record holds; None where there is nothing.
    """

    build: Callable[[Asked], Reward]
    argument: str = ""
    default: str | None = ""
    check: Callable[[str], None] = lambda argument: None
    load: Callable[[Scorer, str], Any] = lambda scorer, argument: None
    digest: Callable[[Any], str] | None = None


def _encode_alone(scorer: Scorer, texts: Iterable[str]) -> None:
    """One by one: a text's last bit must not depend on the batch it is in."""
    for text in texts:
        scorer.encode_text(text)


def _cosine(scorer: Scorer, asked: Asked) -> Reward:
    _encode_alone(scorer, asked.prompts)
    return ClipReward(scorer, [*asked.prompts], views=asked.views)


def _contrast(scorer: Scorer, asked: Asked) -> Reward:
    for prompt in asked.prompts:
        _encode_alone(scorer, (prompt, *alternatives_of(prompt, scorer.alternatives)))
    return ContrastReward(scorer, [*asked.prompts], views=asked.views)


def _parts(asked: Asked) -> Reward:
    return PartsReward(asked.scorer, [*asked.prompts], join=asked.argument, views=asked.views)


def _check_join(join: str) -> None:
    if join not in JOINS:
        raise ValueError(f"got parts:{join}, expected one of {', '.join(JOINS)} after the colon")


def _check_head(head: str) -> None:
    if head not in HEADS and Path(head).suffix != ".safetensors" and head.count("/") != 1:
        choices = ", ".join(HEADS)
        raise ValueError(
            f"got aesthetic:{head}, expected one of {choices}, a .safetensors file or a Hub id "
            "after the colon"
        )


def _load_head(scorer: Scorer, head: str) -> AestheticReward:
    """With the CLIP that a head by name is for; a file is for the run's."""
    own = HEADS.get(head)
    reward = AestheticReward(None if own else scorer, head)
    reward.scorer.to(scorer.device)
    return reward


def _aesthetic(asked: Asked) -> Reward:
    return asked.loaded.with_views(asked.views)


def _load_preference(name: str) -> Callable[[Scorer, str], Scorer]:
    return lambda scorer, _: PREFERENCES[name].load().to(scorer.device)


def _preference(name: str) -> Callable[[Asked], Reward]:
    def build(asked: Asked) -> Reward:
        for prompt in asked.prompts:
            asked.loaded.encode_text(prompt)
        return PreferenceReward(name, [*asked.prompts], asked.loaded, asked.views)

    return build


def _style(asked: Asked) -> Reward:
    return StyleReward(of_images(asked.scorer), asked.loaded, views=asked.views)


def of_images(scorer: Scorer) -> Scorer:
    """The scorer, or the teacher of one that reads latents."""
    from clipguide.clip.latent_scorer import LatentScorer

    return scorer.of_images if isinstance(scorer, LatentScorer) else scorer


def _pixels(image: Any) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


NAMES: dict[str, NamedReward] = {
    "cosine": NamedReward(lambda asked: _cosine(asked.scorer, asked)),
    "contrast": NamedReward(lambda asked: _contrast(asked.scorer, asked)),
    "teacher.cosine": NamedReward(lambda asked: _cosine(of_images(asked.scorer), asked)),
    "teacher.contrast": NamedReward(lambda asked: _contrast(of_images(asked.scorer), asked)),
    "parts": NamedReward(_parts, "how they are joined", "softmin", _check_join),
    "aesthetic": NamedReward(
        _aesthetic,
        "a head",
        "laion-l14",
        _check_head,
        _load_head,
        lambda reward: hash_weights(reward.head),
    ),
    "style": NamedReward(
        _style, "a picture's file", None, load=lambda _, file: load_image(file), digest=_pixels
    ),
    **{
        name: NamedReward(
            _preference(name),
            load=_load_preference(name),
            digest=lambda scorer: scorer.content_hash,
        )
        for name in PREFERENCES
    },
    "saturation": NamedReward(lambda asked: SaturationPenalty()),
    "range": NamedReward(lambda asked: RangePenalty()),
    "tv": NamedReward(lambda asked: TotalVariationPenalty()),
}
"""Name -> reward."""


@dataclass(frozen=True)
class LoadedReward:
    """A reward expression with what it needs in memory, for any prompts.

    Attributes:
        terms: weights, names and arguments.
        scorer: that of the run.
        loaded: of each term, by its label, what its name loads.
    """

    terms: tuple[Term, ...]
    scorer: Scorer
    loaded: Mapping[str, Any]

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
        asked = Asked(self.scorer, prompts, views, argument, self.loaded[term.label])
        return named.build(asked)


def check_reward(text: str) -> tuple[Term, ...]:
    """The terms of a reward expression, each of a known name and with the argument it takes.

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
        named.check(term.argument or named.default or "")
    return terms


def load_reward(text: str, scorer: Scorer) -> LoadedReward:
    """A reward expression, ready to be asked for prompts.

    Args:
        text: such as "contrast + 0.3*aesthetic:laion-l14 - 0.1*tv"; the names are `NAMES`: the
            run's scorer says `cosine`, `contrast`, `parts` (`parts:mean`, `:product`, `:softmin`),
            `style:FILE` and `aesthetic:FILE.safetensors`; `teacher.cosine` and `teacher.contrast`
            are of pictures by the teacher of a scorer of latents; the others bring their own
            models.
        scorer: that of the run.

    Cost: loading the models that are named.

    Raises:
        ValueError: see `check_reward`, or a model or file that cannot be loaded.

    Example:
        >>> reward = load_reward("cosine - 0.1*tv", scorer)(["a red fox", "a cat"])
        >>> reward(images).shape
        torch.Size([2])
    """
    terms = check_reward(text)
    loaded: dict[str, Any] = {}
    for term in terms:
        named = NAMES[term.name]
        if term.label not in loaded:
            loaded[term.label] = named.load(scorer, term.argument or named.default or "")
    return LoadedReward(terms, scorer, loaded)
