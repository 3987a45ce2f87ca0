"""Images with their captions, from a captions file, from sidecar texts, or from tar archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from clipguide.data.captions import read_captions
from clipguide.data.matching import match_captions
from clipguide.images import FORMATS, SUFFIXES, ImageError, list_images, load_image
from clipguide.texts import decode, read_lines, split_lines

TEXT_SUFFIXES = (".txt", ".caption")
"""Of a sidecar text: `dog.jpg` is described by `dog.txt`, one caption a line."""
MAX_MEMBER = 2**26
"""Largest member of an archive that is read, in bytes."""


@dataclass(frozen=True)
class Picture:
    """An image file, or the bytes of one; `name` is what it is called in messages."""

    name: str
    data: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The bytes of the file. Raises ImageError where there is none."""
        if self.data is not None:
            return self.data
        try:
            return Path(self.name).read_bytes()
        except OSError as error:
            raise ImageError(self.name, (error.strerror or str(error)).lower()) from error

    def key(self) -> str:
        """SHA-256 of the bytes; of the name where they cannot be read."""
        try:
            return hashlib.sha256(self.read()).hexdigest()
        except ImageError:
            return hashlib.sha256(f"unreadable {self.name}".encode()).hexdigest()

    def load(self) -> Image.Image:
        """8-bit RGB, as `clipguide.images.load_image`. Raises ImageError."""
        if self.data is None:
            return load_image(self.name)
        try:
            image = Image.open(io.BytesIO(self.data), formats=list(FORMATS))
        except Exception as error:  # decoders raise anything
            raise ImageError(self.name, f"cannot be decoded ({type(error).__name__})") from error
        try:
            return load_image(image)
        except ImageError as error:
            raise ImageError(self.name, error.reason) from error


@dataclass(frozen=True)
class Pairs:
    """Images and captions: caption j belongs to image `owners[j]`; `notes` says what was left out.

    Raises:
        ValueError: no pair at all, or an owner that is not an image.
    """

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    owners: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.pictures or not self.captions:
            raise ValueError("got a split without any image and caption, expected at least one")
        if len(self.owners) != len(self.captions):
            raise ValueError(f"got {len(self.owners)} owners, expected {len(self.captions)}")
        if not 0 <= min(self.owners) <= max(self.owners) < len(self.pictures):
            raise ValueError(f"got owners outside the {len(self.pictures)} images")

    def of(self, places: Sequence[int]) -> Pairs:
        """The pairs of the images at `places`, in that order.

        Raises:
            ValueError: none of them has a caption.
        """
        if [*places] == [*range(len(self.pictures))]:
            return self
        new = {place: index for index, place in enumerate(places)}
        found = zip(self.captions, self.owners, strict=True)
        rows = [(text, new[owner]) for text, owner in found if owner in new]
        pictures = tuple(self.pictures[place] for place in places)
        return Pairs(pictures, tuple(t for t, _ in rows), tuple(o for _, o in rows), self.notes)

    def by_image(self) -> list[list[str]]:
        """The captions of each image, in their order."""
        captions: list[list[str]] = [[] for _ in self.pictures]
        for owner, text in zip(self.owners, self.captions, strict=True):
            captions[owner].append(text)
        return captions


def gather(texts: Mapping[Picture, Sequence[str]], notes: Sequence[str], source: str) -> Pairs:
    """The pairs of each picture's texts; pictures without any are left out and counted."""
    full = {picture: list(words) for picture, words in texts.items() if words}
    without = [picture.name for picture in texts if picture not in full]
    said = list(notes)
    if without:
        said.append(f"{source}: {len(without)} images have no caption, e.g. {without[0]}")
    if not full:
        raise ValueError(f"{source}: got no image with a caption, expected at least one")
    captions = [(owner, text) for owner, words in enumerate(full.values()) for text in words]
    owners, words = zip(*captions, strict=True)
    return Pairs(tuple(full), tuple(words), tuple(owners), tuple(said))


