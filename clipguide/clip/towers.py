"""One tower of a CLIP, without the library that made it and without the other tower.

Importing transformers' CLIP takes longer than a query (3.5 s of CPU). A whole `clipguide search`
from a cold start takes 2.6 s of CPU, of which `import torch` is 2.4: the floor while vectors are
torch's. With all the model libraries it took 7.7 (medians of five, interleaved, one thread). So a
search that needs one tower reads its weights and computes it here: Radford et al. 2021
(arXiv:2103.00020), as transformers' `modeling_clip` does it. `clipguide.retrieval.halves` compares
the vectors with those of the whole model when an index is made; an index whose model differs does
without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.open_clip_tower import open_clip_parts
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.tokens import truncate
from clipguide.clip.tower_parts import Half, NoTower, TowerParts, read_json, settings_hash

__all__ = ["Half", "NoTower", "Tower"]

PREFIXES: Mapping[Half, tuple[str, ...]] = {
    "text": ("text_model.", "text_projection."),
    "image": ("vision_model.", "visual_projection."),
}
"""Half -> how the names of its weights begin."""

_TEXT = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
         "num_attention_heads": 8, "num_hidden_layers": 12}  # fmt: skip
_IMAGE = _TEXT | {"num_attention_heads": 12}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
}


class Tower:
    """A half of a CLIP (see `ClipModel`); what belongs to the other half raises `NoTower`.

    Args:
        name: what the user called the model.
        folder: with config.json and model.safetensors of transformers, or of open_clip.
        half: which.
        preprocess: from images in [0, 1] to the pixels of the image tower.
        dtype: of the weights in memory.

    Raises:
        NoTower: another kind of model, or files that are not there.
    """

    logit_scale = 1.0
    """Not the model's: an index keeps that with its calibration."""
    noise_aware = False

    def __init__(
        self,
        name: str,
        folder: Path,
        half: Half,
        preprocess: Preprocess,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.preprocess = name, preprocess
        parts = _parts(folder, half, dtype)
        self.settings_hash = parts.settings_hash
        self._config: dict[str, Any] = {**(_TEXT if half == "text" else _IMAGE), **parts.config}
        if self._config["hidden_act"] not in _ACTIVATIONS:
            raise NoTower(f"got activation {self._config['hidden_act']}")
        self._half, self._tokens = half, parts.tokens
        self.module = _module(parts.weights)
        self._weights = dict(self.module.named_parameters())
        projection = "text_projection" if half == "text" else "visual_projection"
        self.embed_dim = self._of(f"{projection}.weight").shape[0]
        positions = "text_model.embeddings.position_embedding.weight"
        limit = parts.context_length
        self.context_length = min(limit, self._of(positions).shape[0]) if half == "text" else 0

    @property
    def device(self) -> torch.device:
        return next(iter(self._weights.values())).device

    def _of(self, name: str) -> Tensor:
        if name not in self._weights:
            raise NoTower(f"got weights without {name}")
        return self._weights[name]

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.cat([self._text(prompt) for prompt in prompts])

    def _text(self, prompt: str) -> Tensor:
        if self._tokens is None:
            raise NoTower("got a text, expected an image")
        tokens = truncate(self._tokens(prompt), self.context_length, prompt)
        end = self._config["eos_token_id"]
        if tokens.count(tokens[-1]) != 1 or tokens[-1] != (max(tokens) if end == 2 else end):
            raise NoTower("got an end of text within the text")  # which of them counts is a rule
        ids = torch.tensor([tokens], device=self.device)
        base = "text_model.embeddings"
        x = functional.embedding(ids, self._of(f"{base}.token_embedding.weight"))
        x = x + self._of(f"{base}.position_embedding.weight")[: len(tokens)]  # (1, T, C)
        x = self._layers(x, "text_model", causal=True)
        x = self._norm(x, "text_model.final_layer_norm")[:, -1]
        return _unit(functional.linear(x, self._of("text_projection.weight")))

    def encode_image(self, pixels: Tensor) -> Tensor:
        if self._half != "image":
            raise NoTower("got an image, expected a text")
        base = "vision_model.embeddings"
        patches = self._of(f"{base}.patch_embedding.weight")  # (C, 3, p, p)
        x = functional.conv2d(pixels.to(patches.dtype), patches, stride=patches.shape[-1])
        first = self._of(f"{base}.class_embedding").expand(len(x), 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2)], dim=1)  # (B, 1+T, C)
        positions = self._of(f"{base}.position_embedding.weight")
        if x.shape[1] != len(positions):
            raise NoTower(f"got {x.shape[1]} patches, expected {len(positions)}")
        x = self._norm(x + positions, "vision_model.pre_layrnorm")
        x = self._layers(x, "vision_model", causal=False)
        x = self._norm(x[:, 0], "vision_model.post_layernorm")
        return _unit(functional.linear(x, self._of("visual_projection.weight")))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._of(f"{name}.weight"), self._of(f"{name}.bias")
        return functional.layer_norm(x, weight.shape, weight, bias, self._config["layer_norm_eps"])

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._of(f"{name}.weight"), self._of(f"{name}.bias"))

    def _layers(self, x: Tensor, tower: str, causal: bool) -> Tensor:
        """Pre-norm transformer blocks: attention, then two linear layers."""
        act = _ACTIVATIONS[self._config["hidden_act"]]
        for number in range(self._config["num_hidden_layers"]):
            layer = f"{tower}.encoder.layers.{number}"
            x = x + self._attention(self._norm(x, f"{layer}.layer_norm1"), layer, causal)
            hidden = act(self._linear(self._norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1"))
            x = x + self._linear(hidden, f"{layer}.mlp.fc2")
        return x

    def _attention(self, x: Tensor, layer: str, causal: bool) -> Tensor:
        heads = self._config["num_attention_heads"]
        query, key, value = (
            self._linear(x, f"{layer}.self_attn.{name}_proj")
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for name in "qkv"
        )  # (B, H, T, C/H) each
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self._linear(seen.transpose(1, 2).flatten(2), f"{layer}.self_attn.out_proj")


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _parts(folder: Path, half: Half, dtype: torch.dtype) -> TowerParts:
    """As `load_scorer` finds a folder's kind; one of open_clip has a text half only."""
    if not (folder / "config.json").is_file() and half == "text":
        return open_clip_parts(folder, dtype)
    config = read_json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise NoTower(f"got a model of type {config.get('model_type')}, expected clip")
    return TowerParts(
        config=config.get("text_config" if half == "text" else "vision_config") or {},
        weights=_weights(folder / "model.safetensors", half, dtype),
        tokens=_tokens(folder) if half == "text" else None,
        context_length=read_json(folder / "tokenizer_config.json").get("model_max_length", 10**9),
        settings_hash=settings_hash(folder),
    )


def _weights(file: Path, half: Half, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a half; the bytes of the other are not read."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: opened.get_tensor(name).to(dtype)
                for name in opened.keys()  # noqa: SIM118  not a mapping
                if name.startswith(PREFIXES[half]) and not name.endswith("position_ids")
            }
    except Exception as error:  # OSError, SafetensorError
        raise NoTower(str(error)) from error


def _module(weights: Mapping[str, Tensor]) -> nn.Module:
    """Modules of modules that hold the weights under their names."""
    root = nn.Module()
    for name, weight in weights.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(weight, requires_grad=False))
    return root


def _tokens(folder: Path) -> Callable[[str], list[int]]:
    """The tokenizer of a folder of transformers, without transformers."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises `Exception` itself
        raise NoTower(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
    special = frozenset(place for place, token in added.items() if token.special)

    def tokens(prompt: str) -> list[int]:
        encoded: Any = tokenizer.encode(prompt)
        every: list[int] = encoded.ids
        if sum(token in special for token in every) > sum(encoded.special_tokens_mask):
            raise NoTower("got a special token in a text")  # PromptTokens takes it apart
        return every

    return tokens
