"""Contact sheets: every picture is on the sheet, at its place, and text never covers one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipguide.report.contact_sheet import MARGIN, MAX_SIDE, MIN_SIDE, Picture, Tile, contact_sheet
from clipguide.report.table import format_table

COLORS = ["#ff0000", "#00ff00", "#0000ff", "#ff00ff", "#00ffff"]


def colour_area(sheet: Image.Image, color: str) -> int:
    wanted = np.array(Image.new("RGB", (1, 1), color))[0, 0]
    return int((np.array(sheet) == wanted).all(axis=-1).sum())


def tile(*colors: str, side: int = MIN_SIDE, title: str = "a prompt") -> Tile:
    images = [Image.new("RGB", (side, side), color) for color in colors]
    return Tile(title, tuple(Picture(image, ("clip 0.314", "oracle yes")) for image in images))


@pytest.mark.parametrize("columns", [None, 1, 2, 7])
def test_every_picture_is_there_whole(columns: int | None) -> None:
    sheet = contact_sheet([tile(color) for color in COLORS], columns)
    assert [colour_area(sheet, color) for color in COLORS] == [MIN_SIDE**2] * len(COLORS)


def test_pairs_stand_side_by_side_and_in_order() -> None:
    pixels = np.array(contact_sheet([tile("#ff0000", "#0000ff")]))
    red = np.argwhere((pixels == [255, 0, 0]).all(-1))
    blue = np.argwhere((pixels == [0, 0, 255]).all(-1))
    assert red[:, 1].max() < blue[:, 1].min()
    assert (red[:, 0].min(), red[:, 0].max()) == (blue[:, 0].min(), blue[:, 0].max())


@pytest.mark.parametrize(("side", "shown"), [(64, MIN_SIDE), (300, 300), (1000, MAX_SIDE)])
def test_pictures_are_brought_to_a_legible_size(side: int, shown: int) -> None:
    sheet = contact_sheet([tile("#ff0000", side=side)])
    assert colour_area(sheet, "#ff0000") == shown**2


def test_text_is_drawn_under_the_picture_and_long_text_stays_inside() -> None:
    short = np.array(contact_sheet([tile("#ff0000", title="a")]))
    long = np.array(contact_sheet([tile("#ff0000", title="word " * 500 + "x" * 500)]))
    assert long.shape[1] == short.shape[1]
    below = MARGIN + MIN_SIDE
    assert (short[below:] < 128).any()
    assert (long[below:] < 128).sum() > 3 * (short[below:] < 128).sum()
    assert (long[:, -6:] == 255).all()  # the margin is left free


def test_no_tiles_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        contact_sheet([])


def test_table_columns_line_up() -> None:
    table = format_table(["prompt", "clip", "right"], [["a", 0.5, True], ["long", None, False]])
    assert table.splitlines() == [
        "prompt   clip  right",
        "------  -----  -----",
        "a       0.500  yes",
        "long        -  no",
    ]


def test_table_with_a_short_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="got a row of 1 cells, expected 2"):
        format_table(["a", "b"], [["x"]])
