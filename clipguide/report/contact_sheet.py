"""A contact sheet: many pictures on one, each with its prompt and its numbers underneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from clipguide.report.fonts import Font, lettering

MARGIN = 20  # around tiles
GAP = 4  # between the pictures of a tile
TEXT_SIZE = 14
LINE_HEIGHT = 19
MIN_SIDE = 192  # smaller pictures are enlarged to this, so that the text below fits
MAX_SIDE = 384  # larger ones are reduced
PAPER, INK, GREY = "white", "black", "#555555"


@dataclass(frozen=True)
class Picture:
    """One picture of a tile and the short lines printed under it (a name, its scores)."""

    image: Image.Image
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """Pictures that belong together, side by side under one title (usually the prompt)."""

    title: str
    pictures: tuple[Picture, ...]


def contact_sheet(tiles: Sequence[Tile], columns: int | None = None) -> Image.Image:
    """All tiles in a grid, `columns` wide (default: about as wide as high). ValueError when empty.

    Example: `contact_sheet([Tile("a cat", (Picture(cat, ("clip 0.31",)),))]).save("sheet.png")`.
    """
    if not tiles:
        raise ValueError("got no tiles, expected at least one")
    cells = [_draw_tile(tile) for tile in tiles]
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    if columns is None:
        columns = max(1, round(math.sqrt(len(cells) * height / width) * 1.2))
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    size = (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)))
    return sheet


def _draw_tile(tile: Tile) -> Image.Image:
    images = [_fit(picture.image) for picture in tile.pictures]
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    font, text = lettering(tile.title, TEXT_SIZE)
    title = _wrap(text, font, width, most=3)
    notes = max(len(picture.lines) for picture in tile.pictures)
    picture_height = max(image.height for image in images)
    height = picture_height + 4 + LINE_HEIGHT * (notes + len(title))
    cell = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(cell)
    x = 0
    for image, picture in zip(images, tile.pictures, strict=True):
        cell.paste(image, (x, 0))
        top = picture_height + 4 + LINE_HEIGHT * len(title)
        note_font, note = lettering("\n".join(picture.lines), TEXT_SIZE)
        lines = [_shorten(line, note_font, image.width) for line in note.split("\n")]
        _draw_lines(draw, x, top, lines, note_font, GREY)
        x += image.width + GAP
    _draw_lines(draw, 0, picture_height + 4, title, font, INK)
    return cell


def _draw_lines(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], font: Font, ink: str
) -> None:
    for i, line in enumerate(lines):
        draw.text((x, y + i * LINE_HEIGHT), line, font=font, fill=ink)


def _fit(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    scale = min(max(longest, MIN_SIDE), MAX_SIDE) / longest
    if scale == 1:
        return image.convert("RGB")
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, font: Font, width: int, most: int) -> list[str]:
    """Words of `text` on lines at most `width` pixels wide; the last line is cut with dots."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == most - 1:
            return [*lines, _shorten(" ".join(words[:width]), font, width)]
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(_shorten(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines


def _shorten(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    text = text[:width]  # a letter is at least a pixel wide
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
