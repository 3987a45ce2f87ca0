"""`clipguide score`: how well images follow one prompt, or each its own captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, ScorerOption, emit, note
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

CaptionsOption = Annotated[
    Path | None,
    typer.Option(
        "--captions",
        help="TSV or CSV with columns image and caption, or JSON: [{image, caption}] "
        "or {image: caption or [captions]}.",
    ),
]
ConventionOption = Annotated[
    str,
    typer.Option(
        "--convention",
        help="cosine; clipscore 2.5*max(cos,0); torchmetrics 100*max(cos,0); logit.",
    ),
]


def score(
    images: ImagesArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One text for all images.")] = None,
    captions: CaptionsOption = None,
    scorer: ScorerOption = "starter",
    convention: ConventionOption = "cosine",
    prefix: Annotated[
        str,
        typer.Option("--prefix", help="Put before each text: clipscore's is 'A photo depicts'."),
    ] = "",
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Score images against a prompt or their captions; every number says how it was made."""
    if (prompt is None) == (captions is None):
        raise Mistake("give either --prompt TEXT or --captions FILE")
    if prompt is not None and not prompt.strip():
        raise Mistake("got an empty --prompt, expected a text")
    from clipguide.clip.conventions import CONVENTIONS

    if convention not in CONVENTIONS:
        choices = ", ".join(CONVENTIONS)
        raise Mistake(f"got --convention {convention!r}, expected one of {choices}")
    folder = Folder(images)
    texts = _texts(folder, images, prompt, captions)
    from clipguide.clip.loading import load_scorer

    quiet_libraries()
    model = load_scorer(scorer, device=device)
    results: list[dict[str, Any]] = []
    for batch in folder.batches():
        results += _score_batch(model, batch, texts, convention, prefix)
    mean = sum(row["value"] for row in results) / len(results) if results else None
    data = {"scorer": model.name, "convention": convention, "prefix": prefix, "mean": mean}
    if json:
        emit(with_bad(data | {"results": results}, folder))
    else:
        _print(results, convention, mean)


def _texts(
    folder: Folder, sources: list[Path], prompt: str | None, captions: Path | None
) -> dict[Path, list[str]]:
    """The texts of every image; images without any are dropped from the folder."""
    if captions is None:
        return {file: [prompt or ""] for file in folder.files}
    from clipguide.data.captions import match_captions, read_captions

    read = read_captions(captions)
    matched, absent = match_captions(read, folder.files, sources)
    if not matched:
        first = f" (the first is {read[0].image!r})" if read else ""
        raise Mistake(f"{captions}: none of its images is among the files given{first}")
    bare = [file for file in folder.files if file not in matched]
    if absent:
        note(f"clipguide: {len(absent)} images of {captions} are not there, e.g. {absent[0]}")
    if bare:
        note(f"clipguide: {len(bare)} images have no caption, e.g. {bare[0]}")
    folder.files = [file for file in folder.files if file in matched]
    return matched


def _score_batch(
    model: Scorer, batch: list[Any], texts: dict[Path, list[str]], convention: str, prefix: str
) -> list[dict[str, Any]]:
    import torch

    from clipguide.clip.conventions import CONVENTIONS

    embeddings = model.encode_image([image for _, image in batch])  # (B, D)
    rows: list[dict[str, Any]] = []
    for (path, _), embedding in zip(batch, embeddings, strict=True):
        prompts = [f"{prefix.strip()} {text}".strip() for text in texts[path]]
        with torch.no_grad():
            cosines = model.encode_text(prompts) @ embedding  # (P,)
        values: list[float] = CONVENTIONS[convention](cosines, model.logit_scale).tolist()
        rows += [
            {"image": str(path), "text": text, "value": value}
            | {"convention": convention, "scorer": model.name}
            for text, value in zip(prompts, values, strict=True)
        ]
    return rows


def _print(results: list[dict[str, Any]], convention: str, mean: float | None) -> None:
    from clipguide.report.table import format_table

    rows = [(row["image"], row["value"], row["text"]) for row in results]
    typer.echo(format_table(["image", convention, "text"], rows, digits=4))
    if mean is not None and len(rows) > 1:
        typer.echo(f"mean of {len(rows)}: {mean:.4f} ({convention}, {results[0]['scorer']})")
