"""`clipguide plot`: images and captions as points of one map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake, need_free
from clipguide.cli.output import DeviceOption, JsonOption, ScorerOption, emit, note
from clipguide.cli.pairs import (
    CaptionsFile,
    Embedded,
    ImagesFolder,
    NamesFile,
    embed_pairs,
    read_pairs,
)
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from clipguide.data.pairs import Pairs


def plot(
    captions: CaptionsFile,
    images: ImagesFolder,
    out: Annotated[Path, typer.Option("--out", help="A .png, .svg or .pdf.")],
    names: NamesFile = None,
    method: Annotated[str, typer.Option("--method", help="umap or tsne.")] = "umap",
    count: Annotated[int, typer.Option("--count", min=2, help="Images, from the first.")] = 300,
    per_image: Annotated[
        int, typer.Option("--per-image", min=1, help="Captions of each image, from the first.")
    ] = 1,
    lines: Annotated[bool, typer.Option("--lines", help="Join each caption to its image.")] = False,
    center: Annotated[
        bool, typer.Option("--center", help="Take the mean of images and of captions off.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the map.")] = 0,
    scorer: ScorerOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Map images and captions into the plane, near each other where the CLIP says so."""
    from clipguide.evaluation.projection import METHODS
    from clipguide.extras import need
    from clipguide.report.embedding_plot import check_suffix, embedding_plot

    check_suffix(out)
    need_free("--out", out)
    if method not in METHODS:
        raise Mistake(f"got --method {method!r}, expected one of {', '.join(METHODS)}")
    for module in ("matplotlib", {"umap": "umap", "tsne": "sklearn"}[method]):
        need(module, "plot")
    from clipguide.evaluation.projection import project

    pairs = _first(read_pairs(captions, images, names), count, per_image)
    pictures = (picture.name for picture in pairs.pictures)
    model = load_scorer_for(scorer, pictures, pairs.captions, device)
    both = embed_pairs(model, pairs)
    points = project(both.images, both.texts, method, center=center, seed=seed)
    title = f"{method} of cosines, {model.name}" + (", means taken off" if center else "")
    embedding_plot(*points, out, owners=both.pairs.owners if lines else None, title=title)
    note(f"clipguide: wrote {out}")
    if json:
        settings = {"scorer": model.name, "method": method, "center": center, "seed": seed}
        emit(settings | _points(both, points[0].tolist(), points[1].tolist()))


def _first(pairs: Pairs, count: int, per_image: int) -> Pairs:
    """The first images, with the first captions of each."""
    from clipguide.data.pairs import Pairs

    captions = enumerate(pairs.by_image()[:count])
    chosen = [(text, owner) for owner, own in captions for text in own[:per_image]]
    texts, owners = zip(*chosen, strict=True)
    return Pairs(pairs.pictures[:count], texts, owners)


def _points(both: Embedded, images: list[Any], texts: list[Any]) -> dict[str, Any]:
    pictures = zip(both.pairs.pictures, images, strict=True)
    captions = zip(both.pairs.captions, both.pairs.owners, texts, strict=True)
    return {
        "images": [{"image": picture.name, "point": point} for picture, point in pictures],
        "captions": [{"caption": t, "image": owner, "point": p} for t, owner, p in captions],
        "bad": both.bad,
    }
