"""What an index is of: its model, its preprocessing, its folder; and what it refuses."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import same_settings
from clipguide.files import write_bytes
from clipguide.retrieval.halves import half_hashes
from clipguide.retrieval.published import IndexDamaged

FORMAT = 3
"""3: checksums over everything, the manifest's in the catalogue. Earlier ones are refused."""
FILE = "manifest.json"
Kind = Literal["images", "captions"]
QUANTISATIONS = ("ivf_pq", "ivf_sq")
"""Inverted files of vectors quantised by products (a byte for 8 dimensions) or scalars (for 1)."""


class _Format(ValueError):
    """A manifest of another version."""


class WrongModel(ValueError):
    """A query or an update by a model that is not the one the index was made with."""


@dataclass(frozen=True)
class Storage:
    """Where the vectors of an index are.

    Attributes:
        kind: "shards" beside the catalogue, or "lancedb".
        uri: of the LanceDB database, a local folder or an object store; empty: inside the index.
        quantisation: of LanceDB's index, one of `QUANTISATIONS`.
        table: of LanceDB, chosen when the index is made: several indexes may share a database.
    """

    kind: Literal["shards", "lancedb"] = "shards"
    uri: str = ""
    quantisation: str = QUANTISATIONS[0]
    table: str = ""

    def __post_init__(self) -> None:
        if self.quantisation not in QUANTISATIONS:
            got = f"got quantisation {self.quantisation!r}"
            raise ValueError(f"{got}, expected one of {', '.join(QUANTISATIONS)}")

    def __str__(self) -> str:
        if self.kind == "shards":
            return self.kind
        place = f" at {self.uri}" if self.uri else ""
        return f"{self.kind}{place} ({self.quantisation})"


@dataclass(frozen=True)
class Manifest:
    """What identifies an index.

    Attributes:
        kind: what its items are.
        root: the folder (or captions file) that was indexed, absolute; paths of items are below it.
        relative: the same from the index's own folder; empty where there is no such path.
        id: of this index, drawn when it was made: files of two indexes do not mix.
        scorer: the name its model was loaded by, for `load_scorer`.
        model_hash: `Scorer.content_hash`: names, shapes and bytes of all weights.
        text_hash, image_hash: the same of each tower alone, where it can be used alone for queries
            (see `clipguide.retrieval.halves`); otherwise empty.
        preprocess: the preprocessing's settings.
        embed_dim: D.
        settings_hash: `Scorer.settings_hash`: of configuration and tokenizer; empty where it is not
            known, as in an index of before there was one: then it is not compared.
        storage: where its vectors are.
    """

    kind: Kind
    root: str
    relative: str
    id: str
    scorer: str
    model_hash: str
    text_hash: str
    image_hash: str
    preprocess: Mapping[str, Any]
    embed_dim: int
    format: int = FORMAT
    settings_hash: str = ""
    storage: Storage = field(default_factory=Storage)

    def check(self, scorer: Scorer) -> None:
        """Refuse a scorer whose vectors cannot be compared with those of the index.

        Raises:
            WrongModel: other weights, another preprocessing, configuration or tokenizer.
        """
        half = scorer.content_hash in (self.text_hash, self.image_hash)
        if not half and scorer.content_hash != self.model_hash:
            raise WrongModel(
                f"the index is of {self.scorer} (weights {self.model_hash[:12]}), got "
                f"{scorer.name} (weights {scorer.content_hash[:12]}): use the index's own model, "
                "or index anew elsewhere"
            )
        if not half and settings_of(scorer.preprocess) != self.preprocess:
            raise WrongModel(
                f"the index is of {self.scorer} with another preprocessing than {scorer.name} has "
                "now: index anew elsewhere"
            )
        if not same_settings(self.settings_hash, scorer.settings_hash):
            raise WrongModel(
                f"the index is of {self.scorer} with another configuration or tokenizer (settings "
                f"{self.settings_hash[:12]}) than {scorer.name} has now "
                f"({scorer.settings_hash[:12]}): put the model's files back, or index anew "
                "elsewhere"
            )


