"""The tab Search: an index of this machine's pictures."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from clipguide.images import ImageError
from clipguide.web.choose_tab import thumbnail
from clipguide.web.events import COMPUTED
from clipguide.web.finding import find, hit_line, picture_of
from clipguide.web.messages import sentence, told
from clipguide.web.site import Site

_READY = (
    '<p class="hint">Words, a picture, or both: <code>beach - people</code>, '
    "<code>2*snow + dog</code>.</p>"
)
_NONE = (
    '<p class="hint">No index was given. Make one with <code>clipguide index DIR</code> and start '
    "the page with <code>--index DIR</code>.</p>"
)


def search_tab(gradio: Any, site: Site) -> None:
    """Builds the tab inside the open `gradio.Tab`."""
    there = site.sources.index is not None
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=4, min_width=280):
            query = gradio.Textbox(
                label="Words", max_length=site.limits.letters, elem_id="search-query",
                interactive=there,
            )  # fmt: skip
            image = gradio.File(
                label="A picture", file_count="single", file_types=["image"], height=140,
                elem_id="search-picture", interactive=there,
            )  # fmt: skip
            with gradio.Row():
                top_k = gradio.Slider(
                    1, min(60, site.limits.pictures), value=12, step=1, label="Hits",
                    elem_id="search-top",
                )  # fmt: skip
                min_p = gradio.Slider(
                    0, 1, value=0, step=0.05, label="Least probability", elem_id="search-p"
                )
            go = gradio.Button("Search", variant="primary", elem_id="search-go", interactive=there)
        with gradio.Column(scale=6, min_width=280):
            gallery = gradio.Gallery(
                label="Nearest first", columns=3, height="auto", elem_id="search-gallery",
                object_fit="contain", buttons=["fullscreen"], elem_classes="gallery-of",
            )  # fmt: skip
            state = gradio.HTML(_READY if there else _NONE, elem_id="search-state")

    def search(query: str, image: str | None, top_k: float, min_p: float) -> tuple[list[Any], str]:
        """Pictures of the index that are nearest to the words and the picture.

        Returns the pictures with probability, cosine and name, nearest first, and how many there
        are.
        """
        with told():
            asked = Path(image) if image else None
            index, hits = find(site, query or "", asked, int(top_k), float(min_p))
            cards: list[Any] = []
            gone: list[str] = []
            for hit in hits:
                try:
                    cards.append((thumbnail(site.shelf, picture_of(index, hit)), hit_line(hit)))
                except ImageError as error:
                    gone.append(f"{hit.path}: {error.reason}")
            return cards, _line(len(index), len(cards), gone)

    gradio.on(
        [go.click, query.submit], search, [query, image, top_k, min_p], [gallery, state],
        api_name="search", **COMPUTED,
    )  # fmt: skip


def _line(size: int, hits: int, gone: list[str]) -> str:
    text = (
        f"{hits} of {size} pictures; {_KEY}." if hits else f"Nothing so near among {size} pictures."
    )
    lost = f" Not there any more: {'; '.join(gone[:3])}." if gone else ""
    return f'<p class="hint">{html.escape(sentence(text + lost))}</p>'


_KEY = "under each the probability that it matches, its cosine and its name"
