"""The tab Look: what a picture says of itself, whether it can be made again, where a phrase is."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from clipguide.images import load_image
from clipguide.web.events import COMPUTED, READ
from clipguide.web.live import Done, followed
from clipguide.web.looking import (
    made_again,
    metadata_of,
    metadata_table,
    repetition_line,
    shaded,
)
from clipguide.web.messages import told
from clipguide.web.site import Site

MOST_PIXELS = (2048, 2048)
"""Of a picture that is looked at."""
_EMPTY = '<p class="hint">Drop a picture: what it says of how it was made appears here.</p>'


def look_tab(gradio: Any, site: Site) -> None:
    """Builds the tab inside the open `gradio.Tab`."""
    file, again, phrase, where, picture, state, table = _layout(gradio, site)

    def seen(image: Image.Image) -> str:
        shown = image.copy()
        shown.thumbnail(MOST_PIXELS)
        return site.shelf.put(shown)

    def read_metadata(path: str | None) -> tuple[Any, str, str]:
        """What a picture's metadata says.

        Returns the picture, an empty line and a table.
        """
        if not path:
            return None, _EMPTY, ""
        with told():
            return seen(load_image(path)), "", metadata_table(metadata_of(Path(path)))

    def reproduce(path: str | None) -> Iterator[tuple[Any, str]]:
        """The picture run again by its own record, compared with the file.

        The last that it yields is the picture made again and how far it is from the file.
        """
        with told():
            given = _given(path)
            yield gradio.update(), '<p class="hint">Making it again.</p>'
            stop = threading.Event()
            for news in followed(lambda tell: made_again(site, given), stop):
                if isinstance(news, Done):
                    line = html.escape(repetition_line(news.result))
                    yield site.shelf.put(news.result.image), f"<p>{line}</p>"

    def similarity_map(image: str | None, phrase: str) -> tuple[Any, str]:
        """The picture shaded by how much each place is like the phrase.

        Returns it and the range of its cosines.
        """
        with told():
            given = _given(image)
            words = site.limits.checked_text(phrase or "", "phrase")
            shade, line = shaded(site, given, words)
            return seen(shade), f'<p class="hint">{html.escape(line)}</p>'

    shown, private = [picture, state, table], {"api_visibility": "private", "queue": False}
    read = file.change(read_metadata, file, shown, api_name="read_metadata", **READ)
    read.failure(lambda: (None, _EMPTY, ""), None, shown, **private)
    made = again.click(reproduce, file, [picture, state], api_name="reproduce", **COMPUTED)
    made.failure(lambda: "", None, state, **private)
    gradio.on(
        [where.click, phrase.submit], similarity_map, [file, phrase], [picture, state],
        api_name="similarity_map", **COMPUTED,
    )  # fmt: skip


def _layout(gradio: Any, site: Site) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """The tab's file, its button, its phrase, its button, its picture, its state and its table."""
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=4, min_width=280):
            file = gradio.File(
                label="A picture", file_count="single", file_types=["image"], height=140,
                elem_id="look-file",
            )  # fmt: skip
            again = gradio.Button("Make it again", elem_id="look-again")
            phrase = gradio.Textbox(
                label="Where is", max_length=site.limits.letters, elem_id="look-phrase",
                info="a phrase: the picture is shaded by how much each place is like it",
            )  # fmt: skip
            where = gradio.Button("Show the map", elem_id="look-where")
        with gradio.Column(scale=6, min_width=280):
            picture = gradio.Image(
                label="Picture", interactive=False, height=384, elem_id="look-image", buttons=[]
            )
            state = gradio.HTML(_EMPTY, elem_id="look-state")
            table = gradio.HTML("", elem_id="look-table")
    return file, again, phrase, where, picture, state, table


def _given(file: str | None) -> Path:
    if not file:
        raise ValueError("drop a picture first")
    return Path(file)
