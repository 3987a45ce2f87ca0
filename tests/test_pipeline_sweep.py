"""Some rows of docs/pipelines.md, made anew: the same columns by the same code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweep.registry import CASES
from sweep.run import COLUMNS, Sweep, refused

BY_NAME = {case.pipeline: case for case in CASES}
TABLE = Path(__file__).parent.parent / "docs" / "pipelines.md"
SAMPLE = [
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusion3PAGImg2ImgPipeline",
    "FluxControlImg2ImgPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "IFInpaintingPipeline",
    "WuerstchenDecoderPipeline",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_is_good_in_every_column(name: str) -> None:
    row = dict(zip(COLUMNS, Sweep(BY_NAME[name]).row(), strict=True))
    assert not [cell for cell in row.values() if "**" in cell or refused(cell)], row
    assert row["strength 0"] == row["left"] == "yes"
    assert {row[name] for name in ("best_of 1", "prune 1")} == {"0"}


def test_the_table_is_of_these_classes_and_has_no_fault() -> None:
    text = TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    left = re.findall(r"^- `(\w+)`: ", text, re.MULTILINE)
    assert {*SAMPLE[3:], *rows, *left} <= {*BY_NAME}
    assert len(rows) == len({*rows}) > 50
    assert not re.search(r"^\| .*\*\*", text, re.MULTILINE)
