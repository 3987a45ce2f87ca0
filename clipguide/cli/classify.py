"""`clipguide classify`: which of some labels fits an image, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.confusion import (
    check_folders,
    folder_labels,
    print_report,
    report_on,
    write_confusion,
    write_failures,
)
from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake, need_free, need_png
from clipguide.cli.output import DeviceOption, JsonOption, ScorerOption, emit
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.starter import heed_labels, scorer_for
from clipguide.texts import read_lines

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


def classify(
    images: ImagesArgument,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="cat,dog,... or a text file with one label per line."),
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            "--templates", help="openai, plain, a dataset (cifar10), or a text with {} in it."
        ),
    ] = "plain",
    folders: Annotated[
        bool, typer.Option("--folders", help="An image's folder is its true label: measure.")
    ] = False,
    failures: Annotated[
        Path | None,
        typer.Option("--failures", help="Write the wrong ones (--folders): a page, or a .png."),
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", help="Draw the confusion (--folders): a .png.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Factor on cosines. [the model's own]")
    ] = None,
    scorer: ScorerOption = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Labels shown per image.")] = 5,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Classify images by their likeness to the labels, with probabilities."""
    if not folders and (labels is None or failures is not None or confusion is not None):
        raise Mistake(
            "give --labels cat,dog,... or --folders (--failures, --confusion only with it)"
        )
    if confusion is not None:
        need_png("--confusion", confusion)
    if failures is not None and failures.suffix.lower() == ".png":
        need_free("--failures", failures)
    folder = Folder(images)
    names = folder_labels(folder.files) if labels is None else read_labels(labels)
    if folders:
        check_folders(folder.files, names)
    from clipguide.clip.loading import load_scorer

    chosen = read_templates(templates)
    scorer = scorer_for(scorer, folder.files)
    heed_labels(scorer, names)
    quiet_libraries(diffusers=False)
    model = load_scorer(scorer, device=device)
    results = _predict(model, folder, names, chosen, scale)
    report = report_on(results, names) if folders else None
    if failures is not None:
        write_failures(failures, results)
    if confusion is not None and report is not None:
        write_confusion(confusion, report, names)
    for row in results:
        row["predictions"] = row["predictions"][:top_k]
    if json:
        data = {"scorer": model.name, "labels": names, "templates": list(chosen)}
        data |= {} if report is None else {"verdict": report}
        emit(with_bad(data | {"results": results}, folder))
    elif report is not None:
        print_report(report, names)
    else:
        _print(results)


def _predict(
    model: Scorer, folder: Folder, names: Sequence[str], chosen: Sequence[str], scale: float | None
) -> list[dict[str, Any]]:
    """Every label of every image, likeliest first."""
    from clipguide.zero_shot import classify as classify_images

    results: list[dict[str, Any]] = []
    for batch in folder.batches():
        pictures = [image for _, image in batch]
        predicted = classify_images(model, pictures, names, chosen, len(names), scale=scale)
        results += [
            {"image": str(path), "predictions": [vars(prediction) for prediction in predictions]}
            for (path, _), predictions in zip(batch, predicted, strict=True)
        ]
    return results


def read_labels(labels: str) -> list[str]:
    """Labels separated by commas, or one per line of the file of that name."""
    file = Path(labels)
    if file.suffix == ".txt" or ("," not in labels and file.is_file()):
        names = read_lines(file)
    else:
        names = [name.strip() for name in labels.split(",")]
    names = [name for name in names if name]
    if len(names) < 2:
        raise Mistake(f"got {len(names)} label in --labels, expected at least two: cat,dog")
    return names


def read_templates(templates: str) -> tuple[str, ...]:
    """A set by name, or the text itself when it has a place for the label."""
    from clipguide.zero_shot import TEMPLATES

    if "{}" in templates:
        return (templates,)
    if templates not in TEMPLATES:
        choices = ", ".join(TEMPLATES)
        raise Mistake(
            f"got --templates {templates!r}, expected one of {choices}, or a text with {{}}"
        )
    return tuple(TEMPLATES[templates])


def _print(results: Sequence[dict[str, Any]]) -> None:
    from clipguide.report.table import format_table

    rows = [(row["image"], *_best(row["predictions"])) for row in results]
    typer.echo(format_table(["image", "label", "probability", "others"], rows))


def _best(predictions: list[dict[str, Any]]) -> tuple[str, float, str]:
    others = ", ".join(f"{p['label']} {p['probability']:.3f}" for p in predictions[1:])
    return predictions[0]["label"], predictions[0]["probability"], others
