"""`clipguide eval set`: is a set of pictures diverse, and how near is it to a set of real ones?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.folder import Folder, ImagesArgument, with_bad
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, say
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.starter import scorer_for

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.evaluation.features import Encode

FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="A scorer's name, or vision:REPO_OR_DIR. [starter for pictures that it made]",
    ),
]
RealOption = Annotated[
    Path | None, typer.Option("--real", help="Folder of real pictures: the distances to it.")
]


def set_(
    images: ImagesArgument,
    real: RealOption = None,
    features: FeaturesOption = None,
    neighbours: Annotated[int, typer.Option("--neighbours", min=1, help="k of coverage.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of KID's subsets.")] = 0,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Diversity of a set of pictures; with --real, KID, Frechet distance, CMMD and coverage.

    Numbers of other features than the published ones' are not comparable with them: every output
    says which features it is of.
    """
    if real is not None and not real.exists():
        raise Mistake(f"{real}: no such file or folder")
    folder = Folder(images)
    name = _features(features, folder)
    quiet_libraries(diffusers=False)
    from clipguide.evaluation.features import load_features

    encode = load_features(name, device)
    generated = _encoded(folder, encode)
    rows = _diversity(generated)
    data: dict[str, Any] = {"features": name, "dimensions": generated.shape[1]}
    data["generated"] = len(generated)
    if real is not None:
        beside = Folder([real])
        truth = _encoded(beside, encode)
        data |= {"real": len(truth), "bad_real": beside.bad}
        rows += _distances(generated, truth, neighbours, seed)
    if json:
        emit(with_bad(data | {"results": rows}, folder))
        return
    from clipguide.report.table import format_table

    table = [(row["metric"], row["value"], row["convention"]) for row in rows]
    typer.echo(format_table(["metric", "value", "convention"], table, digits=4))
    sides = f"{len(generated)} pictures" + ("" if real is None else f", {data['real']} real")
    say(f"{sides}, features of {name} ({data['dimensions']})")


def _features(given: str | None, folder: Folder) -> str:
    """The name that was given, or the starter where it made all of the pictures."""
    try:
        return scorer_for(given, folder.files)
    except Mistake as error:  # whose line names the option of other commands
        raise Mistake(str(error).replace("--scorer", "--features")) from error


def _encoded(folder: Folder, encode: Encode) -> Tensor:
    import torch

    return torch.cat([encode([image for _, image in batch]) for batch in folder.batches()])


def _row(metric: str, value: float, convention: str) -> dict[str, Any]:
    return {"metric": metric, "value": value, "convention": convention}


def _diversity(generated: Tensor) -> list[dict[str, Any]]:
    from clipguide.evaluation.set_diversity import mean_pairwise_distance, vendi_score

    return [
        _row("pairwise", mean_pairwise_distance(generated), "1 - mean cosine of all pairs"),
        _row("vendi", vendi_score(generated), "effective number of pictures, cosine kernel"),
    ]


def _distances(generated: Tensor, real: Tensor, neighbours: int, seed: int) -> list[dict[str, Any]]:
    from clipguide.evaluation.set_coverage import coverage
    from clipguide.evaluation.set_distances import cmmd, frechet_distance, kernel_distance

    kid = kernel_distance(generated, real, seed=seed)
    drawn = f"{kid.subsets} subsets of {kid.subset_size}, sd {kid.deviation:.4g}, seed {seed}"
    spread = coverage(generated, real, neighbours=neighbours)
    near = f"k {neighbours}"
    return [
        _row("kid", kid.mean, f"cubic kernel, unbiased; {drawn}"),
        _row("frechet", frechet_distance(generated, real), "squared, of two Gaussians"),
        _row("cmmd", cmmd(generated, real), "1000 MMD², sigma 10, unit vectors"),
        _row("precision", spread.precision, near),
        _row("recall", spread.recall, near),
        _row("density", spread.density, near),
        _row("coverage", spread.coverage, near),
    ]
