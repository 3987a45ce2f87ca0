"""The table of rewards by name: what each is made of, what it loads, what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.clip.weights import hash_weights
from clipguide.data.alternatives import alternatives_of
from clipguide.images import ImageSource, load_image, pixel_hash
from clipguide.rewards.aesthetic import HEADS, AestheticReward
from clipguide.rewards.base import Reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.directional import DirectionalReward
from clipguide.rewards.parts import JOINS, PartsReward
from clipguide.rewards.penalties import RangePenalty, SaturationPenalty, TotalVariationPenalty
from clipguide.rewards.preference import PREFERENCES, PreferenceReward
from clipguide.rewards.scorer import ScorerReward
from clipguide.rewards.style import StyleReward
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


@dataclass(frozen=True)
class Edit:
    """What a picture shows, what it shall show, and the picture."""

    source: str
    target: str
    image: ImageSource


@dataclass(frozen=True)
class Asked:
    """What a reward is made for.

    Attributes:
        scorer: that of the run.
        prompts: one per picture of the batch.
        views: random looks at each picture.
        argument: what stood after the colon, or the name's default.
        loaded: what `NamedReward.load` gave.
        edit: what is edited, for `directional`.
    """

    scorer: Scorer
    prompts: Sequence[str]
    views: Views
    argument: str
    loaded: Any
    edit: Edit | None = None


@dataclass(frozen=True)
class NamedReward:
    """A reward by name.

    Attributes:
        build: makes it.
        argument: what stands after the colon, in words; "" where nothing does.
        default: the argument where none is given; None: one has to be.
        check: raises ValueError for an argument that cannot be right, before anything is loaded.
        need: raises ValueError where a file that the argument names cannot be read.
        load: what is loaded once for all prompts: a head, a CLIP, a picture.
        digest: SHA-256 of that, which a picture's record holds; None where there is nothing.
    """

    build: Callable[[Asked], Reward]
    argument: str = ""
    default: str | None = ""
    check: Callable[[str], None] = lambda argument: None
    need: Callable[[str], object] = lambda argument: None
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
    """What stands after the colon is told from every prompt; else the rules say it of each."""
    own = _told_apart(asked.argument)
    each = [own or alternatives_of(prompt, scorer.alternatives) for prompt in asked.prompts]
    for prompt, others in zip(asked.prompts, each, strict=True):
        _encode_alone(scorer, (prompt, *others))
    return ContrastReward(scorer, [*asked.prompts], each if own else None, views=asked.views)


def _told_apart(argument: str) -> list[str]:
    return [text.strip() for text in argument.split("|")] if argument else []


def _check_told_apart(argument: str) -> None:
    if argument and not all(_told_apart(argument)):
        raise ValueError(
            f'got contrast:{argument!r}, expected texts with | between: contrast:"a cat|two dogs"'
        )


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


def _need_head(head: str) -> None:
    if Path(head).suffix == ".safetensors" and not Path(head).expanduser().is_file():
        raise ValueError(f"got aesthetic:{head}, expected a .safetensors file that is there")


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


def _directional(asked: Asked) -> Reward:
    edit = asked.edit
    if edit is None:
        raise ValueError(NO_EDIT)
    texts = (edit.source, edit.target)
    return DirectionalReward(asked.scorer, *texts, edit.image, views=asked.views)


def _load_scorer(scorer: Scorer, name: str) -> Scorer:
    from clipguide.clip.loading import load_scorer

    return load_scorer(name).to(scorer.device)


NO_EDIT = "got reward directional without an edit, expected --init IMAGE --edit 'SOURCE -> TARGET'"


def of_images(scorer: Scorer) -> Scorer:
    """The scorer, or the teacher of one that reads latents."""
    from clipguide.clip.latent_scorer import LatentScorer

    return scorer.of_images if isinstance(scorer, LatentScorer) else scorer


ALTERNATIVES = "texts that the picture must be told from, with | between"

NAMES: dict[str, NamedReward] = {
    "cosine": NamedReward(lambda asked: _cosine(asked.scorer, asked)),
    "contrast": NamedReward(
        lambda asked: _contrast(asked.scorer, asked), ALTERNATIVES, check=_check_told_apart
    ),
    "teacher.cosine": NamedReward(lambda asked: _cosine(of_images(asked.scorer), asked)),
    "teacher.contrast": NamedReward(
        lambda asked: _contrast(of_images(asked.scorer), asked),
        ALTERNATIVES,
        check=_check_told_apart,
    ),
    "parts": NamedReward(_parts, "how they are joined", "softmin", _check_join),
    "aesthetic": NamedReward(
        _aesthetic,
        "a head",
        "laion-l14",
        _check_head,
        _need_head,
        _load_head,
        lambda reward: hash_weights(reward.head),
    ),
    "style": NamedReward(
        _style,
        "a picture's file",
        None,
        need=load_image,
        load=lambda _, file: load_image(file),
        digest=pixel_hash,
    ),
    "directional": NamedReward(_directional),
    **{
        name: NamedReward(
            _preference(name),
            load=_load_preference(name),
            digest=lambda scorer: scorer.content_hash,
        )
        for name in PREFERENCES
    },
    "scorer": NamedReward(
        lambda asked: ScorerReward(asked.loaded, asked.prompts),
        "a scorer's name, of any kind, for a search",
        None,
        load=_load_scorer,
        digest=lambda scorer: scorer.content_hash,
    ),
    "saturation": NamedReward(lambda asked: SaturationPenalty()),
    "range": NamedReward(lambda asked: RangePenalty()),
    "tv": NamedReward(lambda asked: TotalVariationPenalty()),
}
"""Name -> reward."""
