"""`clipguide eval`: recall, agreement with people, and word order of a CLIP on real captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.eval_captions import captions as evaluate_captions
from clipguide.cli.eval_noise import noise
from clipguide.cli.eval_oracle import oracle
from clipguide.cli.eval_run import run
from clipguide.cli.eval_set import set_
from clipguide.cli.judged_pairs import judged
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, ScorerOption, emit, note, say
from clipguide.cli.pairs import (
    CaptionsFile,
    ImagesFolder,
    NamesFile,
    embed_pairs,
    embed_pictures,
    embed_texts,
    read_pairs,
)
from clipguide.cli.starter import load_scorer_for

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(help="Measure a CLIP, or pictures.")
app.command("captions")(evaluate_captions)
app.command()(noise)
app.command()(oracle)
app.command()(run)
app.command("set")(set_)
Row = Mapping[str, Any]


@app.command()
def retrieval(
    captions: CaptionsFile,
    images: ImagesFolder,
    names: NamesFile = None,
    scorer: ScorerOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Recall at 1, 5, 10 with 95 % intervals, median rank, mAP and R-precision, both directions."""
    from clipguide.evaluation.ranking import precisions
    from clipguide.evaluation.recall import recall_report

    pairs = read_pairs(captions, images, names)
    pictures = (picture.name for picture in pairs.pictures)
    model = load_scorer_for(scorer, pictures, pairs.captions, device)
    both = embed_pairs(model, pairs)
    if len(both.images) < 2:
        raise Mistake(f"got {len(both.images)} images, expected at least 2: one is always found")
    data: dict[str, Any] = {
        "measure": "recall in percent among all images / all captions of the set",
        "scorer": model.name,
        "captions_file": str(captions),
        "names_file": None if names is None else str(names),
        "images": len(both.images),
        "captions": len(both.texts),
        **recall_report(both.images, both.texts, both.owners),
        "bad": both.bad,
    }
    for direction, found in precisions(both.images, both.texts, both.owners).items():
        data[direction] |= {name: round(value, 2) for name, value in found.items()}
    if json:
        emit(data)
        return
    rows = [
        [direction.replace("_", " "), *(_with_interval(data[direction], k) for k in (1, 5, 10)),
         data[direction]["median rank"], data[direction]["mAP"], data[direction]["R-precision"]]
        for direction in ("text_to_image", "image_to_text")
    ]  # fmt: skip
    headings = ["direction", "R@1 %", "R@5 %", "R@10 %", "median rank", "mAP %", "R-precision %"]
    _show(headings, rows)
    say(f"{data['images']} images, {data['captions']} captions, {model.name}")


def _with_interval(found: Row, k: int) -> str:
    low, high = found[f"R@{k} 95%"]
    return f"{found[f'R@{k}']:.1f} [{low:.1f}, {high:.1f}]"


