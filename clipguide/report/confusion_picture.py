"""The confusion matrix of a classifier as a picture: rows are true labels, columns the answers."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from clipguide.report.fonts import Font, lettering

TEXT_SIZE = 14
MARGIN = 16
PAPER, INK, GREY = "white", "black", "#555555"
RIGHT, WRONG = (31, 119, 80), (190, 60, 40)  # full colour of the diagonal and of the rest


def confusion_picture(
    matrix: Sequence[Sequence[int]], labels: Sequence[str], title: str = ""
) -> Image.Image:
    """Each cell has its count and is the darker, the larger its share of the row.

    Args:
        matrix: (L, L) counts, row true label, column predicted.
        labels: L names.
        title: a line above it all.

    Raises:
        ValueError: no labels, or a matrix that is not (L, L).

    Example: `confusion_picture([[4, 1], [0, 5]], ["cat", "dog"], "90 % of 10").save("c.png")`.
    """
    if not labels or len(matrix) != len(labels) or {len(row) for row in matrix} != {len(labels)}:
        got = f"{len(labels)} labels and {len(matrix)} rows"
        raise ValueError(f"got {got}, expected a square matrix with one label a row")
    lines = (line.replace("\n", " ") for line in (title, *labels))
    font, text = lettering("\n".join(lines), TEXT_SIZE)
    title, *labels = text.split("\n")
    longest = max(int(font.getlength(label)) for label in labels)
    widest = max(int(font.getlength(str(count))) for row in matrix for count in row)
    cell = max(32, widest + 10)
    left, top = MARGIN + 22 + longest + 8, MARGIN + (24 if title else 0) + 22 + longest + 8
    side = cell * len(labels)
    width = max(left + side + MARGIN, int(font.getlength(title)) + 2 * MARGIN)
    sheet = Image.new("RGB", (width, top + side + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, font=font, fill=INK)
    draw.text((left, top - longest - 30), "taken for", font=font, fill=GREY)
    sheet.paste(_upright("true label", font, GREY), (MARGIN, top))
    for number, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        y = top + number * cell
        start = left - 8 - int(font.getlength(label))
        draw.text((start, y + cell // 2), label, font=font, fill=INK, anchor="lm")
        name = _upright(label, font, INK)
        sheet.paste(name, (left + number * cell + (cell - name.width) // 2, top - 8 - name.height))
        _draw_row(draw, row, number, (left, y), cell, font)
    return sheet


def _draw_row(
    draw: ImageDraw.ImageDraw, row: Sequence[int], number: int, start: tuple[int, int],
    cell: int, font: Font,
) -> None:  # fmt: skip
    whole = max(1, sum(row))
    for column, count in enumerate(row):
        share = count / whole
        full = RIGHT if column == number else WRONG
        fill = tuple(round(255 + (part - 255) * share**0.6) for part in full)
        x, y = start[0] + column * cell, start[1]
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=fill)
        if count:
            ink = "white" if share > 0.35 else INK
            middle = (x + cell // 2 - 1, y + cell // 2 - 1)
            draw.text(middle, str(count), font=font, fill=ink, anchor="mm")


def _upright(text: str, font: Font, ink: str) -> Image.Image:
    """The text read from bottom to top."""
    flat = Image.new("RGB", (int(font.getlength(text)) + 1, TEXT_SIZE + 5), PAPER)
    ImageDraw.Draw(flat).text((0, 0), text, font=font, fill=ink)
    return flat.transpose(Image.Transpose.ROTATE_90)
