"""What a page is given: models, an index, folders, and how much one request may ask for."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.generation.defaults import resolve_settings
from clipguide.generation.models import Models, load_models
from clipguide.generation.settings import Settings
from clipguide.retrieval import Index, open_index
from clipguide.texts import check_text, printable
from clipguide.web.shelf import Shelf

Loaded = tuple[Models, Settings]


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
        self._lock = threading.Lock()
        self._loading: Future[Loaded] | None = None
        self._others: dict[str, Scorer] = {}
        self.shelf = Shelf()

    def close(self) -> None:
        """Deletes the pictures that were made."""
        self.shelf.close()

    def load(self) -> Future[Loaded]:
        """The models, loaded by a thread of their own since the first call; anew after a failure.

        The future has them, and the settings with what the model's own card says where nothing was
        asked; or what went wrong.
        """
        with self._lock:
            loading = self._loading
            if loading is None or (loading.done() and loading.exception() is not None):
                loading = self._loading = Future()
                threading.Thread(target=self._load, args=(loading,), daemon=True).start()
            return loading

    @property
    def models(self) -> Models:
        """Waits for them where they are still being loaded."""
        return self.load().result()[0]

    @property
    def run_settings(self) -> Settings:
        """The settings with what the model's own card says; waits as `models`."""
        return self.load().result()[1]

    @property
    def ready(self) -> bool:
        """Whether the models are in memory."""
        loading = self._loading
        return loading is not None and loading.done() and loading.exception() is None

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
        with self.placeless():
            return open_index(self.sources.index)

    @contextmanager
    def placeless(self) -> Generator[None]:
        """What is wrong with the index, told without where it is: no business of a visitor's."""
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error).replace(str(self.sources.index), "the index")) from error

    def scorer_of(self, index: Index) -> Scorer:
        """The index's own: one of the page's where it is one of them, else loaded once."""
        name = index.manifest.scorer
        if name in self.scorers:
            return self.scorers[name]
        with self._lock:
            if name not in self._others:
                self._others[name] = load_scorer(name)
            return self._others[name]

    def _load(self, loading: Future[Loaded]) -> None:
        try:
            models = load_models(self.settings)
            models.pipe.set_progress_bar_config(disable=True)
            loading.set_result((models, resolve_settings(self.settings, models.pipe)[0]))
        except BaseException as error:  # handed to everybody who waits
            loading.set_exception(error)
