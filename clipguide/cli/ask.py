"""`clipguide ask`: questions about a picture, and what of a prompt is missing in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, say
from clipguide.cli.quiet import quiet_libraries


def ask(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="starter (its scenes); hf:REPO_OR_DIR: ViLT, or an image-text-to-text model; or a "
            "folder of a captioner that was taught questions.",
        ),
    ],
    question: Annotated[str | None, typer.Argument(metavar="QUESTION")] = None,
    answers: Annotated[
        str, typer.Option("--answers", help="What there is to choose from, between commas.")
    ] = "yes,no",
    from_prompt: Annotated[
        str | None,
        typer.Option("--from-prompt", help="Ask of each thing that a prompt names instead."),
    ] = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Answer a question about a picture, with the probability of each answer."""
    if (question is None) == (from_prompt is None):
        raise Mistake("give either QUESTION or --from-prompt TEXT")
    if not (question or from_prompt or "").strip():
        raise Mistake("got an empty text, expected a question or a prompt")
    from clipguide.images import load_image
    from clipguide.language.answers import load_answerer

    quiet_libraries(diffusers=False)
    picture = load_image(image)
    answerer = load_answerer(model, device=device)
    if from_prompt is not None:
        asked = {"image": str(image), "model": model, "prompt": from_prompt}
        _ask_prompt(answerer, picture, asked, json=json)
        return
    choices = [answer.strip() for answer in answers.split(",") if answer.strip()]
    (found,) = answerer.answer([picture], question or "", choices)
    if json:
        data = {"question": question, "answer": found.text, "probabilities": found.probabilities}
        emit({"image": str(image), "model": model, **data})
        return
    say(found.text)
    for text, chance in found.probabilities.items():
        say(f"  {text}  {100 * chance:.1f} %")


def _ask_prompt(answerer: Any, picture: Any, asked: dict[str, str], *, json: bool) -> None:
    from clipguide.language.answers import ask_prompt, sentence_of

    parts = ask_prompt(answerer, picture, asked["prompt"])
    if json:
        rows = [{"part": p.part, "question": p.question, "yes": p.yes} for p in parts]
        emit({**asked, "parts": rows, "sentence": sentence_of(parts)})
        return
    from clipguide.report.table import format_table

    cells = [(part.question, 100 * part.yes) for part in parts]
    typer.echo(format_table(["question", "yes %"], cells, digits=1))
    say(sentence_of(parts))
