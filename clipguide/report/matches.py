"""A picture of matching: an image beside its best captions, a caption over its best images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from clipguide.images import ImageSource, load_image
from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
from clipguide.report.fonts import Font, lettering
from clipguide.zero_shot import Match

SIDE = 224  # longest side of an image beside its captions
MARGIN = 16
TEXT_WIDTH = 560
TEXT_SIZE, LINE = 15, 20
BAR = 4  # height of the bar that shows a probability
PAPER, INK, GREY, OWN, OTHER = "white", "black", "#555555", "#1f7750", "#8a8a8a"


def captions_picture(
    images: Sequence[ImageSource],
    texts: Sequence[str],
    matches: Sequence[Sequence[Match]],
    own: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """Each image with its matches beside it: probability bar, cosine, caption.

    Args:
        images: N pictures or paths.
        texts: what `matches` count in.
        matches: of each image, what `clipguide.zero_shot.match` returned.
        own: places of each image's own captions, drawn green with a tick; None: not known.

    Raises:
        ValueError: no images, or not as many of each; ImageError: one cannot be read.

    Example:
        >>> captions_picture(files, texts, match(scorer, files, texts)).save("matches.png")
    """
    if not images or len(images) != len(matches) or (own is not None and len(own) != len(images)):
        got = f"{len(images)} images and {len(matches)} lists of matches"
        raise ValueError(f"got {got}, expected as many, at least one")
    known = [frozenset[int]()] * len(images) if own is None else [frozenset(row) for row in own]
    bands = [
        _band(load_image(image), [(one, texts[one.index], one.index in mine) for one in found])
        for image, found, mine in zip(images, matches, known, strict=True)
    ]
    height = sum(band.height + MARGIN for band in bands) + MARGIN
    sheet = Image.new("RGB", (max(band.width for band in bands) + 2 * MARGIN, height), PAPER)
    y = MARGIN
    for band in bands:
        sheet.paste(band, (MARGIN, y))
        y += band.height + MARGIN
    return sheet


def images_picture(
    texts: Sequence[str], images: Sequence[ImageSource], matches: Sequence[Sequence[Match]]
) -> Image.Image:
    """Each caption over its best images, with cosine and probability under each; as above.

    Args:
        texts: N captions.
        images: what `matches` count in.
        matches: of each caption, what `match(..., by="text")` returned.
    """
    if not texts or len(texts) != len(matches):
        got = f"{len(texts)} texts and {len(matches)} lists of matches"
        raise ValueError(f"got {got}, expected as many, at least one")
    tiles = [
        Tile(text, tuple(_picture(images[one.index], one) for one in found))
        for text, found in zip(texts, matches, strict=True)
    ]
    return contact_sheet(tiles, columns=1)


def _picture(image: ImageSource, one: Match) -> Picture:
    small = load_image(image).copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(small, (f"cosine {one.cosine:.3f}, p {one.probability:.3f}",))


def _band(image: Image.Image, rows: Sequence[tuple[Match, str, bool]]) -> Image.Image:
    """One image and its captions."""
    joined = "\n".join(" ".join(text.split()) for _, text, _ in rows)
    font, letters = lettering(joined, TEXT_SIZE)
    picture = image.copy()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    wrapped = [_wrap(text, font) for text in letters.split("\n")]
    step = [LINE * (1 + len(lines)) + BAR + 8 for lines in wrapped]
    band = Image.new("RGB", (SIDE + MARGIN + TEXT_WIDTH, max(picture.height, sum(step))), PAPER)
    band.paste(picture, ((SIDE - picture.width) // 2, 0))
    draw, x, y = ImageDraw.Draw(band), SIDE + MARGIN, 0
    for (one, _, mine), lines, height in zip(rows, wrapped, step, strict=True):
        color = OWN if mine else OTHER
        length = max(1, round(TEXT_WIDTH * one.probability))
        draw.rectangle((x, y, x + length, y + BAR - 1), fill=color)
        numbers = f"cosine {one.cosine:.3f}   p {one.probability:.3f}"
        draw.text((x, y + BAR + 1), numbers + ("   its own" if mine else ""), font=font, fill=GREY)
        for number, line in enumerate(lines, 1):
            ink = OWN if mine else INK
            draw.text((x, y + BAR + 1 + LINE * number), line, font=font, fill=ink)
        y += height
    return band


def _wrap(text: str, font: Font) -> list[str]:
    """Lines at most TEXT_WIDTH wide; a word wider than that is cut."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > TEXT_WIDTH:
            word = word[:-1]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TEXT_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
