"""The pictures that a page shows, as files that are whole before anybody is told of them."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from pathlib import Path

from PIL import Image

KEPT = 3600.0
"""Seconds: as long as Gradio keeps its own copies."""


class Shelf:
    """A folder that is deleted with the page.

    Gradio, given an image, writes it under a name made of its content, over the file of another
    visitor who is shown the same picture and may be reading it: his download ends in the middle.
    Given a file, it copies it under a temporary name and renames that.
    """

    def __init__(self) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="clipguide-web-")

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return Path(self._made.name)

    def new_file(self, suffix: str) -> Path:
        """A name that nobody can guess: pictures are served by name. What is old is deleted."""
        self._clear(time.time() - KEPT)
        return self.folder / (secrets.token_hex(16) + suffix)

    def put(self, image: Image.Image, suffix: str = ".png") -> str:
        """The file of an image; `.webp` is smaller, and good enough for a look."""
        file = self.new_file(suffix)
        image.save(file)
        return str(file)

    def close(self) -> None:
        """Deletes all."""
        self._made.cleanup()

    def _clear(self, before: float) -> None:
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # by another thread
                if file.stat().st_mtime < before:
                    file.unlink()
