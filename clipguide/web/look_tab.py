"""The tab Look: what a picture says of itself, whether it can be made again, where a phrase is."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from clipguide.images import load_image
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

LARGE = 512  # pixels
_EMPTY = '<p class="hint">Drop a picture: what it says of how it was made appears here.</p>'


def look_tab(gradio: Any, site: Site) -> None:
    """Builds the tab inside the open `gradio.Tab`."""
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
            image = gradio.Image(
                label="Picture", interactive=False, height=384, elem_id="look-image", buttons=[]
            )
            state = gradio.HTML(_EMPTY, elem_id="look-state")
            table = gradio.HTML("", elem_id="look-table")

    def look(file: str | None) -> tuple[Any, str, str]:
        """What a picture's metadata says."""
        if not file:
            return None, _EMPTY, ""
        with told():
            return _large(load_image(file)), "", metadata_table(metadata_of(Path(file)))

    def reproduce(file: str | None) -> Iterator[tuple[Any, str]]:
        """The picture run again by its own record, compared with the file."""
        with told():
            given = _given(file)
            yield gradio.update(), '<p class="hint">Making it again.</p>'
            stop = threading.Event()
            for news in followed(lambda tell: made_again(site, given), stop):
                if isinstance(news, Done):
                    line = html.escape(repetition_line(news.result))
                    yield _large(news.result.image), f"<p>{line}</p>"

    def similarity_map(file: str | None, phrase: str) -> tuple[Any, str]:
        """The picture shaded by how much each place is like the phrase."""
        with told():
            given = _given(file)
            words = site.limits.checked_text(phrase or "", "phrase")
            picture, line = shaded(site, given, words)
            return _large(picture), f'<p class="hint">{html.escape(line)}</p>'

    file.change(look, file, [image, state, table], api_name="look")
    made = again.click(reproduce, file, [image, state], api_name="reproduce")
    made.failure(lambda: "", None, state, api_visibility="private", queue=False)
    gradio.on(
        [where.click, phrase.submit], similarity_map, [file, phrase], [image, state],
        api_name="similarity_map",
    )  # fmt: skip


def _large(image: Image.Image) -> Image.Image:
    """Small pictures larger, for the eye."""
    times = max(1, LARGE // max(image.size))
    return image.resize((image.width * times, image.height * times)) if times > 1 else image


def _given(file: str | None) -> Path:
    if not file:
        raise ValueError("drop a picture first")
    return Path(file)
