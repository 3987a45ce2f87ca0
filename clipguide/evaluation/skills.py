"""How well prompts are met, by skill and by how many requirements they have, as GenEval 2 does it.

Kamath et al. 2025 (https://arxiv.org/abs/2512.16853): each requirement has a score in [0, 1] (a
model's probability of the right answer, or the oracle's yes or no). Soft-TIFA AM is the arithmetic
mean of a prompt's scores, averaged over prompts; Soft-TIFA GM the geometric mean, which one unmet
requirement brings to 0. A skill has the mean of its scores, a number of requirements the GM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from clipguide.data.geneval2 import SKILLS, Question, TestPrompt
from clipguide.data.scene_captions import ObjectSpec, SceneSpec, parse_caption
from clipguide.evaluation.scene_oracle import Verdict

NUMBERS = ("none", "one", "two", "three")


@dataclass(frozen=True)
class Group:
    """The mean of a group in percent, and how many scores or prompts it is of."""

    percent: float
    total: int


@dataclass(frozen=True)
class SkillReport:
    """Everything in percent.

    Attributes:
        prompts: how many.
        arithmetic, geometric: means over prompts of the mean of a prompt's scores.
        skills: by skill, those that occur, over single scores.
        requirements: by number of requirements, over prompts, geometric.
    """

    prompts: int
    arithmetic: float
    geometric: float
    skills: dict[str, Group]
    requirements: dict[int, Group]

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return asdict(self)


def skill_report(prompts: Sequence[TestPrompt], scores: Sequence[Sequence[float]]) -> SkillReport:
    """The report of one picture per prompt.

    Args:
        prompts: N, one or more.
        scores: N lists, one number in [0, 1] for each of a prompt's questions.

    Raises:
        ValueError: no prompts; not as many scores (which prompt); a score outside [0, 1].

    Example:
        >>> question = Question("Is it red?", "Yes", "attribute")
        >>> skill_report([TestPrompt("a red star", 2, (question, question))], [[1.0, 0.0]])
        SkillReport(prompts=1, arithmetic=50.0, geometric=0.0, ...)
    """
    if not prompts or len(prompts) != len(scores):
        raise ValueError(f"got {len(prompts)} prompts and scores of {len(scores)}, expected both")
    for prompt, own in zip(prompts, scores, strict=True):
        _check(prompt, own)
    by_skill: dict[str, list[float]] = {}
    by_count: dict[int, list[float]] = {}
    for prompt, own in zip(prompts, scores, strict=True):
        by_count.setdefault(prompt.atom_count, []).append(geometric_mean(own))
        for question, score in zip(prompt.questions, own, strict=True):
            by_skill.setdefault(question.skill, []).append(score)
    return SkillReport(
        prompts=len(prompts),
        arithmetic=100 * fmean(fmean(own) for own in scores),
        geometric=100 * fmean(geometric_mean(own) for own in scores),
        skills={skill: _group(by_skill[skill]) for skill in SKILLS if skill in by_skill},
        requirements={count: _group(by_count[count]) for count in sorted(by_count)},
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of one or more numbers of at least 0; 0 where one of them is.

    Example:
        >>> geometric_mean([0.25, 1.0])
        0.5
    """
    if min(values) <= 0:
        return 0.0
    return math.exp(fmean(math.log(value) for value in values))


def _group(values: Sequence[float]) -> Group:
    return Group(100 * fmean(values), len(values))


def _check(prompt: TestPrompt, scores: Sequence[float]) -> None:
    if len(scores) != len(prompt.questions):
        got = f"{len(scores)} scores of {prompt.text!r}"
        raise ValueError(f"got {got}, expected {len(prompt.questions)}, one for each question")
    for score in scores:
        if not 0 <= score <= 1:
            raise ValueError(f"got score {score} of {prompt.text!r}, expected 0 to 1")


# --- the oracle's answers -------------------------------------------------------------------------


def scene_prompt(caption: str) -> TestPrompt:
    """A caption of the starter's grammar with its questions.

    Of each object: how many of its shape there are, each named attribute, whether it is there; and
    where the first stands. "a" and "and" are no requirements.

    Raises:
        ValueError: not of the grammar.

    Example:
        >>> [question.skill for question in scene_prompt("a red star above a blue ring").questions]
        ['count', 'attribute', 'object', 'count', 'attribute', 'object', 'position']
    """
    spec = parse_caption(caption)
    questions = [question for item in spec.objects for question in _of_object(spec, item)]
    if spec.relation is not None:
        first, second = (item.shape for item in spec.objects[:2])
        asked = f"Is the {first} {spec.relation} the {second}?"
        questions.append(Question(asked, "Yes", "position"))
    atoms = sum(question.skill != "count" for question in questions)
    return TestPrompt(caption, atoms, tuple(questions))


def _of_object(spec: SceneSpec, item: ObjectSpec) -> Iterable[Question]:
    number = NUMBERS[_wanted(spec, item.shape)]
    yield Question(f"How many {item.shape}s are in the image?", number, "count")
    for value in (item.size, item.fill, item.color):
        if value is not None:
            yield Question(f"Is the {item.shape} {value}?", "Yes", "attribute")
    yield Question(f"Are there any {item.shape}s in the image?", "Yes", "object")


def _wanted(spec: SceneSpec, shape: str) -> int:
    return sum(item.shape == shape for item in spec.objects)


def oracle_scores(caption: str, verdict: Verdict) -> list[float]:
    """0 or 1 for each question of `scene_prompt`, by the oracle's verdict on a picture."""
    spec = parse_caption(caption)
    met = {(answer.kind, answer.item): float(answer.ok) for answer in verdict.answers}
    scores: list[float] = []
    for place, item in enumerate(spec.objects):
        seen = sum(thing.shape == item.shape for thing in verdict.detected)
        scores.append(float(seen == _wanted(spec, item.shape)))
        named = [kind for kind in ("size", "fill", "color") if getattr(item, kind) is not None]
        scores += [met[kind, place] for kind in named]
        scores.append(met["shape", place])
    if spec.relation is not None:
        scores.append(met["relation", None])
    return scores
