"""`clipguide index`: make an index of a folder or of captions, keep it up to date, look at it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.folder import note_composites
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, note, say
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.starter import scorer_of_new_index

if TYPE_CHECKING:
    from clipguide.retrieval.build import Progress
    from clipguide.retrieval.engines import Engine
    from clipguide.retrieval.manifest import Storage

HIDDEN = ".clipguide-index"
"""Where the index of a folder is by default: inside it, and never indexed itself."""

SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="DIR | CAPTIONS | check INDEX | duplicates INDEX",
        help="What to index, or what to do with an index.",
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer", help="The CLIP. [the index's own; of a new one starter for its pictures]"
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="shards; lancedb (inside the index); or lancedb:URI, a folder or an object store "
        "(s3://...). Of a new index. [shards]",
    ),
]


class EngineName(str, Enum):
    """Where images are embedded."""

    LOCAL = "local"
    RAY = "ray"


class Quantisation(str, Enum):
    """How LanceDB's index keeps vectors: a byte for 8 dimensions, or one for each."""

    PQ = "ivf_pq"
    SQ = "ivf_sq"


# what is asked -> the options that have a meaning there
_OPTIONS = {
    "check": ("captions", "scorer", "device", "json"),
    "duplicates": ("threshold", "json"),
    "index": (
        "to", "scorer", "calibrate", "store", "quantise", "engine", "batch_size", "device", "json",
    ),
}  # fmt: skip


def index(
    context: typer.Context,
    what: SourceArgument,
    to: Annotated[Path | None, typer.Option("--to", help="The index. [inside DIR]")] = None,
    scorer: ScorerOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", help="Captions of indexed images, to fit the probabilities."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="check: measure recall and calibration with these."),
    ] = None,
    store: StoreOption = None,
    quantise: Annotated[
        Quantisation, typer.Option("--quantise", help="The index of --store lancedb.")
    ] = Quantisation.PQ,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Embed here, or on Ray Data workers.")
    ] = EngineName.LOCAL,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Least cosine of duplicates.")
    ] = 0.95,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 32,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Index images (or captions) for `search`; again after changes embeds only what is new."""
    action = what[0] if what[0] in _OPTIONS else "index"
    _refuse_others(context, action)
    if action != "index":
        if len(what) != 2:
            raise Mistake(f"got {len(what) - 1} folders, expected one: index {what[0]} INDEX")
        if action == "check":
            _check(Path(what[1]), captions, scorer, device, json)
        else:
            _duplicates(Path(what[1]), threshold, json)
        return
    if len(what) != 1:
        raise Mistake(f"got {len(what)} folders, expected one: index DIR --to INDEX")
    source = Path(what[0])
    if not source.exists():
        raise Mistake(f"{source}: no such folder or captions file")
    if to is None and not source.is_dir():
        raise Mistake("an index of captions needs a place: --to INDEX")
    place = None if store is None else _storage(store, quantise.value)
    to = to or source / HIDDEN
    _update(source, to, scorer, calibrate, place, engine, batch_size, device, json)


def _refuse_others(context: typer.Context, action: str) -> None:
    """Mistake for an option given that `action` would not look at."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        if given and name != "what" and name not in _OPTIONS[action]:
            known = ", ".join(f"--{option.replace('_', '-')}" for option in _OPTIONS[action])
            raise Mistake(f"got {parameter.opts[0]} with {action}, which takes {known}")


def _storage(store: str, quantisation: str) -> Storage:
    """What `--store` means."""
    from clipguide.extras import need
    from clipguide.retrieval.manifest import Storage

    kind, _, uri = store.partition(":")
    if store == "shards":
        return Storage()
    if kind != "lancedb":
        raise Mistake(f"got --store {store}, expected shards, lancedb or lancedb:URI")
    need("lancedb", "index")
    if uri and "://" not in uri:
        uri = str(Path(uri).resolve())
    return Storage("lancedb", uri, quantisation)


def engine_of(name: EngineName) -> Engine:
    from clipguide.retrieval.engines import embed_here

    if name is EngineName.LOCAL:
        return embed_here
    from clipguide.extras import need
    from clipguide.retrieval.ray_engine import embed_on_ray

    need("ray.data", "scale")
    return embed_on_ray