def from_captions(
    captions: Path,
    images: Path,
    names: Path | None = None,
    left_out: Callable[[Path], bool] | None = None,
) -> Pairs:
    """Pairs of a captions file (`read_captions`) and a folder of images.

    Args:
        captions: see `read_captions`.
        images: a folder; every image file below it can be named.
        names: a text file with one image per line, the split; in its order. All images otherwise.
        left_out: image files that are treated as if they were not there.

    Raises:
        ValueError: a file that cannot be used, or nothing left; it names the file.
    """
    files = [file for file in list_images([images]) if not (left_out and left_out(file))]
    matches = match_captions(read_captions(captions), files, [images], captions.parent)
    matched, notes = matches.texts, matches.notes(captions)
    if matches.repeated:
        notes.append(f"{captions}: {matches.repeated} rows stand there twice and count twice")
    if names is None:
        texts = {Picture(str(file)): matched.get(file, []) for file in files}
        return gather(texts, notes, str(captions))
    known = {file.relative_to(images).as_posix(): file for file in files}
    listed = _names(names)
    missing = [name for name in listed if name not in known]
    if missing:
        notes.append(f"{names}: {len(missing)} images are not there, e.g. {missing[0]}")
    chosen = [known[name] for name in listed if name in known]
    return gather({Picture(str(f)): matched.get(f, []) for f in chosen}, notes, str(names))


def _names(file: Path) -> list[str]:
    names = list(dict.fromkeys(read_lines(file)))
    if not names:
        raise ValueError(f"{file}: got an empty split, expected one image name a line")
    return names


def from_folder(folder: Path) -> Pairs:
    """Pairs of a folder of images, each described by the text file of its name, a caption a line.

    Raises:
        ValueError: no folder, or no image with a text.
    """
    if not folder.is_dir():
        raise ValueError(f"got {folder}, expected a folder of images and texts")
    texts: dict[Picture, list[str]] = {}
    for file in list_images([folder]):
        found = [file.with_suffix(suffix) for suffix in TEXT_SUFFIXES]
        words = [_names(text) for text in found if text.is_file()]
        texts[Picture(str(file))] = [caption for lines in words for caption in lines]
    return gather(texts, [], str(folder))


def from_tars(archives: Sequence[Path]) -> Pairs:
    """Pairs of webdataset archives: members `key.jpg` and `key.txt` of one key belong together.

    Members are read in memory and never unpacked; only image and text suffixes are read, others
    are left alone. Compressed archives are not read.

    Raises:
        ValueError: no archive, one that cannot be read, or no image with a text.
    """
    if not archives:
        raise ValueError("got no archives, expected one or more .tar files")
    texts: dict[Picture, list[str]] = {}
    notes: list[str] = []
    for archive in archives:
        pictures: dict[str, Picture] = {}
        words: dict[str, list[str]] = {}
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    _read_member(tar, member, archive, pictures, words, notes)
        except (OSError, tarfile.TarError) as error:
            raise ValueError(f"{archive}: cannot be read ({error})") from error
        texts |= {picture: words.get(key, []) for key, picture in pictures.items()}
    return gather(texts, notes, str(archives[0]))


def _read_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path,
    pictures: dict[str, Picture], words: dict[str, list[str]], notes: list[str],
) -> None:  # fmt: skip
    folder, _, base = member.name.rpartition("/")
    stem, dot, suffix = base.partition(".")  # webdataset: the key ends at the first dot
    suffix, key = f"{dot}{suffix}".lower(), f"{folder}/{stem}"
    if not member.isfile() or (suffix not in SUFFIXES and suffix not in TEXT_SUFFIXES):
        return
    if member.size > MAX_MEMBER:
        notes.append(f"{archive}: {member.name} has {member.size} bytes, left out")
        return
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if suffix in SUFFIXES:
        pictures[key] = Picture(f"{archive}:{member.name}", data)
    else:
        try:
            lines = split_lines(decode(data))
        except ValueError as error:
            notes.append(f"{archive}: {member.name} left out: {error}")
        else:
            words.setdefault(key, []).extend(line.strip() for line in lines if line.strip())
