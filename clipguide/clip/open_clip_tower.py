"""The text half of an open_clip CLIP in a folder, without importing open_clip.

Importing open_clip takes longer than a query (torchvision and timm with it). Its tokenizer is one
file that needs neither; its weights are those of Radford et al. 2021 under other names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from clipguide.clip.open_clip_folder import CONFIG, check_open_clip_folder
from clipguide.clip.tower_parts import NoTower, TowerParts, read_json, settings_hash

_KNOWN = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
"""Settings of a text tower that there is a rule for, as open_clip has them by default."""
_FORMS = frozenset({"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
_TEXT_NAMES = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.")
_OUTER = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
"""open_clip's names -> transformers'."""


def open_clip_parts(folder: Path, dtype: torch.dtype) -> TowerParts:
    """The text half of a folder with `open_clip_config.json`.

    Raises:
        NoTower: another kind of text tower, or a folder that the whole model would be refused for.
    """
    try:
        check_open_clip_folder(str(folder), folder)
    except ValueError as error:
        raise NoTower(str(error)) from error
    model: dict[str, Any] = read_json(folder / CONFIG)["model_cfg"]
    text: dict[str, Any] = model["text_cfg"]
    others = sorted((set(text) - set(_KNOWN)) | (set(model) - _FORMS))
    if others:
        raise NoTower(f"got settings {others} of open_clip")
    own = _KNOWN | text
    config = {
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "eos_token_id": 2,  # read at the largest token id
        "num_attention_heads": own["heads"],
        "num_hidden_layers": own["layers"],
    }
    weights = _renamed(_read(_file(folder), dtype))
    hashed = settings_hash(folder)
    return TowerParts(config, weights, _simple_tokens(), own["context_length"], hashed)


def _file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise NoTower(f"got {len(files)} files of weights, expected one")
    return files[0]


def _read(file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of the text half; the bytes of the other are not read."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: opened.get_tensor(name).to(dtype)
                for name in opened.keys()  # noqa: SIM118  not a mapping
                if name.startswith(_TEXT_NAMES) or name == "text_projection"
            }
    except Exception as error:  # OSError, SafetensorError
        raise NoTower(str(error)) from error


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name == "text_projection":
            found["text_projection.weight"] = weight.T.contiguous()
        elif name in _OUTER:
            found[_OUTER[name]] = weight
        else:
            found.update(_of_block(name, weight))
    return found


def _of_block(name: str, weight: Tensor) -> dict[str, Tensor]:
    """transformer.resblocks.3.attn.in_proj_weight and its like."""
    *start, number, rest = name.split(".", 3)
    if start != ["transformer", "resblocks"]:
        raise NoTower(f"got a weight {name} of open_clip")
    layer = f"text_model.encoder.layers.{number}"
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = rest.removeprefix("attn.in_proj_")
        parts = zip("qkv", weight.chunk(3), strict=True)
        return {f"{layer}.self_attn.{part}_proj.{kind}": value.clone() for part, value in parts}
    module, _, kind = rest.rpartition(".")
    if module not in _INNER:
        raise NoTower(f"got a weight {name} of open_clip")
    return {f"{layer}.{_INNER[module]}.{kind}": weight}


def _simple_tokens() -> Callable[[str], list[int]]:
    """open_clip's SimpleTokenizer, of its file alone."""
    package = importlib.util.find_spec("open_clip")
    places = package.submodule_search_locations if package else None
    if not places:
        raise NoTower("open_clip is not installed")
    spec = importlib.util.spec_from_file_location(
        "clipguide_open_clip_tokenizer", Path(places[0], "tokenizer.py")
    )
    if spec is None or spec.loader is None:
        raise NoTower("open_clip has no tokenizer.py")
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        tokenizer: Any = module.SimpleTokenizer()
    except Exception as error:  # another version of open_clip
        raise NoTower(str(error)) from error
    start, end = tokenizer.all_special_ids[:2]

    def tokens(prompt: str) -> list[int]:
        inside: list[int] = tokenizer.encode(prompt)
        if start in inside or end in inside:
            raise NoTower("got a special token in a text")
        return [start, *inside, end]

    return tokens
