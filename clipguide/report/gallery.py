"""A page of pictures in one HTML file that needs no other: thumbnails inside, texts escaped."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from clipguide.images import ImageError, load_image
from clipguide.texts import printable

SIDE = 256  # longest side of a thumbnail, pixels

_STYLE = f"""
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; background: #fff; color: #111; }}
section {{ margin-bottom: 2em; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; width: {SIDE}px; overflow-wrap: anywhere; }}
img {{ max-width: {SIDE}px; max-height: {SIDE}px; display: block; }}
figcaption {{ color: #555; }}
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
# no script, nothing from elsewhere: the thumbnails are in the page, and so is its one style
POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<meta name="viewport" content="width=device-width">
<meta name="referrer" content="no-referrer">
<style>{style}</style></head><body>
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


def gallery(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The page as text. An image that cannot be read is shown as the reason why.

    Its links are relative to `folder`, where the page will be, so that they hold when it is moved
    together with the images; it has a content security policy that lets nothing run or load.

    Example:
        >>> card = Card(Path("dog.jpg"), ("clip 0.31",))
        >>> page = gallery("dogs", [Section("a dog", (card,))], Path())
    """
    body = "\n".join(_section(section, folder) for section in sections)
    policy = html.escape(POLICY)
    return _PAGE.format(title=_escape(title), policy=policy, style=_STYLE, sections=body)


def _section(section: Section, folder: Path) -> str:
    cards = "\n".join(_card(card, folder) for card in section.cards) or "<p>no match</p>"
    heading = f"<h2>{_escape(section.title)}</h2>"
    return f'<section>{heading}\n<div class="cards">\n{cards}\n</div></section>'


def _card(card: Card, folder: Path) -> str:
    lines = "<br>".join(_escape(line) for line in card.lines)
    if card.image is None:
        return f"<figure><figcaption>{lines}</figcaption></figure>"
    try:
        picture = f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(card.image)}">'
    except ImageError as error:
        picture = f"<p>{_escape(error.reason)}</p>"
    link = f'<a href="{_link(card.image, folder)}">{picture}</a>'
    return f"<figure>{link}<figcaption>{lines}</figcaption></figure>"


def _link(image: Path, folder: Path) -> str:
    """From a page in `folder`; absolute only where there is no way (another drive)."""
    try:
        place = Path(os.path.relpath(image.resolve(), folder.resolve()))
    except ValueError:
        return html.escape(image.resolve().as_uri())
    # ./ so that a name with a colon is no scheme
    return "./" + quote(os.fsencode(place.as_posix()))


def _escape(text: str) -> str:
    """For HTML: markup as text, characters that no page shows as escapes."""
    return html.escape(printable(text))


def _thumbnail(file: Path) -> str:
    image = load_image(file).copy()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
