"""Half a model for a query: a text needs no image tower, and no library that makes both.

When an index is made, each half (`clipguide.clip.towers`) is compared with the whole model on a few
texts and a picture, and the hash of its weights goes into the manifest. A query is embedded by a
half only if its weights have that hash; its vector is then that of the whole model.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from clipguide.clip.loading import BUNDLED
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.towers import Half, NoTower, Tower

_TEXTS = (
    "a dog",
    "A photo of TWO red-and-white cats, isn't it?",
    "  naïve café 東京 \N{DOG FACE} 1,000.5%  ",
    "it's\ta\nlong " + "text of many words " * 30,
)
_CLOSE = 1e-5
"""Largest difference of a unit vector's values: float32 added in another order."""


def load_half(name: str, half: Half, preprocess: Preprocess) -> Scorer:
    """A scorer of one tower, on the CPU.

    Raises:
        NoTower: the model is of another kind, or not on this machine.
    """
    return Scorer(Tower(name, _folder(name), half, preprocess))


def half_hashes(scorer: Scorer) -> dict[Half, str]:
    """The hash of each half whose vectors are the whole model's; empty where they are not.

    Cost: four texts and a picture through both.
    """
    return {half: _hash(scorer, half) for half in ("text", "image")}


def _hash(scorer: Scorer, half: Half) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the long text is cut
        try:
            alone = load_half(scorer.name, half, scorer.preprocess)
            if half == "text":
                found, right = alone.encode_text(_TEXTS), scorer.encode_text(_TEXTS).cpu()
            else:
                draw = torch.Generator().manual_seed(0)
                noise = torch.rand((1, 3, 80, 90), generator=draw)
                found = alone.encode_image(noise)
                right = scorer.encode_image(noise.to(scorer.device)).cpu()
        except NoTower:
            return ""
    same = found.shape == right.shape and float((found - right).abs().max()) < _CLOSE
    return alone.content_hash if same else ""


def _folder(name: str) -> Path:
    """Where a model's files are: bundled, a folder, or the cache of the Hub."""
    if name in BUNDLED:
        return BUNDLED[name]
    source = name.removeprefix("hf:")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not name.startswith("hf:"):
        raise NoTower(f"got {name}, expected a folder or a repository")
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(source, "model.safetensors")
    if not isinstance(file, str):
        raise NoTower(f"{name} is not in the cache")
    return Path(file).parent
