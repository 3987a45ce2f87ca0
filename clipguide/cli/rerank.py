"""`clipguide rerank`: images ordered by how well they follow a prompt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.folder import Folder, with_bad
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import (
    DeviceOption,
    EngineOption,
    JsonOption,
    Print0Option,
    emit,
    note,
    print0,
)
from clipguide.cli.rerank_joined import Joined, Order, Shown, files_of
from clipguide.cli.rerank_scores import Asked, Asking
from clipguide.cli.rerank_table import Pair, read_pairs
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer
    from clipguide.rerank import Ranked

PromptOption = Annotated[str | None, typer.Option("--prompt", help="What the images should show.")]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table",
        help="A .tsv, .csv or .jsonl with columns prompt and image, in the place of images and "
        "--prompt: the images of each prompt are ranked.",
    ),
]
ScorersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scorer",
        help="open_clip:ARCH/TAG, hf:REPO_OR_DIR, a directory, or starter, which knows only its "
        "own drawn scenes; vqa:MODEL, itm:MODEL; several decide together. [starter for pictures "
        "that it made; none for others]",
    ),
]
JoinOption = Annotated[
    str,
    typer.Option(
        "--join",
        help="Several scorers: rank, the mean of their ranks; score, of their scores; cascade, "
        "the cheapest first, each keeps --keep for the next.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Copy the best here, their rank in front of the name.")
]


def rerank(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGES_OR_DIR...", help="Files, folders, or both."),
    ] = None,
    prompt: PromptOption = None,
    table: TableOption = None,
    scorer: ScorersOption = None,
    join: JoinOption = "rank",
    weight: Annotated[
        list[float] | None, typer.Option("--weight", help="Of each --scorer, in order. [equal]")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Of a cascade. [a quarter]")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Keep the best K.")] = None,
    diversity: Annotated[
        float,
        typer.Option("--diversity", help="0 to 1: how much a picture like those before it loses."),
    ] = 0.0,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", help="Keep what is embedded here: another prompt is quick."),
    ] = None,
    out: OutOption = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = "here",
    names_only: Print0Option = False,
    json: JsonOption = False,
) -> None:
    """Order images by how well they follow a prompt, best first.

    Under `accelerate launch` or with --engine ray several processes share the images.
    """
    _check(images, prompt, table, (out, names_only))
    how = Joined(scorer or [], join, tuple(weight or ()), Order(top_k, keep, diversity))
    how.check()
    pairs = None if table is None else read_pairs(table)
    sources = [*(images or [])] if pairs is None else [*dict.fromkeys(p.image for p in pairs)]
    folder = Folder(sources)
    asked = asked_of(folder, prompt, pairs)
    models = _load(how.names, folder, asked, device)
    _need_vectors(models, vectors is not None, diversity > 0)
    from clipguide.workers import find_workers

    workers = find_workers(engine)
    asking = Asking(folder, workers, vectors, how.narrow())
    known = asking.answers(models, asked)
    bad = {entry["image"] for entry in folder.bad}
    if not workers.main:
        return
    decide = how.scorer(known)
    groups = {
        text: _ranked([f for f in files if str(f) not in bad], text, decide, how.order)
        for text, files in files_of(asked).items()
    }
    shown = Shown(how.convention(known), " + ".join(one.name for one in known), top_k)
    if out is not None:
        _copy(groups[prompt or ""][:top_k], out)
    if names_only:
        print0([Path(str(row.image)) for row in groups[prompt or ""][:top_k]])
    elif json:
        emit(with_bad(shown.as_json(groups, prompt), folder))
    else:
        shown.print(groups, prompt)


def _check(
    images: list[Path] | None, prompt: str | None, table: Path | None, single: tuple[Any, bool]
) -> None:
    if table is not None:
        if images or prompt is not None:
            raise Mistake("got --table beside images or --prompt, which it says itself")
        if any(single):
            raise Mistake("got --out or --print0 with --table: one ranking alone can be given so")
        return
    if not images or prompt is None:
        raise Mistake("give IMAGES_OR_DIR... and --prompt TEXT, or --table FILE")
    if not prompt.strip():
        raise Mistake("got an empty --prompt, expected a text to rank by")
    if single[0] is not None:
        _need_unranked(single[0])


def _load(given: list[str], folder: Folder, asked: Asked, device: str) -> list[Scorer]:
    texts = [text for own in asked.values() for text in own]
    names: list[str | None] = [*given] or [None]
    return [load_scorer_for(name, folder.files, dict.fromkeys(texts), device) for name in names]


def _need_vectors(models: list[Scorer], kept: bool, diverse: bool) -> None:
    """Refuse --vectors where no scorer has any, and --diversity where the last has none."""
    without = [one.name for one in models if one.convention != "cosine"]
    for name, bad in (
        ("--vectors", kept and len(without) == len(models)),
        ("--diversity", diverse and models[-1].name in without),
    ):
        if bad:
            raise Mistake(
                f"{models[-1].name} is a cross-encoder, which has no vectors: leave out {name}"
            )


def asked_of(folder: Folder, prompt: str | None, pairs: list[Pair] | None) -> Asked:
    """The prompts of each image."""
    if pairs is None:
        return {str(file): [prompt or ""] for file in folder.files}
    asked: dict[str, list[str]] = {}
    for pair in pairs:
        own = asked.setdefault(str(pair.image), [])
        if pair.prompt not in own:
            own.append(pair.prompt)
    return asked


def _ranked(files: list[Path], prompt: str, scorer: Any, how: Order) -> list[Ranked]:
    from clipguide.rerank import rerank as rerank_images

    if not files:
        return []
    return rerank_images(files, prompt, scorer, how.top_k, keep=how.keep, diversity=how.diversity)


def _copy(rows: list[Ranked], out: Path) -> None:
    from clipguide.files import atomic_path

    for rank, row in enumerate(rows, 1):
        path = Path(str(row.image))
        with atomic_path(out / f"{rank:04d}-{path.name}", replace=False) as temporary:
            shutil.copyfile(path, temporary)
    note(f"clipguide: copied {len(rows)} images to {out}")


def _need_unranked(out: Path) -> None:
    """Refuse a folder that holds a ranking: two in one could not be distinguished."""
    ranked = sorted(out.glob("[0-9][0-9][0-9][0-9]-*")) if out.is_dir() else []
    if ranked:
        raise Mistake(f"got --out {out}, where {ranked[0].name} is already: choose another folder")