def manifest_of(
    scorer: Scorer, kind: Kind, root: Path, folder: Path, storage: Storage | None = None
) -> Manifest:
    """The manifest of a new index in `folder` of `root` by `scorer`, in shards by default."""
    storage = storage or Storage()
    if storage.kind == "lancedb":
        storage = replace(storage, table=f"clipguide_{secrets.token_hex(8)}")
    absolute, relative = root_names(root, folder)
    halves = half_hashes(scorer)
    return Manifest(
        kind=kind,
        root=absolute,
        relative=relative,
        id=secrets.token_hex(16),
        scorer=scorer.name,
        model_hash=scorer.content_hash,
        text_hash=halves["text"],
        image_hash=halves["image"],
        preprocess=settings_of(scorer.preprocess),
        embed_dim=scorer.embed_dim,
        settings_hash=scorer.settings_hash,
        storage=storage,
    )


def root_names(root: Path, folder: Path) -> tuple[str, str]:
    """`root` and `relative` of the manifest of an index in `folder`."""
    absolute = str(root.resolve())
    try:
        relative = os.path.relpath(absolute, folder.resolve())
    except ValueError:  # another drive
        relative = ""
    return absolute, relative


def located(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the root where it is now, of an index that is in `folder` now.

    An index inside the folder it is of goes with it. Any other is of the folder it was made for,
    and, when that is gone, of the one at the same place beside the index: both were moved.
    """
    if not manifest.relative:
        return manifest
    beside = (folder.resolve() / manifest.relative).resolve()
    inside = set(Path(manifest.relative).parts) == {".."}
    if inside or (not Path(manifest.root).exists() and beside.exists()):
        return replace(manifest, root=str(beside))
    return manifest


def settings_of(preprocess: Preprocess) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(asdict(preprocess)))


def preprocess_of(manifest: Manifest) -> Preprocess:
    """The inverse of `settings_of`: what the index's pictures were prepared by."""
    values: dict[str, Any] = {}
    for name, value in manifest.preprocess.items():
        values[name] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
    return Preprocess(**values)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it atomically."""
    write_bytes(folder / FILE, encode(manifest))


def encode(manifest: Manifest) -> bytes:
    """As JSON, always the same bytes. Names that are not UTF-8 are escaped.

    Settings that are not known are left out: an older index keeps the bytes it was written with.
    """
    values = asdict(manifest)
    if not manifest.settings_hash:
        del values["settings_hash"]
    return (json.dumps(values, indent=2) + "\n").encode("ascii")


def decode(data: bytes, file: Path) -> Manifest:
    """The inverse of `encode`; `file` is for messages.

    Raises:
        IndexDamaged: not a manifest.
        ValueError: of another format.
    """
    try:
        value = cast("dict[str, Any]", json.loads(data))
        number, known = value["format"], "model_hash" in value
        if number > FORMAT:
            raise _Format(f"{file}: got format {number}, expected at most {FORMAT}")
        if number < FORMAT and known:
            text = f"got format {number}, which has no checksums, expected {FORMAT}"
            raise _Format(f"{file}: {text}; index anew elsewhere")
        storage = Storage(**value.pop("storage"))
        names = [one.name for one in fields(Manifest) if one.name != "storage"]
        value.setdefault("settings_hash", "")  # of an index of before there was one
        return Manifest(**{name: value[name] for name in names}, storage=storage)
    except _Format:
        raise
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise IndexDamaged(f"{file}: the manifest is damaged ({error!r}); index anew") from error


def read_manifest(folder: Path) -> Manifest:
    """Read the file alone; whether it is as it was written only the catalogue knows.

    Raises:
        ValueError: no index there, damaged (`IndexDamaged`), or of another format.
    """
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no index there (`clipguide index DIR --to {folder}` makes it)")
    return decode(file.read_bytes(), file)
