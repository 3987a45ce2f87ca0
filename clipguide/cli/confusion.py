"""How well `classify` did, where an image's folder is its true label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
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


def report_on(results: Sequence[Row], labels: Sequence[str]) -> Row:
    """`classification_report` of results that hold every label's prediction, as JSON."""
    import torch

    from clipguide.evaluation.classification import classification_report

    column = {label: i for i, label in enumerate(labels)}
    truth = torch.tensor([column[_truth(row["image"])] for row in results])
    found = torch.empty(2, len(results), len(labels), dtype=torch.float64)
    for number, row in enumerate(results):
        for one in row["predictions"]:
            values = torch.tensor([one["cosine"], one["probability"]], dtype=torch.float64)
            found[:, number, column[one["label"]]] = values
    return asdict(classification_report(found[0], found[1], truth, labels))


def print_report(report: Row, labels: Sequence[str]) -> None:
    """Accuracy, the confusion matrix (rows: truth), and the pairs mixed up most often."""
    from clipguide.report.table import format_table

    rows = [[label, *row] for label, row in zip(labels, report["confusion"], strict=True)]
    typer.echo(format_table(["true \\ taken for", *labels], rows))
    typer.echo()
    pairs = [(one["truth"], one["taken_for"], one["count"]) for one in report["confused"]]
    typer.echo(format_table(["most confused", "taken for", "images"], pairs))
    typer.echo(f"\naccuracy {report['accuracy']:.1%} of {report['images']} images")
    typer.echo(
        f"calibration error {report['calibration_error']:.3f}; with --scale "
        f"{report['fitted_scale']:.3g}, fitted to these images, "
        f"{report['fitted_calibration_error']:.3f}"
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
    from clipguide.images import load_image
    from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
    from clipguide.report.metadata import save_drawing

    tiles: list[Tile] = []
    for row in failed:
        best = row["predictions"][0]
        lines = (f"taken for {best['label']}", f"p {best['probability']:.3f}")
        tiles.append(Tile(_truth(row["image"]), (Picture(load_image(row["image"]), lines),)))
    save_drawing(contact_sheet(tiles), file, [str(row["image"]) for row in failed])


def _write_page(file: Path, failed: Sequence[Row]) -> None:
    from clipguide.files import write_text
    from clipguide.report.gallery import Card, Section, gallery

    cards: dict[str, list[Card]] = {}
    for row in failed:
        image, best = Path(row["image"]), row["predictions"][0]
        line = f"taken for {best['label']}, p {best['probability']:.3f}"
        cards.setdefault(_truth(image), []).append(Card(image, (image.name, line)))
    sections = [Section(label, tuple(some)) for label, some in sorted(cards.items())]
    write_text(file, gallery("clipguide classify: failures", sections, file.parent))


def write_confusion(file: Path, report: Row, labels: Sequence[str]) -> None:
    """The confusion matrix as a PNG."""
    from clipguide.report.confusion_picture import confusion_picture
    from clipguide.report.metadata import save_drawing

    title = f"accuracy {report['accuracy']:.1%} of {report['images']} images"
    save_drawing(confusion_picture(report["confusion"], labels, title), file, [])
    note(f"clipguide: wrote {file}")
