"""GenEval 2's files: prompts with a question for each thing they require, and what was drawn.

Kamath et al. 2025, GenEval 2 (https://arxiv.org/abs/2512.16853), and its repository: a JSONL of
`prompt`, `atom_count`, `vqa_list` ([question, answer] each) and `skills` (one for each question); a
JSON map of prompt to picture; a JSON list with a list of scores for each prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clipguide.files import write_json, write_text
from clipguide.texts import check_text, read_text, split_lines

SKILLS = ("object", "attribute", "count", "position", "verb")


@dataclass(frozen=True)
class Question:
    """One thing that a prompt requires: a question, its answer, and the skill that it takes."""

    text: str
    answer: str
    skill: str


@dataclass(frozen=True)
class TestPrompt:
    """A prompt with its questions.

    Attributes:
        text: the prompt.
        atom_count: how many requirements it has; "a" is asked for too (count one), and counts not.
        questions: one or more.
    """

    __test__ = False  # to pytest

    text: str
    atom_count: int
    questions: tuple[Question, ...]


def read_test_prompts(file: Path) -> list[TestPrompt]:
    """The prompts of a benchmark file, in order.

    Raises:
        ValueError: it cannot be read, or a line is none (which, and what is wrong with it).
    """
    found: list[TestPrompt] = []
    for number, line in enumerate(split_lines(read_text(file)), 1):
        if line.strip():
            try:
                found.append(_prompt(_object(line)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}: line {number}: {error}") from error
    if not found:
        raise ValueError(f"{file}: no prompts in it")
    return found


def write_test_prompts(file: Path, prompts: Sequence[TestPrompt]) -> None:
    """The inverse of `read_test_prompts`."""
    rows = [
        {
            "prompt": prompt.text,
            "atom_count": prompt.atom_count,
            "vqa_list": [[question.text, question.answer] for question in prompt.questions],
            "skills": [question.skill for question in prompt.questions],
        }
        for prompt in prompts
    ]
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def read_picture_map(file: Path) -> dict[str, Path]:
    """Prompt -> picture, as the map says it: a relative path is one from the map's own folder, or
    where there is none, from the working folder.

    Raises:
        ValueError: it cannot be read, or is no object of texts; a prompt that stands twice.
    """
    try:
        value = _object(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from error
    found: dict[str, Path] = {}
    for prompt, picture in value.items():
        if not isinstance(picture, str) or not picture or "\0" in picture:
            raise ValueError(f"{file}: got {picture!r} for {prompt!r}, expected a picture's path")
        beside = file.parent / picture
        found[prompt] = beside if beside.exists() else Path(picture)
    if not found:
        raise ValueError(f"{file}: no pictures in it")
    return found


def write_picture_map(file: Path, pictures: Mapping[str, str | Path]) -> None:
    """The inverse of `read_picture_map`; paths are written as they are given."""
    write_json(file, {prompt: str(path) for prompt, path in pictures.items()})


def _object(text: str) -> dict[str, Any]:
    value: object = json.loads(text, object_pairs_hook=_once)
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return cast("dict[str, Any]", value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"got {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return row


def _prompt(row: Mapping[str, Any]) -> TestPrompt:
    for name in ("prompt", "vqa_list", "skills"):
        if name not in row:
            raise ValueError(f"got no {name}, expected prompt, vqa_list and skills")
    text: object = row["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"got prompt {text!r}, expected a text")
    check_text(text, "prompt")
    asked, skills = _list(row["vqa_list"], "vqa_list"), _list(row["skills"], "skills")
    if not asked or len(asked) != len(skills):
        raise ValueError(f"got {len(asked)} questions and {len(skills)} skills, expected as many")
    questions = tuple(_question(*pair) for pair in zip(asked, skills, strict=True))
    count: object = row.get("atom_count", len(questions))
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"got atom_count {count!r}, expected 1 or more")
    return TestPrompt(text, count, questions)


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"got {name} {value!r}, expected a list")
    return cast("list[Any]", value)


def _question(pair: object, skill: object) -> Question:
    parts = cast("list[object]", pair) if isinstance(pair, list) else []
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) != 2 or len(parts) != 2:
        raise ValueError(f"got {pair!r} in vqa_list, expected [question, answer]")
    if skill not in SKILLS:
        raise ValueError(f"got skill {skill!r}, expected one of {', '.join(SKILLS)}")
    return Question(texts[0], texts[1], str(skill))
