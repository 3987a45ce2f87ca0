"""Pictures of an index, by words, by a picture, by sums and differences of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipguide.retrieval import Hit, Index, Term, embed_query, parse_query
from clipguide.texts import printable
from clipguide.web.site import Site


def find(
    site: Site, query: str, image: Path | None, top_k: int = 12, min_p: float = 0.0
) -> tuple[Index, list[Hit]]:
    """Hits of the site's index, nearest first.

    Args:
        site: its index and limits.
        query: words, sums and differences of words as `clipguide search` takes them, or "".
        image: an uploaded one, added to the words; None: none.
        top_k: how many.
        min_p: the least probability of a match.

    Raises:
        ValueError: neither words nor a picture, a file named in the words (a page reads none of
            this machine's), an index that is not there or damaged, too many hits.
    """
    if not 1 <= top_k <= site.limits.pictures:
        raise ValueError(f"got {top_k} hits, expected 1 to {site.limits.pictures}")
    index = site.index()
    terms = [*_words(site, query)]
    if image is not None:
        terms.append(Term(str(image), kind="image"))
    if not terms:
        raise ValueError("write some words, or drop a picture to search by")
    scorer = site.scorer_of(index)
    vector = embed_query(terms, scorer)
    with site.placeless():
        (hits,) = index.search(vector, top_k, min_p=min_p, scorer=scorer)
    return index, hits


def _words(site: Site, query: str) -> Sequence[Term]:
    if not query.strip():
        return ()
    terms = parse_query(site.limits.checked_text(query, "query"))
    for term in terms:
        if term.kind == "image":
            raise ValueError(
                f"got {term.value!r} in the words: drop the picture beside them, or write it in "
                "quotes if the words are meant"
            )
    return terms


def picture_of(index: Index, hit: Hit) -> Path:
    """The file of a hit."""
    return Path(index.manifest.root) / hit.path


def hit_line(hit: Hit) -> str:
    """What stands under its picture: probability, cosine, name."""
    return f"{hit.probability:.0%}  {hit.cosine:.3f}  {printable(Path(hit.path).name)}"
