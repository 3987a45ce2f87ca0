"""What is indexed: a folder of images, or the captions of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.data.captions import read_captions
from clipguide.files import sha256_file
from clipguide.images import ImageError, list_images, load_image
from clipguide.retrieval.manifest import Kind
from clipguide.retrieval.records import Stamp

Describe = Callable[[Path], Mapping[str, object]]
"""Path of an image -> what it says of itself: prompt, negative, seed, score (those it has)."""


class Unreadable(ValueError):
    """An item that cannot be embedded; the message is the reason.

    Attributes:
        lasting: whether the item itself is at fault, so that reading it again would fail again;
            what the machine failed at (memory, a read error) is tried again by the next update.
    """

    def __init__(self, reason: str, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Read:
    """One item as it was read: the hash of its content, and what its embedding needs.

    `payload` is None when the content is known already: it was not decoded.
    """

    stamp: Stamp
    hash: str
    payload: Tensor | str | None
    details: Mapping[str, object] = field(default_factory=dict[str, object])


class Source(Protocol):
    """Items by path, read one at a time (from several threads), embedded in batches."""

    @property
    def kind(self) -> Kind: ...
    @property
    def root(self) -> Path: ...

    def scan(self) -> dict[str, Stamp]:
        """Path -> stamp of every item there is, sorted by path."""
        ...

    def read(self, path: str, known: Callable[[str], bool], preprocess: Preprocess) -> Read:
        """Hash an item, and decode it unless its hash is known. Unreadable: it is bad."""
        ...

    def embed(self, payloads: Sequence[Tensor | str], scorer: Scorer) -> Tensor:
        """(B,D) unit vectors."""
        ...


@dataclass(frozen=True)
class ImageFolder:
    """Every image below a folder (see `clipguide.images.list_images`).

    Attributes:
        root: the folder.
        describe: what an image says of itself, for filters; `clipguide.report.generated.describe`
            reads the metadata of generated PNG files. By default nothing.
        left_out: why an image is none of those to find, "" for one that is;
            `clipguide.report.metadata.why_left_out` says it of pictures made of others. It is
            asked of new and changed files, which count as bad then, for that reason.
    """

    root: Path
    describe: Describe | None = None
    left_out: Callable[[Path], str] | None = None
    kind: Kind = "images"

    def scan(self) -> dict[str, Stamp]:
        if not self.root.is_dir():
            raise ValueError(f"{self.root}: no such folder")
        stamps: dict[str, Stamp] = {}
        for file in list_images([self.root]):
            try:
                stamps[file.relative_to(self.root).as_posix()] = _stamp(file)
            except OSError:  # gone since it was listed: as if it had not been there
                continue
        return stamps

    def read(self, path: str, known: Callable[[str], bool], preprocess: Preprocess) -> Read:
        file = self.root / path
        if self.left_out and (reason := self.left_out(file)):
            raise Unreadable(reason)
        try:
            stamp = _stamp(file)
            hash_ = sha256_file(file)
            if known(hash_):
                return Read(stamp, hash_, None)
            image = load_image(file)
            details: dict[str, object] = {"width": image.width, "height": image.height}
            details |= self.describe(file) if self.describe else {}
            pixels = preprocess.from_pil(image)  # (3,h,w) uint8
            if _stamp(file) != stamp:
                raise Unreadable("it changed while it was read: index again", lasting=False)
        except ImageError as error:
            raise Unreadable(error.reason, lasting=not _passes(error)) from error
        except OSError as error:
            raise Unreadable(error.strerror or str(error), lasting=False) from error
        except MemoryError as error:
            raise Unreadable("out of memory", lasting=False) from error
        return Read(stamp, hash_, pixels, details)

    def embed(self, payloads: Sequence[Tensor | str], scorer: Scorer) -> Tensor:
        pixels = [payload for payload in payloads if isinstance(payload, Tensor)]
        batch = torch.stack(pixels).to(scorer.device).float().div(255)  # (B,3,h,w)
        with torch.no_grad():
            return scorer.model.encode_image(scorer.preprocess.normalize(batch))


def _passes(error: BaseException) -> bool:
    """Whether the machine failed, not the file: a system's error or memory anywhere in the chain.

    Pillow raises `OSError` too, for what is wrong with a file: such an error has no number.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno is not None:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class NamedTexts:
    """Texts by name.

    Args:
        root: where they are from.
        texts: name -> text.
    """

    kind: Kind = "captions"

    def __init__(self, root: Path, texts: Mapping[str, str]) -> None:
        self.root = root
        self._texts = {**texts}

    def scan(self) -> dict[str, Stamp]:
        return {path: _text_stamp(self._texts[path]) for path in sorted(self._texts)}

    def read(self, path: str, known: Callable[[str], bool], preprocess: Preprocess) -> Read:
        text = self._texts[path]
        hash_ = hashlib.sha256(text.encode()).hexdigest()
        return Read(_text_stamp(text), hash_, None if known(hash_) else text, {"text": text})

    def embed(self, payloads: Sequence[Tensor | str], scorer: Scorer) -> Tensor:
        return scorer.encode_text([text for text in payloads if isinstance(text, str)])


class CaptionFile(NamedTexts):
    """The captions of a file (see `clipguide.data.captions`): an image finds its captions.

    The path of a caption is its image's name, "#" and its number among that image's captions.

    Args:
        root: the file.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, {})

    def scan(self) -> dict[str, Stamp]:
        counts: dict[str, int] = {}
        self._texts.clear()
        for caption in read_captions(self.root):
            number = counts.get(caption.image, 0)
            counts[caption.image] = number + 1
            self._texts[f"{caption.image}#{number}"] = caption.text
        return super().scan()


def _text_stamp(text: str) -> Stamp:
    """Of the text itself: a caption has no time of its own."""
    digest = hashlib.sha256(text.encode()).digest()
    return Stamp(len(text), int.from_bytes(digest[:7], "big"), 0)
