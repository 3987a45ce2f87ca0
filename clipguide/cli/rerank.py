"""`clipguide rerank`: images ordered by how well they follow a prompt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import (
    DeviceOption,
    JsonOption,
    Print0Option,
    ScorerOption,
    emit,
    note,
    print0,
)
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

PromptOption = Annotated[str, typer.Option("--prompt", help="What the images should show.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Copy the best here, their rank in front of the name.")
]


def rerank(
    images: ImagesArgument,
    prompt: PromptOption,
    scorer: ScorerOption = None,
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
    names_only: Print0Option = False,
    json: JsonOption = False,
) -> None:
    """Order images by how well they follow a prompt, best first."""
    if not prompt.strip():
        raise Mistake("got an empty --prompt, expected a text to rank by")
    if out is not None:
        _need_unranked(out)
    folder = Folder(images)
    model = load_scorer_for(scorer, folder.files, [prompt], device)
    from clipguide.files import atomic_path

    if model.convention == "cosine":
        ranked = _by_vectors(folder, prompt, model, (vectors, diversity))
    elif vectors is not None or diversity:
        raise Mistake(
            f"{model.name} is a cross-encoder, which has no vectors: leave out --vectors and "
            "--diversity"
        )
    else:
        ranked = _by_scores(folder, prompt, model)
    ranked = ranked[:top_k]
    if out is not None:
        for rank, (_, path) in enumerate(ranked, 1):
            with atomic_path(out / f"{rank:04d}-{path.name}", replace=False) as temporary:
                shutil.copyfile(path, temporary)
        note(f"clipguide: copied {len(ranked)} images to {out}")
    results = [
        {"rank": rank, "image": str(path), "value": value}
        | {"convention": model.convention, "scorer": model.name}
        for rank, (value, path) in enumerate(ranked, 1)
    ]
    if names_only:
        print0([path for _, path in ranked])
    elif json:
        emit(with_bad({"prompt": prompt, "scorer": model.name, "results": results}, folder))
    else:
        from clipguide.report.table import format_table

        rows = [(rank, value, str(path)) for rank, (value, path) in enumerate(ranked, 1)]
        typer.echo(
            format_table(["rank", model.convention.partition(":")[0], "image"], rows, digits=4)
        )


def _by_vectors(
    folder: Folder, prompt: str, model: Scorer, options: tuple[Path | None, float]
) -> list[tuple[float, Path]]:
    """Scores and files in order; each image is embedded once, kept in a folder where one is given,
    and what is like those before it comes later by the second option."""
    from clipguide.clip.kept_vectors import KeptVectors
    from clipguide.rerank import rerank as rerank_images

    vectors, diversity = options
    kept = KeptVectors(model, vectors)
    good = folder.usable(kept.encode_image)
    rows = rerank_images(good, prompt, kept, diversity=diversity)
    return [(row.score, good[row.index]) for row in rows]


def _by_scores(folder: Folder, prompt: str, model: Scorer) -> list[tuple[float, Path]]:
    """The same of a scorer without vectors."""
    from clipguide.rerank import rerank as rerank_images

    ranked: list[tuple[float, Path]] = []
    for batch in folder.batches():
        paths, pictures = zip(*batch, strict=True)
        rows = sorted(rerank_images(pictures, prompt, model), key=lambda row: row.index)
        ranked += [(row.score, path) for row, path in zip(rows, paths, strict=True)]
    return sorted(ranked, key=lambda row: -row[0])  # stable: ties keep the order of the files


def _need_unranked(out: Path) -> None:
    """Refuse a folder that holds a ranking: two in one could not be distinguished."""
    ranked = sorted(out.glob("[0-9][0-9][0-9][0-9]-*")) if out.is_dir() else []
    if ranked:
        raise Mistake(f"got --out {out}, where {ranked[0].name} is already: choose another folder")
