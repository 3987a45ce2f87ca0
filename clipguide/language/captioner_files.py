"""A trained captioner on disk: one safetensors file, its settings, its words, a card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clipguide.clip.backbones import config_of, rebuild
from clipguide.clip.loading import load_scorer
from clipguide.clip.model_folder import check_folder, read_json
from clipguide.clip.model_size import check_size
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.refusals import refusing
from clipguide.clip.trainable import save_files, table_of
from clipguide.files import atomic_path, write_json, write_text
from clipguide.language.clip_prefix import ClipPrefix, PrefixShape, language_model_of
from clipguide.language.decoder import Decoder
from clipguide.language.show_and_tell import ShowAndTell
from clipguide.language.show_attend_tell import HardAttention, SoftAttention
from clipguide.language.sight import BackboneSight, ClipSight, Sight
from clipguide.language.trained_captioner import TrainedCaptioner
from clipguide.language.vocabulary import Vocabulary

CONFIG = "captioner.json"
"""The file that marks a folder as a saved captioner."""
WEIGHTS, CARD = "model.safetensors", "README.md"
VERSION = 1

Settings = Mapping[str, Any]
Build = Callable[[Settings], Decoder]

RECURRENT: dict[str, type[ShowAndTell | SoftAttention | HardAttention]] = {
    "show_and_tell": ShowAndTell,
    "soft_attention": SoftAttention,
    "hard_attention": HardAttention,
}
"""Kind of a captioner -> its decoder, made of width, vocabulary, hidden and dropout."""
PREFIX = "clip_prefix"
KINDS = (*RECURRENT, PREFIX)


def _recurrent(kind: str) -> Build:
    return lambda given: RECURRENT[kind](given["width"], given["vocabulary"], given["hidden"])


def _prefix(given: Settings) -> Decoder:
    shape = PrefixShape(**given["shape"])
    return ClipPrefix(given["width"], language_model_of(given["language_model"]), shape)


BUILDS: dict[str, Build] = {**{kind: _recurrent(kind) for kind in RECURRENT}, PREFIX: _prefix}
"""Kind -> how its decoder is built from its settings."""


def settings_of(decoder: Decoder) -> dict[str, Any]:
    """What `BUILDS` makes it again from, with its kind."""
    if isinstance(decoder, ClipPrefix):
        width = next(layer for layer in decoder.mapping.modules() if isinstance(layer, nn.Linear))
        return {
            "kind": PREFIX, "width": width.in_features, "shape": asdict(decoder.shape),
            "language_model": config_of(decoder.language_model),
        }  # fmt: skip
    kind = next(name for name, made in RECURRENT.items() if type(decoder) is made)
    made = cast("ShowAndTell | SoftAttention", decoder)
    first = made.of_image if isinstance(made, ShowAndTell) else made.places
    return {
        "kind": kind, "width": first.in_features, "vocabulary": made.words.num_embeddings,
        "hidden": made.words.embedding_dim,
    }  # fmt: skip


def save_captioner(
    captioner: TrainedCaptioner, folder: Path, results: Mapping[str, float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write everything `load_captioner_folder` needs, the settings last; of a CLIP that sees, its
    name and the hash of its weights.

    Args:
        captioner: the model.
        folder: made when it is not there.
        results: figures for the card, by name.
        dtype: of the weights in the file.
    """
    sight = captioner.sight
    modules = {"decoder": captioner.decoder}
    if isinstance(sight, BackboneSight):
        modules["sight"] = cast("Decoder", sight.module)
    weights = {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }
    typed = {n: v.to(dtype) if v.is_floating_point() else v for n, v in weights.items()}
    settings: dict[str, Any] = {
        "version": VERSION,
        "sight": {**_placed(sight.settings()), "preprocess": asdict(sight.preprocess)},
        "decoder": settings_of(captioner.decoder),
        "word_penalty": captioner.word_penalty,
    }

    def write(place: Path) -> None:
        with atomic_path(place / WEIGHTS) as path:
            save_file(typed, path, metadata={"format": "pt"})
        captioner.vocabulary.save(place)
        write_text(place / CARD, _card(settings["decoder"]["kind"], results or {}))
        write_json(place / CONFIG, settings)

    save_files(folder, CONFIG, write)


def _placed(settings: Settings) -> dict[str, Any]:
    """With the folder of a CLIP by its whole path, so that it is found from everywhere."""
    place = Path(str(settings.get("clip", ""))).expanduser()
    found = {"clip": str(place.resolve())} if "clip" in settings and place.is_dir() else {}
    return {**settings, **found}


def load_captioner_folder(name: str, folder: Path) -> TrainedCaptioner:
    """Read what `save_captioner` wrote.

    Raises:
        ValueError: files that are missing, damaged, or do not belong together; a CLIP of other
            weights than the one it was trained with.
    """
    with refusing(name):
        check_folder(name, folder)
        settings: dict[str, Any] = read_json(name, folder / CONFIG)
        if settings.get("version") != VERSION:
            raise ValueError(f"{name}: got version {settings.get('version')}, expected {VERSION}")
        vocabulary = Vocabulary.load(folder)
        given = settings["decoder"]
        if given.get("kind") not in BUILDS:
            raise ValueError(f"{name}: got kind {given.get('kind')!r}, expected one of {[*KINDS]}")
        check_size(name, lambda: BUILDS[given["kind"]](given), [folder / WEIGHTS])
        with torch.random.fork_rng(devices=[]):
            decoder = BUILDS[given["kind"]](given)
        weights = load_file(folder / WEIGHTS)
        decoder.load_state_dict(_part(weights, "decoder"))
        sight = _sight(name, settings["sight"], _part(weights, "sight"))
        word_penalty = number_of(name, settings, "word_penalty", 0.0)
    captioner = TrainedCaptioner(name, sight, vocabulary, decoder.float())
    captioner.word_penalty = word_penalty
    return captioner


def number_of(name: str, settings: Settings, key: str, default: float) -> float:
    """A finite number of a captioner's settings, 0 or more; of a folder of before, `default`."""
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: got {key} {value!r}, expected a number of at least 0")
    return float(value)


def _part(weights: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    start = f"{part}."
    return {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}


def _sight(name: str, given: Settings, weights: Mapping[str, torch.Tensor]) -> Sight:
    if "clip" in given:
        scorer = load_scorer(str(given["clip"]))
        if scorer.content_hash != given["clip_hash"]:
            raise ValueError(f"{name}: got other weights of {given['clip']}, expected its own")
        sight: Sight = ClipSight(scorer, str(given["view"]))
    else:
        module = rebuild(given["backbone"])
        module.load_state_dict(weights)
        sight = BackboneSight(module, _preprocess(given["preprocess"]), given.get("levels", 1))
    sight.mirrored = given.get("mirrored") is True
    return sight


def _preprocess(values: Settings) -> Preprocess:
    listed = {
        k: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for k, v in values.items()
    }
    return Preprocess(**cast("dict[str, Any]", listed))


def _card(kind: str, results: Mapping[str, float]) -> str:
    lines = [
        "---", "library_name: clipguide", "pipeline_tag: image-to-text", "---", "",
        f"# Captioner: {kind}", "", "Trained by clipguide.", "", "```python",
        "from clipguide.language.loading import load_captioner", "",
        'load_captioner("FOLDER").caption("photo.jpg")', "```", "",
    ]  # fmt: skip
    return "\n".join([*lines, *table_of(results)])
