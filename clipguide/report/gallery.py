"""A page of pictures in one HTML file that needs no other: thumbnails inside, texts escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clipguide.images import ImageError, load_image

SIDE = 256  # longest side of a thumbnail, pixels

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; background: #fff; color: #111; }}
section {{ margin-bottom: 2em; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; width: {side}px; overflow-wrap: anywhere; }}
img {{ max-width: {side}px; max-height: {side}px; display: block; }}
figcaption {{ color: #555; }}
</style></head><body>
<h1>{title}</h1>
{sections}
</body></html>
"""


@dataclass(frozen=True)
class Card:
    """One entry: an image (or none, for a text), and the lines under it."""

    image: Path | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Entries under a heading; without entries the page says "no match"."""

    title: str
    cards: tuple[Card, ...]


def gallery(title: str, sections: Sequence[Section]) -> str:
    """The page as text. An image that cannot be read is shown as the reason why.

    Example:
        >>> card = Card(Path("dog.jpg"), ("clip 0.31",))
        >>> page = gallery("dogs", [Section("a dog", (card,))])
    """
    body = "\n".join(_section(section) for section in sections)
    return _PAGE.format(title=html.escape(title), side=SIDE, sections=body)


def _section(section: Section) -> str:
    cards = "\n".join(_card(card) for card in section.cards) or "<p>no match</p>"
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f'<section>{heading}\n<div class="cards">\n{cards}\n</div></section>'


def _card(card: Card) -> str:
    lines = "<br>".join(html.escape(line) for line in card.lines)
    if card.image is None:
        return f"<figure><figcaption>{lines}</figcaption></figure>"
    try:
        picture = f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(card.image)}">'
    except ImageError as error:
        picture = f"<p>{html.escape(error.reason)}</p>"
    place = html.escape(card.image.resolve().as_uri())
    link = f'<a href="{place}">{picture}</a>'
    return f"<figure>{link}<figcaption>{lines}</figcaption></figure>"


def _thumbnail(file: Path) -> str:
    image = load_image(file).copy()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
