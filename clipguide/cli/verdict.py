"""How well `classify` did, where an image's folder is its true label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

Row = dict[str, Any]  # {"image": path, "predictions": of every label, likeliest first}


def folder_labels(files: Sequence[Path]) -> list[str]:
    """The names of the folders the files are in."""
    names = sorted({_truth(file) for file in files})
    if len(names) < 2:
        raise Mistake(f"got images of {len(names)} folder, expected one folder per label")
    return names


def check_folders(files: Sequence[Path], labels: Sequence[str]) -> None:
    """Every folder must be a label."""
    unknown = sorted({_truth(file) for file in files} - set(labels))
    if unknown:
        raise Mistake(f"folder {unknown[0]!r} is none of the labels: {', '.join(labels)}")


def _truth(file: Path | str) -> str:
    return Path(file).resolve().parent.name


def judge(results: Sequence[Row], labels: Sequence[str]) -> Row:
    """Accuracy, confusion, calibration, and the scale that would calibrate these images best."""
    import torch

    from clipguide.evaluation.confusion import (
        confusion_matrix,
        expected_calibration_error,
        fit_scale,
        most_confused,
    )

    place = {label: i for i, label in enumerate(labels)}
    truth = torch.tensor([place[_truth(row["image"])] for row in results])
    cosines = torch.empty(len(results), len(labels), dtype=torch.float64)
    for number, row in enumerate(results):
        for one in row["predictions"]:
            cosines[number, place[one["label"]]] = one["cosine"]
    best = torch.tensor([place[row["predictions"][0]["label"]] for row in results])
    chances = torch.tensor([row["predictions"][0]["probability"] for row in results])
    right = best == truth
    scale = fit_scale(cosines, truth)
    fitted = (scale * cosines).softmax(dim=1).amax(dim=1)
    matrix = confusion_matrix(truth, best, len(labels))
    return {
        "images": len(results),
        "accuracy": float(right.double().mean()),
        "calibration_error": expected_calibration_error(chances.clamp(max=1), right),
        "fitted_scale": scale,
        "fitted_calibration_error": expected_calibration_error(fitted.clamp(max=1), right),
        "confusion": matrix.tolist(),
        "confused": [vars(pair) for pair in most_confused(matrix, labels)],
    }


def print_verdict(verdict: Row, labels: Sequence[str]) -> None:
    """Accuracy, the confusion matrix (rows: truth), and the pairs mixed up most often."""
    from clipguide.report.table import format_table

    rows = [[label, *row] for label, row in zip(labels, verdict["confusion"], strict=True)]
    typer.echo(format_table(["true \\ taken for", *labels], rows))
    typer.echo()
    pairs = [(one["truth"], one["taken_for"], one["count"]) for one in verdict["confused"]]
    typer.echo(format_table(["most confused", "taken for", "images"], pairs))
    typer.echo(f"\naccuracy {verdict['accuracy']:.1%} of {verdict['images']} images")
    typer.echo(
        f"calibration error {verdict['calibration_error']:.3f}; with --scale "
        f"{verdict['fitted_scale']:.3g}, fitted to these images, "
        f"{verdict['fitted_calibration_error']:.3f}"
    )


MOST = 48  # failures on one sheet


def write_failures(file: Path, results: Sequence[Row]) -> None:
    """The images taken for something else: `.png`: the surest on one sheet; else a page of all."""
    failed = sorted(
        (row for row in results if row["predictions"][0]["label"] != _truth(row["image"])),
        key=lambda row: -row["predictions"][0]["probability"],
    )
    if file.suffix.lower() == ".png":
        if not failed:
            note(f"clipguide: every image is right: nothing to draw in {file}")
            return
        _write_sheet(file, failed[:MOST])
    else:
        _write_page(file, failed)
    note(f"clipguide: wrote {file}")


def _write_sheet(file: Path, failed: Sequence[Row]) -> None:
    from clipguide.files import atomic_path
    from clipguide.images import load_image
    from clipguide.report.contact_sheet import Picture, Tile, contact_sheet

    tiles: list[Tile] = []
    for row in failed:
        best = row["predictions"][0]
        lines = (f"taken for {best['label']}", f"p {best['probability']:.3f}")
        tiles.append(Tile(_truth(row["image"]), (Picture(load_image(row["image"]), lines),)))
    with atomic_path(file) as temporary:
        contact_sheet(tiles).save(temporary)


def _write_page(file: Path, failed: Sequence[Row]) -> None:
    from clipguide.files import write_text
    from clipguide.report.gallery import Card, Section, gallery

    cards: dict[str, list[Card]] = {}
    for row in failed:
        image, best = Path(row["image"]), row["predictions"][0]
        line = f"taken for {best['label']}, p {best['probability']:.3f}"
        cards.setdefault(_truth(image), []).append(Card(image, (image.name, line)))
    sections = [Section(label, tuple(some)) for label, some in sorted(cards.items())]
    write_text(file, gallery("clipguide classify: failures", sections))


def write_confusion(file: Path, verdict: Row, labels: Sequence[str]) -> None:
    """The confusion matrix as a PNG."""
    from clipguide.files import atomic_path
    from clipguide.report.confusion_picture import confusion_picture

    title = f"accuracy {verdict['accuracy']:.1%} of {verdict['images']} images"
    with atomic_path(file) as temporary:
        confusion_picture(verdict["confusion"], labels, title).save(temporary, format="PNG")
    note(f"clipguide: wrote {file}")
