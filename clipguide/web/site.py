"""What a page is given: models, an index, folders, and how much one request may ask for."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from clipguide.clip.scorer import Scorer
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.models import Models, load_models
from clipguide.generation.settings import Settings
from clipguide.retrieval import Index, open_index
from clipguide.texts import check_text, printable

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for.

    Attributes:
        pictures: that are ranked or shown at once.
        upload: bytes of one file.
        letters: of a prompt or query.
        budget: of a search, in pictures' worth of denoiser calls.
        waiting: requests in the queue; more are told to come back.
    """

    pictures: int = 200
    upload: int = 20 * 2**20
    letters: int = 1000
    budget: int = 8
    waiting: int = 32

    def checked_text(self, text: str, name: str) -> str:
        """The text without spaces around it. ValueError: empty, too long, or not a text."""
        text = text.strip()
        if not text:
            raise ValueError(f"got an empty {name}: write some words")
        if len(text) > self.letters:
            raise ValueError(
                f"got a {name} of {len(text)} letters, expected {self.letters} at most"
            )
        check_text(text, name)
        return text


@dataclass(frozen=True)
class Sources:
    """What of this machine the page may read: an index made by `clipguide index`, and folders."""

    index: Path | None = None
    folders: tuple[Path, ...] = ()

    def folder(self, name: str) -> Path:
        """The folder of this name. ValueError: none of those that were given."""
        for folder in self.folders:
            if folder.name == name:
                return folder
        raise ValueError(f"got folder {name!r}, expected one of {', '.join(self.names) or 'none'}")

    @property
    def names(self) -> list[str]:
        """The folders by the names that the page shows."""
        return [folder.name for folder in self.folders]


@dataclass
class Site:
    """A page's models, loaded once, by whoever needs them first.

    Args:
        settings: of the pictures it makes.
        sources: what it may read.
        limits: of a request.
    """

    settings: Settings
    sources: Sources = field(default_factory=Sources)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._made = tempfile.TemporaryDirectory(prefix="clipguide-web-")

    @property
    def out(self) -> Path:
        """Where the pictures are that can be downloaded, until the page ends."""
        return Path(self._made.name)

    def close(self) -> None:
        """Deletes the pictures that were made."""
        self._made.cleanup()

    @property
    def models(self) -> Models:
        """Loaded at the first call, by one thread, while others wait."""
        return self._once(lambda: self._loaded[0])

    @property
    def run_settings(self) -> Settings:
        """The settings with what the model's own card says where nothing was asked."""
        return self._once(lambda: self._loaded[1])

    @property
    def ready(self) -> bool:
        """Whether the models are in memory."""
        return "_loaded" in vars(self)

    @property
    def scorers(self) -> dict[str, Scorer]:
        """Those that read pictures, by name: the guiding one (its teacher), then the judge."""
        models = self.models
        found = [models.picture_scorer, *([] if models.judge is None else [models.judge])]
        return {scorer.name: scorer for scorer in found}

    def chosen(self, names: Sequence[str]) -> list[Scorer]:
        """Scorers by name. ValueError: none, or one that the page does not have."""
        known = self.scorers
        for name in names:
            if name not in known:
                raise ValueError(f"got scorer {printable(name)!r}, expected {', '.join(known)}")
        if not names:
            raise ValueError(f"choose a scorer: {', '.join(known)}")
        return [known[name] for name in names]

    def index(self) -> Index:
        """The index as it is now. ValueError: none was given, or it is damaged."""
        if self.sources.index is None:
            raise ValueError(
                "this page has no index: make one with `clipguide index DIR`, then start the page "
                "with --index DIR"
            )
        try:
            return open_index(self.sources.index)
        except ValueError as error:  # where it is on this machine is not a visitor's business
            raise ValueError(str(error).replace(str(self.sources.index), "the index")) from error

    def _once(self, value: Callable[[], T]) -> T:
        with self._lock:
            return value()

    @cached_property
    def _loaded(self) -> tuple[Models, Settings]:
        models = load_models(self.settings)
        models.pipe.set_progress_bar_config(disable=True)
        return models, resolve_settings(self.settings, models.pipe)[0]
