"""Images from files and folders of anything: the bad ones are named and counted, never fatal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note

if TYPE_CHECKING:
    from PIL import Image

    from clipguide.workers import Job, Workers

BATCH = 32  # images held at once
BATCH_PIXELS = 2**26

ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMAGES_OR_DIR...", help="Files, folders, or both.")
]


FolderJob: TypeAlias = "Job[list[str], dict[str, Any]]"
"""A job whose items are names of image files; a result holds at least the `bad` ones."""


class Folder:
    """The images that paths stand for, read in batches; `bad` fills up while they are read."""

    def __init__(self, sources: Sequence[Path]) -> None:
        from clipguide.images import list_images

        missing = [str(source) for source in sources if not source.exists()]
        if missing:
            raise Mistake(f"{missing[0]}: no such file or folder")
        self.files, self.composites = _without_composites(list_images(sources), sources)
        self.bad: list[dict[str, str]] = []
        if not self.files:
            raise Mistake(f"{', '.join(map(str, sources))}: no image files there")

    def batches(self) -> Iterator[list[tuple[Path, Image.Image]]]:
        """Good images in order, a bounded number of pixels at a time, with a bar on stderr.

        At the end the bad ones are reported; Mistake if there were no good ones.
        """
        batch: list[tuple[Path, Image.Image]] = []
        good = pixels = 0
        for path, image in self._good():
            batch.append((path, image))
            good, pixels = good + 1, pixels + image.width * image.height
            if len(batch) == BATCH or pixels > BATCH_PIXELS:
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch
        self._report(good)

    def shared(
        self, job: FolderJob, workers: Workers, files: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """What workers find in the images, a part of them at a time, in order; with a bar.

        A part is the same whoever does it, so results are to the bit. At the end the bad ones are
        reported; Mistake if there were no good ones.

        Args:
            job: what is done with the names of a part.
            workers: who does it.
            files: the names, where it is not all; those known to be bad are not among them.
        """
        from tqdm import tqdm

        names = [str(file) for file in self.files] if files is None else files
        before = len(self.bad)
        parts = batches(names, BATCH)
        with tqdm(total=len(names), unit="image", leave=False, delay=1.0) as bar:
            for some, found in zip(parts, workers.do(job, parts), strict=True):
                self.bad += found["bad"]
                yield found
                bar.update(len(some))
        if before == 0 or len(self.bad) > before:
            self._report(len(self.files) - len(self.bad))

    def counts(self) -> dict[str, int]:
        """For the JSON output."""
        return {
            "images": len(self.files),
            "good": len(self.files) - len(self.bad),
            "bad": len(self.bad),
        }

    def _good(self) -> Iterator[tuple[Path, Image.Image]]:
        from tqdm import tqdm

        from clipguide.images import ImageError, load_image

        for path in tqdm(self.files, unit="image", leave=False, delay=1.0):
            try:
                image = load_image(path)
            except ImageError as error:
                self.bad.append({"image": str(path), "reason": error.reason})
            else:
                yield path, image

    def _report(self, good: int) -> None:
        for entry in self.bad:
            note(f"clipguide: skipped {entry['image']}: {entry['reason']}")
        if good == 0:
            raise Mistake(f"none of the {len(self.files)} image files can be read")
        if self.bad:
            note(f"clipguide: {len(self.bad)} of {len(self.files)} image files were bad")


def read_part(
    names: Sequence[str], bad: list[dict[str, str]]
) -> Iterator[list[tuple[str, Image.Image]]]:
    """The images of a part of a folder that can be read, a bounded number of pixels at a time; why
    the others cannot goes to `bad`."""
    from clipguide.images import ImageError, load_image

    good: list[tuple[str, Image.Image]] = []
    pixels = 0
    for name in names:
        try:
            image = load_image(Path(name))
        except ImageError as error:
            bad.append({"image": name, "reason": error.reason})
            continue
        good.append((name, image))
        pixels += image.width * image.height
        if pixels > BATCH_PIXELS:
            yield good
            good, pixels = [], 0
    if good:
        yield good


def _without_composites(files: list[Path], sources: Sequence[Path]) -> tuple[list[Path], int]:
    """The files that are not pictures made of others, and how many were; one given by its own name
    stays."""
    from clipguide.report.metadata import is_composite

    given = set(sources)
    kept = [file for file in files if file in given or not is_composite(file)]
    left = len(files) - len(kept)
    note_composites(left)
    return kept, left


def note_composites(count: int) -> None:
    """Says how many pictures were left out because they are made of others, if there are any."""
    if count:
        told = "pictures that are made of others (contact sheets, pairs)"
        note(f"clipguide: left out {count} {told}")


def with_bad(data: dict[str, Any], folder: Folder) -> dict[str, Any]:
    """`data` with what was skipped and how many there were."""
    left = {"composites": folder.composites} if folder.composites else {}
    return data | {"bad": folder.bad, "counts": folder.counts() | left}
