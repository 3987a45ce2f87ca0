"""`clipguide search`: items of an index by text, by image, or by sums and differences of both."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, Print0Option, emit, note, print0, say
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.starter import heed_grammar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from clipguide.clip.towers import Half
    from clipguide.report.gallery import Card
    from clipguide.retrieval import Hit, Index, Manifest, Term

QueryArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERY...",
        help="Words, an image file, or both with + and - between: beach + dog.jpg - people.",
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Filter, repeatable: date>=2024-05-01, size<2MB, width>=512, folder=a/b, name~x, "
        "prompt~fox, seed=7, score>0.3.",
    ),
]
Row = dict[str, Any]


class Show(str, Enum):
    """How hits are printed."""

    TABLE = "table"
    PATHS = "paths"


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index` made, or its DIR.")],
    query: QueryArgument = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="A text file with one query per line.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Hits per query.")] = 10,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Least probability of a match, of 0:1.")
    ] = 0.0,
    where: WhereOption = None,
    show: Annotated[Show, typer.Option("--show", help="table, or paths alone.")] = Show.TABLE,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page of the hits.")] = None,
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="Where the index's own CLIP is now.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Read all vectors of an index in LanceDB.")
    ] = False,
    device: DeviceOption = "cpu",
    names_only: Print0Option = False,
    json: JsonOption = False,
) -> None:
    """Find what is most like a text, an image, or a sum and difference of them."""
    asked = _asked(query, queries)
    from clipguide.cli.index import HIDDEN
    from clipguide.retrieval import open_index, parse_query
    from clipguide.retrieval.filters import parse_filter
    from clipguide.retrieval.manifest import FILE

    filters = [parse_filter(text) for text in where or []]
    parsed = [parse_query(text) for text in asked]
    if not (index / FILE).exists() and (index / HIDDEN / FILE).exists():
        index = index / HIDDEN
    opened = open_index(index, device, exact=exact)
    name = scorer or opened.manifest.scorer
    heed_grammar(name, (t.value for terms in parsed for t in terms if t.kind == "text"))
    vectors = _embed(opened.manifest, name, parsed, device)
    answers = opened.search(vectors, top_k, where=filters, min_p=min_p)
    results: list[Row] = [
        {"query": text, "hits": [_row(opened, rank, hit) for rank, hit in enumerate(hits, 1)]}
        for text, hits in zip(asked, answers, strict=True)
    ]
    if html is not None:
        _write_page(html, results, opened)
    if names_only:
        print0([hit["path"] for result in results for hit in result["hits"]])
    elif json:
        head = {"index": str(index), "scorer": name, "convention": "cosine"}
        emit(head | {"results": results})
    else:
        _print(results, show)


def _embed(manifest: Manifest, name: str, queries: Sequence[Sequence[Term]], device: str) -> Tensor:
    """(Q,D): the queries, by one tower where that is enough, or by the whole model."""
    import torch

    from clipguide.clip.settings_hash import same_settings
    from clipguide.clip.towers import NoTower
    from clipguide.retrieval import embed_query
    from clipguide.retrieval.halves import load_half
    from clipguide.retrieval.manifest import preprocess_of

    hashes: dict[Half, str] = {"text": manifest.text_hash, "image": manifest.image_hash}
    kinds: set[Half] = {term.kind for terms in queries for term in terms}
    kind = next(iter(kinds))
    if len(kinds) == 1 and hashes[kind]:
        try:
            half = load_half(name, kind, preprocess_of(manifest))
            known = same_settings(half.settings_hash, manifest.settings_hash)
            if half.content_hash == hashes[kind] and known:
                half = half.to(device)
                return torch.stack([embed_query(terms, half) for terms in queries])
        except NoTower:  # the whole model will say what is wrong, or do it
            pass
    from clipguide.clip.loading import load_scorer

    quiet_libraries(diffusers=False)
    model = load_scorer(name, device=device)
    manifest.check(model)
    return torch.stack([embed_query(terms, model) for terms in queries])


def _asked(query: list[str] | None, queries: Path | None) -> list[str]:
    if bool(query) == (queries is not None):
        raise Mistake("give either a QUERY or --queries FILE")
    if queries is None:
        return [" ".join(query or [])]
    from clipguide.texts import read_lines

    asked = read_lines(queries)
    if not asked:
        raise Mistake(f"{queries}: no queries in it")
    return asked


def _row(index: Index, rank: int, hit: Hit) -> Row:
    """A hit for JSON: the details it has."""
    root = Path(index.manifest.root)
    place = root / hit.path if index.manifest.kind == "images" else hit.path
    details = {name: value for name, value in hit.details.items() if value is not None}
    numbers = {"cosine": hit.cosine, "probability": hit.probability}
    return {"rank": rank, "path": str(place), **numbers, **details}


def _print(results: list[Row], show: Show) -> None:
    from clipguide.report.table import Cell, format_table

    for result in results:
        if show is Show.PATHS:
            for hit in result["hits"]:
                say(hit["path"])
            continue
        if len(results) > 1:
            say(result["query"])
        if not result["hits"]:
            typer.echo("no match")
            continue
        texts = any("text" in hit for hit in result["hits"])
        headers = ["rank", "cosine", "p", "path", *(["text"] if texts else [])]
        rows: list[list[Cell]] = [
            [hit["rank"], hit["cosine"], hit["probability"], hit["path"]]
            + ([hit.get("text", "")] if texts else [])
            for hit in result["hits"]
        ]
        typer.echo(format_table(headers, rows))


def _write_page(file: Path, results: list[Row], index: Index) -> None:
    from clipguide.files import write_text
    from clipguide.report.gallery import Section, gallery

    cards = _image_cards if index.manifest.kind == "images" else _caption_cards
    sections = [Section(result["query"], tuple(cards(result))) for result in results]
    write_text(file, gallery(f"clipguide search in {index.manifest.root}", sections, file.parent))
    note(f"clipguide: wrote {file}")


def _image_cards(result: Row) -> list[Card]:
    """A card per hit: the picture, its name, its numbers, the prompt it was made of."""
    from clipguide.report.gallery import Card

    return [
        Card(
            Path(hit["path"]),
            (
                Path(hit["path"]).name,
                f"cosine {hit['cosine']:.3f}, p {hit['probability']:.3f}",
                *([hit["prompt"]] if hit.get("prompt") else []),
            ),
        )
        for hit in result["hits"]
    ]


def _caption_cards(result: Row) -> list[Card]:
    """One card: the picture that was asked for (if it was one), its best captions under it."""
    from clipguide.report.gallery import Card
    from clipguide.retrieval import parse_query

    terms = parse_query(result["query"])
    image = Path(terms[0].value) if len(terms) == 1 and terms[0].kind == "image" else None
    lines = [f"{hit['text']} (cosine {hit['cosine']:.3f})" for hit in result["hits"]]
    return [Card(image, tuple(lines))] if lines else []
