"""Which captions belong to which image files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from clipguide.data.captions import Caption
from clipguide.images import SUFFIXES
from clipguide.texts import listed, printable

Names = dict[str, list[Path]]  # name -> the files it may mean
Found = dict[Path, int]  # file -> how far the name is from being its path
_END, _STEM, _FAR = 1_000, 10_000, 100_000


@dataclass(frozen=True)
class Matches:
    """The texts of each file, and what could not be placed.

    Attributes:
        texts: of each file that has any, in the order of the captions.
        absent: names that belong to no file, `ambiguous` among them.
        ambiguous: name -> the several files that it may mean.
        by_name: names that were found by their last part alone, in another folder than they say.
        repeated: rows that say what an earlier row says, of the same file.
        files: name -> the one file that it is.
    """

    texts: dict[Path, list[str]] = field(default_factory=dict[Path, list[str]])
    absent: list[str] = field(default_factory=list[str])
    ambiguous: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    by_name: list[str] = field(default_factory=list[str])
    repeated: int = 0
    files: dict[str, Path] = field(default_factory=dict[str, Path])

    def notes(self, source: object) -> list[str]:
        """A line for each thing that a reader of the numbers must know."""
        lines: list[str] = []
        gone = [name for name in self.absent if name not in self.ambiguous]
        if gone:
            lines.append(f"{len(gone)} images are not there, e.g. {printable(gone[0])}")
        for name, files in [*self.ambiguous.items()][:1]:
            what = f"{len(self.ambiguous)} names may mean several files and are left out"
            lines.append(f"{what}, e.g. {printable(name)}: {listed(files)}; write more of the path")
        for name in self.by_name[:1]:
            what = f"{len(self.by_name)} images are in another folder than it says"
            lines.append(f"{what} and were found by their name, e.g. {printable(name)}")
        return [f"{source}: {line}" for line in lines]


def match_captions(
    captions: Sequence[Caption],
    files: Sequence[Path],
    roots: Sequence[Path],
    base: Path | None = None,
) -> Matches:
    """The files that the captions' images are.

    A name is looked for in this order, and where it finds any file it is looked for no further:

    1. as a path below one of `roots`, or beside the captions file (in `base`), or absolute; else
       from the working folder;
    2. as the end of a path: `sub/a.png` is `/data/set/sub/a.png`;
    3. both again without a suffix: `a` is `a.png`;
    4. by as much of its end as some file has, where no other name of the captions ends so: paths
       of another machine.

    A name that finds several files belongs to none and is reported as ambiguous. Case counts; of
    the two ways to write a letter (é) the one that is there counts, or else the other.

    Cost: linear in the captions and files.
    """
    names = [*dict.fromkeys(caption.image for caption in captions)]
    exact, composed = (_Places(files, roots, base, form) for form in (False, True))
    found = {name: exact.find(name) or composed.find(name) for name in names}
    _keep_the_nearest(found)
    by_name = [*_find_by_end(found, composed)]
    matched = {name: [*some] for name, some in found.items()}
    absent = [name for name, some in matched.items() if len(some) != 1]
    ambiguous = {name: matched[name] for name in absent if matched[name]}
    texts: dict[Path, list[str]] = {}
    for caption in captions:
        if len(matched[caption.image]) == 1:
            texts.setdefault(matched[caption.image][0], []).append(caption.text)
    repeated = sum(len(some) - len(set(some)) for some in texts.values())
    files_of = {name: some[0] for name, some in matched.items() if len(some) == 1}
    return Matches(texts, absent, ambiguous, by_name, repeated, files_of)


def _keep_the_nearest(found: dict[str, Found]) -> None:
    """Of several names of one file only those that say most of its path keep it.

    `a.png` may be the end of `sub/a.png`, but not where `sub/a.png` is named as well.
    """
    nearest: dict[Path, int] = {}
    for some in found.values():
        if len(some) == 1:
            ((file, far),) = some.items()
            nearest[file] = min(far, nearest.get(file, far))
    for name, some in found.items():
        if len(some) == 1 and any(far > nearest[file] for file, far in some.items()):
            found[name] = {}


def _find_by_end(found: dict[str, Found], places: _Places) -> Iterator[str]:
    """Step 4 for the names that are not found; yields those that it finds."""
    taken = {file for some in found.values() for file in some}
    counts: dict[str, int] = {}
    for name in found:
        for end in _ends(_composed(name.replace("\\", "/"))):
            counts[end] = counts.get(end, 0) + 1
    for name, some in found.items():
        if not some:
            files = places.near(name, counts)
            found[name] = {file: _FAR for file in files if file not in taken}
            if len(found[name]) == 1:
                yield name


class _Places:
    """Files by their absolute paths, and by every end of these."""

    def __init__(
        self, files: Sequence[Path], roots: Sequence[Path], base: Path | None, composed: bool
    ) -> None:
        self._write = _composed if composed else str
        self._folders = [*roots, *([base] if base is not None else [])]
        self._absolute = [(self._write(_absolute(file)), file) for file in files]

    @cached_property
    def _full(self) -> tuple[Names, Names]:
        return _group(self._absolute), _group_ends(self._absolute)

    @cached_property
    def _stems(self) -> tuple[Names, Names]:
        stems = [(str(Path(path).with_suffix("")), file) for path, file in self._absolute]
        return _group(stems), _group_ends(stems)

    def find(self, name: str) -> Found:
        """Steps 1 to 3 of `match_captions`; a name of Windows too."""
        return self._find(name) or (self._find(name.replace("\\", "/")) if "\\" in name else {})

    def _find(self, name: str) -> Found:
        some = self._look(name, *self._full)
        if some or PurePosixPath(name).suffix.lower() in SUFFIXES:
            return some
        return {file: far + _STEM for file, far in self._look(name, *self._stems).items()}

    def _look(self, name: str, paths: Names, ends: Names) -> Found:
        beside = [self._write(_absolute(folder / name)) for folder in self._folders]
        found = [file for path in beside for file in paths.get(path, [])]
        found = found or paths.get(self._write(_absolute(Path(name))), [])
        if found:
            return dict.fromkeys(found, 0)
        end = self._write(PurePosixPath(name).as_posix())
        return dict.fromkeys(ends.get(end, []), _END - end.count("/"))

    def near(self, name: str, counts: dict[str, int]) -> list[Path]:
        """Step 4: files with the longest end of `name` that any has, if it is the end of no other.

        `counts`: how many names have each end.
        """
        _, ends = self._full
        for end in _ends(_composed(name.replace("\\", "/"))):
            if end in ends:
                return ends[end] if counts[end] == 1 else []
        return []


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _absolute(path: Path) -> str:
    """Absolute, with links of the folder followed, not of the file itself."""
    whole = Path(os.path.normpath(Path.cwd() / path))
    return f"{_real(whole.parent)}/{whole.name}"


@lru_cache(maxsize=4096)
def _real(folder: Path) -> str:
    return folder.resolve().as_posix().rstrip("/")


def _ends(path: str) -> list[str]:
    """`a/b/c`, `b/c`, `c`: every end of a path, the longest first."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _group(pairs: Iterable[tuple[str, Path]]) -> Names:
    names: dict[str, dict[Path, None]] = {}
    for name, file in pairs:
        names.setdefault(name, {})[file] = None
    return {name: [*some] for name, some in names.items()}


def _group_ends(pairs: Sequence[tuple[str, Path]]) -> Names:
    return _group((end, file) for path, file in pairs for end in _ends(Path(path).as_posix()))
