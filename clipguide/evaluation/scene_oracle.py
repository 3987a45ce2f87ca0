"""Does an image show what a caption of the scene grammar asks for? One answer per requirement.

The oracle of the starter world: it measures every figure of generation quality, so it must say no
to a merged, half-drawn or many-coloured object as firmly as to a wrong relation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from clipguide.data.scene_captions import ObjectSpec, SceneSpec, parse_caption
from clipguide.data.scenes import holds
from clipguide.evaluation.scene_vision import DetectedObject, ImageLike, detect_objects

RELATION_TILT = 1.0
"""Off-axis distance over the distance along the relation; the renderer itself stays under 0.6."""
MOST_THINGS = 6
"""Things beyond the six largest take no part in the assignment (they are extra in any case)."""


@dataclass(frozen=True)
class Answer:
    """One requirement: ``kind`` is present, color, shape, size, fill, relation or extra.

    ``item`` is the object's place in the caption, None for relation and extra.
    """

    kind: str
    item: int | None
    ok: bool
    asked: str


@dataclass(frozen=True)
class Verdict:
    """``ok``: every requirement is met. ``detected``: everything found, largest first."""

    ok: bool
    answers: tuple[Answer, ...]
    detected: tuple[DetectedObject, ...]

    @property
    def failed(self) -> tuple[Answer, ...]:
        """The requirements that are not met."""
        return tuple(answer for answer in self.answers if not answer.ok)


def oracle_verdict(image: ImageLike, caption: str | SceneSpec) -> Verdict:
    """Whether ``image`` shows ``caption``: its objects, no others, looking and standing as it says.

    Objects may be found in any order: of all ways to give the things detected to the objects asked
    for, the one that meets the most requirements counts. Sizes and fills not named may be either.

    Args:
        image: see :func:`clipguide.evaluation.detect_objects`.
        caption: a caption of the grammar, or its spec.

    Raises:
        ValueError: the caption is not of the grammar, or the image is no image.

    Example:
        >>> from clipguide.data.scenes import render, sample_scene
        >>> oracle_verdict(render(sample_scene(3, count=1)), "a small striped orange star").ok
        True
    """
    spec = parse_caption(caption) if isinstance(caption, str) else caption
    return verdict_on(detect_objects(image), spec)


def verdict_on(detected: Sequence[DetectedObject], spec: SceneSpec) -> Verdict:
    """:func:`oracle_verdict` on objects detected already, for several captions of one image."""
    answers = max(
        (
            _answers(spec, given, len(detected))
            for given in _assignments(detected, len(spec.objects))
        ),
        key=lambda answers: sum(answer.ok for answer in answers),
    )
    return Verdict(all(answer.ok for answer in answers), answers, tuple(detected))


def _assignments(
    detected: Sequence[DetectedObject], wanted: int
) -> Iterator[tuple[DetectedObject | None, ...]]:
    """Every way to give ``wanted`` objects one thing each; None where there are too few."""
    things: list[DetectedObject | None] = [*detected[:MOST_THINGS]]
    things += [None] * (wanted - len(things))
    return permutations(things, wanted)


def _answers(
    spec: SceneSpec, given: Sequence[DetectedObject | None], count: int
) -> tuple[Answer, ...]:
    answers = [
        answer
        for place, (asked, thing) in enumerate(zip(spec.objects, given, strict=True))
        for answer in _object_answers(place, asked, thing)
    ]
    if spec.relation is not None:
        stands = _stands(spec.relation, given[0], given[1])
        answers.append(Answer("relation", None, stands, spec.relation))
    extra = count <= len(spec.objects)
    return (*answers, Answer("extra", None, extra, f"{len(spec.objects)} objects"))


def _stands(relation: str, a: DetectedObject | None, b: DetectedObject | None) -> bool:
    if a is None or b is None:
        return False
    return holds(relation, (a.x, a.y), (b.x, b.y), tilt=RELATION_TILT)


def _object_answers(place: int, asked: ObjectSpec, thing: DetectedObject | None) -> list[Answer]:
    """Present is colour and shape together; each named attribute is answered by itself as well."""
    present = thing is not None and (thing.color, thing.shape) == (asked.color, asked.shape)
    answers = [Answer("present", place, present, str(asked))]
    for kind in ("color", "shape", "size", "fill"):
        wanted: str | None = getattr(asked, kind)
        if wanted is not None:
            got: str | None = getattr(thing, kind) if thing is not None else None
            answers.append(Answer(kind, place, got == wanted, wanted))
    return answers
