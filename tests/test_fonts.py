"""Letters of every script in pictures with text: by a font that has them, or as numbers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipguide.report import fonts
from clipguide.report.confusion_picture import confusion_picture
from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
from clipguide.report.fonts import MissingGlyphs, lettering

DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
RUSSIAN, CHINESE, ARABIC = "красная звезда", "红色的星星", "نجمة حمراء"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    fonts._font.cache_clear()
    fonts._said.clear()
    yield
    fonts._font.cache_clear()


def sheet(title: str) -> bytes:
    tile = Tile(title, (Picture(Image.new("RGB", (300, 60)), ("clip 0.31",)),))
    return np.array(contact_sheet([tile])).tobytes()


@pytest.mark.parametrize("text", [RUSSIAN, CHINESE, ARABIC])
def test_letters_that_no_font_has_are_numbers_and_it_is_said_once(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "_files", lambda: ())
    numbers = text.encode("ascii", "backslashreplace").decode()
    with pytest.warns(MissingGlyphs, match="install a font"):
        assert lettering(text, 14)[1] == numbers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sheet(text) == sheet(numbers)
        assert lettering("a red star, -1.5 %", 14)[1] == "a red star, -1.5 %"


@pytest.mark.skipif(not DEJAVU.is_file(), reason="needs DejaVu Sans")
@pytest.mark.parametrize("text", [RUSSIAN, ARABIC])
def test_a_font_of_the_system_is_found(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_files", lambda: (DEJAVU,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        font, shown = lettering(text, 14)
        assert (font.getname()[0], shown) == ("DejaVu Sans", text)
        assert sheet(text) != sheet(text.encode("ascii", "backslashreplace").decode())
        confusion_picture([[1, 0], [0, 1]], [text, "a\nb"], text)
    assert lettering("a red star", 14)[0].getname()[0] != "DejaVu Sans"


@pytest.mark.parametrize(("library", "folder"), fonts.PACKAGES.items())
def test_a_font_of_a_library_is_found_before_the_system_s(
    library: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an import of the library, which is slow."""
    there = tmp_path / library / folder
    there.mkdir(parents=True)
    (tmp_path / library / "__init__.py").write_text("raise RuntimeError('imported')")
    (there / "Noto.ttf").write_bytes(b"a font")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(fonts, "PACKAGES", {library: folder})
    fonts._files.cache_clear()
    assert fonts._files()[0] == there / "Noto.ttf"
    fonts._files.cache_clear()
