"""A font that has a text's letters, for pictures with text.

Pillow brings one font of Latin letters. Other scripts are looked for in the fonts of matplotlib
(DejaVu Sans: Cyrillic, Greek, Arabic, Hebrew; extra `plot`), of mplfonts (Noto Sans CJK: Chinese,
Japanese, Korean; extra `cjk`) and of the system. A letter that none of them has is written as its
number, `\\u4e2d`, and that is said: no empty box without a word.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
"""Where systems keep their fonts."""
PACKAGES = {"matplotlib": "mpl-data/fonts/ttf", "mplfonts": "fonts"}
"""Libraries that bring fonts, and in which of their folders."""
_STYLES = ("bold", "italic", "oblique", "mono", "light", "thin", "black", "condensed", "serif-")
_NO_CHARACTER = "\U0010ffff"
_INVISIBLE = ("Mn", "Me", "Cf", "Cc", "Zs", "Zl", "Zp")


class MissingGlyphs(UserWarning):
    """No font on this machine has some letters of a picture's text."""


_said: set[str] = set()


def lettering(text: str, size: int) -> tuple[Font, str]:
    """The font for a text, and the text as it can be written.

    Args:
        text: any.
        size: in pixels.

    Returns:
        The first font with all its letters, or the one that lacks the fewest, and the text with the
        letters that it lacks as `\\uXXXX`.

    Warns:
        MissingGlyphs: a letter is missing; once for each.

    Cost: none for Latin letters; else the fonts here are opened once.

    Example:
        >>> lettering("a red star", 14)[1]
        'a red star'
    """
    letters = frozenset(one for one in text if unicodedata.category(one) not in _INVISIBLE)
    font, lacking = _font(letters, size)
    if not lacking:
        return font, text
    new = "".join(sorted(lacking - _said))
    if new:
        _said.update(new)
        shown = new if len(new) <= 20 else f"{new[:20]}..."
        warnings.warn(
            f"no font here has {shown!r}: written as numbers; install a font with them, or "
            "pip install 'clipguide[cjk]' for Chinese, Japanese and Korean, 'clipguide[plot]' for "
            "Cyrillic, Greek and Arabic",
            MissingGlyphs,
            stacklevel=2,
        )
    return font, "".join(_number(one) if one in lacking else one for one in text)


def _number(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


@lru_cache(maxsize=1024)
def _font(letters: frozenset[str], size: int) -> tuple[Font, frozenset[str]]:
    """The font that lacks the fewest of the letters, and those that it lacks."""
    best: tuple[Font, frozenset[str]] | None = None
    for font in _fonts(size):
        lacking = frozenset(letter for letter in letters if not _has(font, letter))
        if best is None or len(lacking) < len(best[1]):
            best = font, lacking
        if not lacking:
            break
    assert best is not None
    return best


def _fonts(size: int) -> Iterator[Font]:
    yield ImageFont.load_default(size)
    for file in _files():
        try:
            yield ImageFont.truetype(file, size)
        except OSError:  # not a font after all
            continue


@lru_cache(maxsize=1)
def _files() -> tuple[Path, ...]:
    """Fonts on this machine, the libraries' first, of the usual styles."""
    specs = {name: find_spec(name) for name in PACKAGES}  # none is imported
    places = [
        Path(spec.origin).parent / PACKAGES[name]
        for name, spec in specs.items()
        if spec is not None and spec.origin
    ]
    places += [Path(folder).expanduser() for folder in FOLDERS]
    found = [
        Path(folder, name)
        for place in places
        for folder, _, names in sorted(os.walk(place))
        for name in sorted(names)
        if name.lower().endswith((".ttf", ".otf", ".ttc"))
        and not any(style in name.lower() for style in _STYLES)
    ]
    return tuple(sorted(found, key=lambda file: not file.name.startswith(("DejaVuSans", "Noto"))))


def _has(font: Font, letter: str) -> bool:
    """Whether a font draws a letter otherwise than one that no font has."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return ord(letter) < 256
    return _drawn(font, letter) != _drawn(font, _NO_CHARACTER)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    side = int(font.size * 2)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((0, 0), letter, font=font, fill=255)
    return image.tobytes()