def _update(
    source: Path,
    to: Path,
    scorer: str | None,
    calibrate: Path | None,
    storage: Storage | None,
    engine: EngineName,
    batch_size: int,
    device: str,
    json: bool,
) -> None:
    embed = engine_of(engine)
    from clipguide.clip.loading import load_scorer
    from clipguide.report.generated import describe
    from clipguide.report.metadata import MADE_OF_OTHERS, why_left_out
    from clipguide.retrieval import CaptionFile, ImageFolder, update_index
    from clipguide.retrieval.identity import find_manifest

    found = find_manifest(to)
    name = scorer_of_new_index(scorer, source) if found is None else scorer or found.scorer
    quiet_libraries(diffusers=False)
    model = load_scorer(name, device=device)
    folder = ImageFolder(source, describe, why_left_out)
    what, bar = folder if source.is_dir() else CaptionFile(source), progress_bar()
    report = update_index(
        to, what, model, storage=storage, engine=embed, batch_size=batch_size, progress=bar
    )
    fitted = None
    if calibrate is not None:
        from clipguide.retrieval.fitting import calibrate_index

        fitted = calibrate_index(to, calibrate, model)
    bad = {path: why for path, why in report.bad.items() if why != MADE_OF_OTHERS}
    for path, reason in bad.items():
        note(f"clipguide: skipped {source / path}: {reason}")
    left = len(report.bad) - len(bad)
    note_composites(left)
    data: dict[str, Any] = {"index": str(to), "scorer": model.name, **vars(report)}
    data |= {"bad": bad} | ({"composites": left} if left else {})
    if fitted is not None:
        data["calibration"] = vars(fitted)
    if json:
        emit(data)
        return
    counts = ("added", "changed", "renamed", "removed", "unchanged", "embedded")
    counted = ", ".join(f"{data[name]} {name}" for name in counts)
    say(f"{to}: {report.items} items ({counted}), {len(bad)} bad")
    say(f"{report.seconds:.1f} s with {model.name}")


def progress_bar() -> Progress:
    """A bar on stderr, shown when it takes longer than a second."""
    from tqdm import tqdm

    bar = tqdm(unit="item", leave=False, delay=1.0)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return progress


def _check(
    folder: Path, captions: Path | None, scorer: str | None, device: str, json: bool
) -> None:
    from clipguide.retrieval.check import check_index

    findings = check_index(folder)
    measured = _measure(folder, captions, scorer, device) if all(f.ok for f in findings) else {}
    if json:
        emit({"checks": [vars(finding) for finding in findings], **measured})
    else:
        from clipguide.report.table import format_table

        rows = [(one.name, "ok" if one.ok else "BROKEN", one.detail) for one in findings]
        typer.echo(format_table(["check", "", "detail"], rows))
        if measured:
            typer.echo(format_table(["measured", ""], [*measured.items()]))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _measure(
    folder: Path, captions: Path | None, scorer: str | None, device: str
) -> dict[str, float | str | None]:
    """What texts find: how much an approximate index misses, and with captions of indexed images
    recall and calibration, half of their images counted as absent."""
    from clipguide.retrieval import open_index
    from clipguide.retrieval.index import ApproximateIndex

    opened = open_index(folder)
    approximate = isinstance(opened, ApproximateIndex)
    if captions is None and not approximate:
        return {}
    if opened.manifest.kind != "images" and not approximate:
        raise Mistake(f"{folder}: got --captions, expected an index of images to find with them")
    from clipguide.clip.loading import load_scorer
    from clipguide.evaluation.confusion import expected_calibration_error
    from clipguide.retrieval.approximation import measure_approximation
    from clipguide.retrieval.assessment import assess

    quiet_libraries(diffusers=False)
    model = load_scorer(scorer or opened.manifest.scorer, device=device)
    figures: dict[str, float | str | None] = {}
    if (missed := measure_approximation(opened, model, captions)) is not None:
        figures["approximate_recall_at_10"] = missed.recall
        figures["approximate_recall_against"] = "exact search of the same vectors"
        figures["approximate_recall_asked"] = f"{missed.queries} text queries, {missed.texts}"
    if captions is None or opened.manifest.kind != "images":
        return figures
    found = assess(opened, captions, model)
    precision, recall = found.at(0.5)
    first, right = found.probabilities[:, 0], found.right[:, 0]
    return figures | {
        "captions": len(first),
        "recall_at_10": found.recall,
        "calibration_error_first_hit": expected_calibration_error(first, right),
        "calibration_error_ten_hits": expected_calibration_error(
            found.probabilities.flatten(), found.right.flatten()
        ),
        "precision_at_min_p_0.5": precision,
        "recall_at_min_p_0.5": recall,
    }


def _duplicates(folder: Path, threshold: float, json: bool) -> None:
    from clipguide.retrieval import open_index
    from clipguide.retrieval.duplicates import find_duplicates

    groups = find_duplicates(open_index(folder), threshold)
    if json:
        emit([{"paths": list(group.paths), "cosine": group.cosine} for group in groups])
        return
    for group in groups:
        say(f"{group.cosine:.3f}  " + "  ".join(group.paths))
    note(f"clipguide: {len(groups)} groups of near-duplicates (cosine {threshold:g} or more)")
