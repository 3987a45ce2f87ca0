"""Images and captions as points of one map, drawn by matplotlib (extra `clipguide[plot]`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipguide.evaluation.projection import Points
from clipguide.extras import need
from clipguide.files import atomic_path
from clipguide.report.metadata import RECORD_KEY, drawing_text, is_composite

IMAGE_COLOR, TEXT_COLOR, LINE_COLOR = "#1f5fb4", "#d1622b", "#999999"


def check_suffix(file: str | os.PathLike[str]) -> None:
    """ValueError for a name under which `embedding_plot` cannot write."""
    suffix = os.path.splitext(os.fspath(file))[1].lower()  # noqa: PTH122
    if suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"got suffix {suffix!r}, expected .png, .svg or .pdf")


def embedding_plot(
    images: Points,
    texts: Points,
    file: str | os.PathLike[str],
    *,
    owners: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Write the map to `file`: circles are images, triangles captions.

    Args:
        images: (N, 2).
        texts: (C, 2), see `clipguide.evaluation.projection.project`.
        file: .png, .svg or .pdf; whole or not there.
        owners: (C,) the image of each caption: a line joins them. None: no lines.
        title: a line above.

    Raises:
        ValueError: another suffix, not one owner a caption, or the extra is not installed.
    """
    check_suffix(file)
    if owners is not None and len(owners) != len(texts):
        raise ValueError(f"got {len(owners)} owners, expected {len(texts)}, one a caption")
    need("matplotlib", "plot")
    figures, canvas = (
        need("matplotlib.figure", "plot"),
        need("matplotlib.backends.backend_agg", "plot"),
    )
    figure: Any = figures.Figure(figsize=(10, 9), layout="constrained")
    canvas.FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    if owners is not None:
        collections = need("matplotlib.collections", "plot")
        lines = [(images[owner], text) for owner, text in zip(owners, texts, strict=True)]
        axes.add_collection(collections.LineCollection(lines, colors=LINE_COLOR, linewidths=0.4))
    count = f"{len(images)} images", f"{len(texts)} captions"
    axes.scatter(*images.T, s=22, c=IMAGE_COLOR, marker="o", label=count[0], linewidths=0)
    axes.scatter(*texts.T, s=22, c=TEXT_COLOR, marker="^", label=count[1], linewidths=0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.legend(loc="best")
    png = Path(file).suffix.lower() == ".png"
    mark = {RECORD_KEY: drawing_text([])} if png else None
    with atomic_path(file, replace=not png or is_composite(file)) as temporary:
        figure.savefig(temporary, dpi=110, metadata=mark)