@app.command()
def agreement(
    ratings: Annotated[
        Path,
        typer.Option(
            "--ratings", help="TSV or CSV: image, caption_image, caption_index, rating1 ..."
        ),
    ],
    captions: CaptionsFile,
    images: ImagesFolder,
    scorer: ScorerOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Kendall tau-c of the score with people's ratings, none of them averaged first."""
    from clipguide.data.pairs import Picture
    from clipguide.data.ratings import read_ratings

    for place in (ratings, captions, images):
        if not place.exists():
            raise Mistake(f"{place}: no such file or folder")
    rated, own = read_ratings(ratings, captions)
    shown = [*dict.fromkeys(pair.image for pair in rated)]
    pictures, texts = (images / name for name in shown), (pair.text for pair in rated)
    model = load_scorer_for(scorer, pictures, texts, device)
    if model.convention == "cosine":
        vectors, kept, bad = embed_pictures(model, [Picture(str(images / name)) for name in shown])
        row_of = {shown[place]: row for row, place in enumerate(kept)}
        rated = [pair for pair in rated if pair.image in row_of]
        pictures = vectors[[row_of[pair.image] for pair in rated]]
        measures = [_agree(model, pictures, rated, convention) for convention in _AGREED]
        measures += _agree_with_references(model, pictures, rated, captions)
    else:
        rated, values, kept, bad = judged(model, images, rated)
        measures = [_measure(model.convention, "", values, rated)]
    data = {
        "measure": "Kendall tau-c in percent of a score with single ratings",
        "scorer": model.name,
        "ratings_file": str(ratings),
        "images": len(kept),
        "pairs": len(rated),
        "own_captions_left_out": own,
        "measures": measures,
        "bad": bad,
    }
    if json:
        emit(data)
        return
    rows = [[m["convention"], m["prefix"] or None, _tau(m), m["ratings"]] for m in measures]
    _show(["convention", "prefix", "tau-c %", "ratings"], rows)
    say(f"{len(rated)} pairs of {len(kept)} images, {model.name}")


_AGREED = ("cosine", "clipscore")


def _agree(model: Any, pictures: Any, rated: Sequence[Any], convention: str) -> dict[str, Any]:
    from clipguide.clip.conventions import scale_of

    scale = scale_of(model, convention)
    texts = embed_texts(model, [scale.text(pair.text) for pair in rated], convention)
    return _measure(convention, scale.prefix, scale.of((pictures * texts).sum(dim=1)), rated)


def _agree_with_references(
    model: Any, pictures: Any, rated: Sequence[Any], captions: Path
) -> list[dict[str, Any]]:
    """RefCLIPScore, an image's own captions its references; none where an image has none."""
    import torch

    from clipguide.clip.conventions import scale_of
    from clipguide.data.captions import read_captions
    from clipguide.evaluation.reference_scores import harmonic_with_references

    scale = scale_of(model, "clipscore")
    own: dict[str, list[str]] = {}
    for caption in read_captions(captions):
        own.setdefault(caption.image, []).append(scale.text(caption.text))
    without = [pair.image for pair in rated if pair.image not in own]
    if without:
        note(f"clipguide: no refclipscore: {without[0]} has no caption of its own in {captions}")
        return []
    unique = [*dict.fromkeys(text for pair in rated for text in own[pair.image])]
    row_of = {text: row for row, text in enumerate(unique)}
    references = embed_texts(model, unique, "references")
    texts = embed_texts(model, [scale.text(pair.text) for pair in rated], "refclipscore")
    best = [
        (references[[row_of[text] for text in own[pair.image]]] @ vector).max()
        for pair, vector in zip(rated, texts, strict=True)
    ]
    scores = scale.of((pictures * texts).sum(dim=1))
    values = harmonic_with_references(scores, torch.stack(best))
    return [_measure("refclipscore", scale.prefix, values, rated)]


def _measure(convention: str, prefix: str, values: Tensor, rated: Sequence[Any]) -> dict[str, Any]:
    from clipguide.evaluation.agreement import agreement as agree

    found = agree(values.tolist(), [pair.ratings for pair in rated], [p.image for p in rated])
    return {
        "convention": convention,
        "prefix": prefix,
        "tau_c": found.tau_c,
        "interval": list(found.interval),
        "ratings": found.ratings,
    }


def _tau(measure: Row) -> str:
    low, high = measure["interval"]
    return f"{measure['tau_c']:.1f} [{low:.1f}, {high:.1f}]"


@app.command()
def swaps(
    captions: CaptionsFile,
    images: ImagesFolder,
    names: NamesFile = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the words exchanged.")] = 0,
    scorer: ScorerOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Word order: the true caption against itself with two words, or a relation, exchanged."""
    from clipguide.data.captions import read_captions
    from clipguide.data.hard_negatives import find_nouns
    from clipguide.evaluation.caption_swaps import caption_swaps

    pairs = read_pairs(captions, images, names)
    pictures = (picture.name for picture in pairs.pictures)
    nouns = find_nouns(caption.text for caption in read_captions(captions))
    model = load_scorer_for(scorer, pictures, pairs.captions, device)
    vectors, kept, bad = embed_pictures(model, pairs.pictures)
    pairs = pairs.of(kept)

    def encode(texts: list[str]) -> Tensor:
        return embed_texts(model, texts, "swaps")

    found = caption_swaps(vectors, pairs.by_image(), encode, nouns, seed=seed)
    data = {
        "measure": "images nearer their caption than the caption exchanged, in percent; chance 50",
        "scorer": model.name,
        "captions_file": str(captions),
        "names_file": None if names is None else str(names),
        "images": len(kept),
        "seed": seed,
        "kinds": {
            kind: {"accuracy": a.accuracy, "interval": list(a.interval), "images": a.images}
            for kind, a in found.items()
        },
        "bad": bad,
    }
    if json:
        emit(data)
        return
    rows = [
        [kind, f"{a.accuracy:.1f} [{a.interval[0]:.1f}, {a.interval[1]:.1f}]", a.images]
        for kind, a in found.items()
    ]
    _show(["exchanged", "right % (chance 50)", "cases"], rows)
    say(f"{len(kept)} images, {model.name}")


def _show(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from clipguide.report.table import format_table

    typer.echo(format_table(headers, rows))
