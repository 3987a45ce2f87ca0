"""What `clipguide filter` is given: images, their captions, examples; and the index of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipguide.cli.captions import CaptionsFile
from clipguide.cli.filter_rules import Captioned
from clipguide.cli.folder import note_composites
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer
    from clipguide.retrieval.engines import Engine
    from clipguide.retrieval.index import Index
    from clipguide.retrieval.items import Items


@dataclass(frozen=True)
class Given:
    """Images below a folder, and captions of some of them.

    Attributes:
        root: the folder.
        texts: name below the root -> its captions; empty where none were given or asked for.
        only: whether nothing but the images with captions is filtered.
    """

    root: Path
    texts: Mapping[str, Sequence[str]]
    only: bool


def given_of(source: Path, images: Path | None, captions: bool) -> Given:
    """A folder, or a captions file and the folder of its images.

    Args:
        source: what was given.
        images: the folder of a captions file's images; by default the file's own.
        captions: whether captions are asked for: of a folder they are the texts beside images.

    Raises: Mistake for what is not there, and for captions that are asked for and none are there.
    """
    for place in (source, *([images] if images else [])):
        if not place.exists():
            raise Mistake(f"{place}: no such file or folder")
    if images is not None and not images.is_dir():
        raise Mistake(f"got --images {images}, expected a folder")
    if source.is_dir():
        if images is not None:
            raise Mistake("got a folder and --images, expected a captions file with --images")
        return Given(source, _beside(source) if captions else {}, only=False)
    from clipguide.images import list_images

    root = images or source.parent
    found = CaptionsFile(source).match(list_images([root]), [root])
    texts = {f.relative_to(root).as_posix(): [*dict.fromkeys(t)] for f, t in found.texts.items()}
    return Given(root, texts, only=True)


def _beside(folder: Path) -> dict[str, list[str]]:
    """The texts beside the images of a folder, a caption a line."""
    from clipguide.data.caption_files import texts_beside
    from clipguide.images import list_images
    from clipguide.texts import read_lines

    texts: dict[str, list[str]] = {}
    for file in list_images([folder]):
        lines = [line for text in texts_beside(file) for line in read_lines(text)]
        if lines:
            texts[file.relative_to(folder).as_posix()] = [*dict.fromkeys(lines)]
    if not texts:
        raise Mistake(f"{folder}: no image has a text beside it: give a captions file, or write "
                      "them by `clipguide caption DIR --sidecar`")  # fmt: skip
    return texts


@dataclass(frozen=True)
class Indexing:
    """How vectors are made and where they are kept: a stopped run goes on from there.

    Attributes:
        to: the index of the images; that of captions is beside it.
        scorer: the model.
        engine: see `clipguide.retrieval.engines`.
        batch_size: images at once.
    """

    to: Path
    scorer: Scorer
    engine: Engine
    batch_size: int

    def images(self, root: Path) -> tuple[Index, dict[str, str]]:
        """The index of a folder, up to date, and why some of its files are not in it."""
        from clipguide.cli.index import progress_bar
        from clipguide.report.generated import describe
        from clipguide.report.metadata import MADE_OF_OTHERS, why_left_out
        from clipguide.retrieval import ImageFolder, open_index, update_index

        report = update_index(
            self.to, ImageFolder(root, describe, why_left_out), self.scorer,
            engine=self.engine, batch_size=self.batch_size, progress=progress_bar(),
        )  # fmt: skip
        bad = {path: why for path, why in report.bad.items() if why != MADE_OF_OTHERS}
        for path, reason in bad.items():
            note(f"clipguide: skipped {root / path}: {reason}")
        note_composites(len(report.bad) - len(bad))
        if not report.items:
            raise Mistake(f"{root}: none of its image files can be read")
        return open_index(self.to), bad

    def captions(self, given: Given, items: Items) -> Captioned:
        """The vectors of the captions of items."""
        import torch

        from clipguide.cli.index import progress_bar
        from clipguide.retrieval import open_index, update_index
        from clipguide.retrieval.items import items_of
        from clipguide.retrieval.sources import NamedTexts

        place = {path: at for at, path in enumerate(items.paths)}
        texts = {
            f"{path}#{number}": text
            for path, own in given.texts.items() if path in place
            for number, text in enumerate(own)
        }  # fmt: skip
        without = [path for path in items.paths if path not in given.texts]
        if not texts:
            raise Mistake(f"{given.root}: none of its images has a caption")
        if without:
            what = "have no caption and are dropped by that rule"
            note(f"clipguide: {len(without)} images {what}, e.g. {without[0]}")
        to = self.to.with_name(f"{self.to.name}-captions")
        update_index(
            to, NamedTexts(given.root, texts), self.scorer,
            engine=self.engine, batch_size=self.batch_size, progress=progress_bar(),
        )  # fmt: skip
        found = items_of(open_index(to))
        owners = [place[path.rpartition("#")[0]] for path in found.paths]
        return Captioned([texts[p] for p in found.paths], found.vectors, torch.tensor(owners))


def answers_of(labels: Path, root: Path, items: Items) -> dict[int, bool]:
    """Whether items are to be kept, by their places, as a file of examples says."""
    from clipguide.data.keep_lists import read_examples

    files = {root / path: at for at, path in enumerate(items.paths)}
    answers, notes = read_examples(labels, [*files], [root])
    for line in notes:
        note(f"clipguide: {line}")
    return {files[file]: keep for file, keep in answers.items()}
