"""`clipguide eval oracle`: drawn scenes judged requirement by requirement, as GenEval 2 reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, note, say

if TYPE_CHECKING:
    from clipguide.data.geneval2 import TestPrompt
    from clipguide.evaluation.skills import SkillReport

Judged = list[tuple["TestPrompt", list[float], bool]]  # prompt, scores, all of it right

Pictures = Annotated[
    Path,
    typer.Argument(
        metavar="DIR_OR_MAP",
        help="A folder that generate wrote to, or a JSON map of prompt to picture.",
    ),
]
PromptsOut = Annotated[
    Path | None,
    typer.Option("--prompts-out", help="Write the prompts with their questions, as GenEval 2's."),
]
ScoresOut = Annotated[
    Path | None, typer.Option("--scores-out", help="Write the scores, as GenEval 2's evaluation.")
]


def oracle(
    pictures: Pictures,
    prompts_out: PromptsOut = None,
    scores_out: ScoresOut = None,
    json: JsonOption = False,
) -> None:
    """Judge scenes of the starter's world by the oracle: per skill, and per number of requirements.

    No network judges, so guidance cannot fool it. AM and GM are GenEval 2's: the means of a
    prompt's yes and no, and their geometric mean; right: nothing is missing and nothing is extra.
    """
    from clipguide.evaluation.skills import skill_report

    if not pictures.exists():
        raise Mistake(f"{pictures}: no such file or folder")
    bad: list[dict[str, str]] = []
    listed = _listed(pictures)
    if prompts_out or scores_out:
        _one_role(listed)
    groups = _judge(listed, bad)
    for entry in bad:
        note(f"clipguide: skipped {entry['image']}: {entry['reason']}")
    if not groups:
        raise Mistake(f"{pictures}: none of its pictures can be judged")
    _write(groups, prompts_out, scores_out)
    data: dict[str, Any] = {
        "measure": "oracle: yes or no per requirement, in percent; AM and GM as GenEval 2's",
        "pictures": str(pictures),
        "groups": {},
        "bad": bad,
    }
    for role, judged in groups.items():
        report = skill_report([prompt for prompt, _, _ in judged], [s for _, s, _ in judged])
        right = 100 * sum(ok for _, _, ok in judged) / len(judged)
        data["groups"][role] = {"right": right, **report.to_json()}
        if not json:
            _print(role, report, right)
    if json:
        emit(data)


Listed = list[tuple[Path, str, str]]
"""Picture, its prompt, its role."""


def _judge(listed: Listed, bad: list[dict[str, str]]) -> dict[str, Judged]:
    """Role of the pictures ("guided", "unguided"; "pictures" of a map) -> what the oracle says."""
    from clipguide.evaluation.scene_oracle import oracle_verdict
    from clipguide.evaluation.skills import oracle_scores, scene_prompt
    from clipguide.images import ImageError, load_image

    groups: dict[str, Judged] = {}
    for file, prompt, role in listed:
        try:
            asked = scene_prompt(prompt)
            verdict = oracle_verdict(load_image(file), prompt)
        except ImageError as error:
            bad.append({"image": str(file), "reason": error.reason})
        except ValueError as error:
            bad.append({"image": str(file), "reason": str(error)})
        else:
            judged = groups.setdefault(role, [])
            judged.append((asked, oracle_scores(prompt, verdict), verdict.ok))
    return groups


def _listed(source: Path) -> Listed:
    """Of a map, or of a folder by the pictures' own metadata."""
    if not source.is_dir():
        from clipguide.data.geneval2 import read_picture_map

        return [(file, prompt, "pictures") for prompt, file in read_picture_map(source).items()]
    from clipguide.cli.folder import Folder
    from clipguide.report.generated import describe
    from clipguide.report.metadata import read_metadata

    found: Listed = []
    for file in Folder([source]).files:
        prompt = describe(file).get("prompt")
        if isinstance(prompt, str):
            record = read_metadata(file).record or {}
            found.append((file, prompt, str(record.get("role", "pictures"))))
    if not found:
        raise Mistake(f"{source}: none of its pictures says its prompt: give a JSON map instead")
    return found


def _one_role(listed: Listed) -> None:
    """Mistake where the pictures are of several: a file of prompts or scores holds one kind."""
    roles = list(dict.fromkeys(role for _, _, role in listed))
    if len(roles) > 1:
        got = " and ".join(roles)
        raise Mistake(f"got {got} pictures, expected one kind for --prompts-out or --scores-out")


def _write(groups: dict[str, Judged], prompts: Path | None, scores: Path | None) -> None:
    from clipguide.data.geneval2 import write_test_prompts
    from clipguide.files import write_json

    judged = next(iter(groups.values()))
    if prompts is not None:
        write_test_prompts(prompts, [prompt for prompt, _, _ in judged])
    if scores is not None:
        write_json(scores, [own for _, own, _ in judged])


def _print(role: str, report: SkillReport, right: float) -> None:
    from clipguide.report.table import Cell, format_table

    groups = [*report.skills.items()]
    groups += [(f"{n} requirements", group) for n, group in report.requirements.items()]
    rows: list[list[Cell]] = [[name, group.percent, group.total] for name, group in groups]
    typer.echo(format_table([role, "%", "of"], rows, digits=1))
    means = f"AM {report.arithmetic:.1f} %, GM {report.geometric:.1f} %, right {right:.1f} %"
    say(f"{means} ({report.prompts} pictures, oracle)")
