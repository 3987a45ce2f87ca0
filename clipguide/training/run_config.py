"""What all runs of training have in common: where they read and write, data, settings files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from clipguide.data.pairs import Pairs, from_captions, from_folder, from_tars
from clipguide.training.config_file import build, expanded, parse_file, set_value, table_at

DEVICES = ("cpu", "auto")
"""What `RunConfig.device` may be."""
RENAMED = {"trunk_cache": "prefix_cache"}
"""Former key of `train` -> its key now: files written before still say what they meant."""
_ELSEWHERE = ("root", "output", "cache", "device", "tensorboard")  # decide nothing of the result


@dataclass(frozen=True)
class Split:
    """Where pairs come from: a captions file and an image folder, a folder, or tar archives.

    Attributes:
        captions, images, names: see `clipguide.data.pairs.from_captions`.
        folder: images with sidecar texts (`from_folder`).
        tars: webdataset archives (`from_tars`).
    """

    captions: str = ""
    images: str = ""
    names: str = ""
    folder: str = ""
    tars: tuple[str, ...] = ()

    def read(self, base: Path) -> Pairs:
        """The pairs; relative paths start at `base`."""
        kinds = [bool(self.captions), bool(self.folder), bool(self.tars)]
        if sum(kinds) != 1 or bool(self.captions) != bool(self.images):
            raise ValueError(
                "got a split with none or several of: captions and images, folder, tars"
            )
        if self.folder:
            return from_folder(base / self.folder)
        if self.tars:
            return from_tars([base / name for name in self.tars])
        names = base / self.names if self.names else None
        return from_captions(base / self.captions, base / self.images, names)


@dataclass(frozen=True)
class RunConfig:
    """A run of training, beside the tables that say what is trained and how.

    Attributes:
        output: folder of the model, its checkpoint and its history.
        root: relative paths of the splits start here; the folder of the file, where it is empty.
        cache: folder of cached features; `output/cache` where it is empty.
        device: "cpu", or "auto" for what accelerate finds: a GPU for each process.
        data: "train", "dev" and perhaps "test".
        MODELS: the table of the file and its keys that may name a folder.
        SPLIT: what a table of `data` is read as.
    """

    MODELS: ClassVar[tuple[str, tuple[str, ...]]]
    SPLIT: ClassVar[type[Split]] = Split

    output: str
    root: str = ""
    cache: str = ""
    device: str = "cpu"
    data: Mapping[str, Split] = field(default_factory=dict[str, Split])

    def __post_init__(self) -> None:
        if not self.output:
            raise ValueError("got no output, expected a folder: --set output=DIR")
        if self.device not in DEVICES:
            raise ValueError(f"got device {self.device!r}, expected one of {[*DEVICES]}")
        if not {"train", "dev"} <= set(self.data) <= {"train", "dev", "test"}:
            got = ", ".join(self.data) or "none"
            raise ValueError(f"got splits {got}, expected data.train, data.dev (and data.test)")

    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else Path(self.output) / "cache"

    def plain(self) -> dict[str, Any]:
        """What decides the run, as JSON; not where it is read and written, so that a run goes on
        from another working folder, or where its folders were moved together."""
        values = asdict(self)
        name, keys = self.MODELS
        table: dict[str, Any] = values[name]
        for key in keys:
            if Path(table[key]).is_absolute() and self.root:
                table[key] = os.path.relpath(table[key], self.root)
        return json.loads(json.dumps({k: v for k, v in values.items() if k not in _ELSEWHERE}))


Config = TypeVar("Config", bound=RunConfig)


def read_run_config(
    path: str | os.PathLike[str], changes: Sequence[str], kind: type[Config]
) -> Config:
    """Read the configuration of a kind of run.

    `${NAME}` in a text is the environment variable, `${NAME:-text}` has a default. `root` and the
    models' folders that begin with a dot are relative to the file's folder; `output` and `cache` to
    the working folder.

    Args:
        path: `.toml`, `.yaml` or `.yml`.
        changes: `a.b=c`, c as TOML has it, or else a text.
        kind: of the run; what its fields are made of are the tables of the file.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    tables = read_tables(path, changes, kind)
    for one in fields(kind):
        settings = one.default_factory
        if isinstance(settings, type) and is_dataclass(settings):
            table = table_at(tables.get(one.name, {}), one.name)
            if one.name == "train":
                table = renamed(table)
            tables[one.name] = build(settings, table, one.name)
    return build(kind, tables, "")


def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table `train` with its former keys replaced by those of today."""
    return {RENAMED.get(key, key): value for key, value in table.items()}


def read_tables(
    path: str | os.PathLike[str], changes: Sequence[str], kind: type[RunConfig]
) -> dict[str, Any]:
    """The tables of a settings file, `changes` made, `data` as `Split`s.

    `root` and the model's folders that begin with a dot are made absolute: they are relative to
    the file's folder.

    Raises:
        ValueError: a file that cannot be read, a table that is none, a split of unknown keys.
    """
    file = Path(path)
    tables = expanded(parse_file(file))
    for change in changes:
        set_value(tables, change)
    folder = file.parent.absolute()
    tables["root"] = str(folder / str(tables.get("root", "")))
    name, keys = kind.MODELS
    table = tables[name] = dict(table_at(tables.get(name, {}), name))
    for key in keys:
        if str(table.get(key, "")).startswith("."):
            table[key] = str(folder / table[key])
    data = table_at(tables.get("data", {}), "data")
    tables["data"] = {split: build(kind.SPLIT, it, f"data.{split}") for split, it in data.items()}
    return {"output": "", **tables}
