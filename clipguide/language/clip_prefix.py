"""CLIP prefix: a language model goes on from vectors that are made of a CLIP's embedding.

Mokady et al. 2021, ClipCap: CLIP Prefix for Image Captioning (https://arxiv.org/abs/2111.09734),
sections 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.language.decoder import (
    Decoder,
    State,
    shifted,
    tokens_learned,
)

MAPPINGS = ("mlp", "transformer", "places")
"""From what is seen to k vectors: of the whole by two layers, or by a transformer with k vectors of
its own; or each of k places by one layer, with a vector of its own added (Liu et al. 2023, Visual
Instruction Tuning, https://arxiv.org/abs/2304.08485, section 4.1)."""


@dataclass(frozen=True)
class PrefixShape:
    """What is between the CLIP and the language model.

    Attributes:
        length: k, how many vectors the language model is given; of "places" as many as are seen.
        mapping: one of `MAPPINGS`.
        layers: of the transformer.
        frozen: whether the language model keeps its weights (section 3.2).

    Raises:
        ValueError: another mapping, a length below 1.
    """

    length: int = 10
    mapping: str = "mlp"
    layers: int = 4
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.mapping not in MAPPINGS:
            raise ValueError(f"got mapping {self.mapping!r}, expected one of {[*MAPPINGS]}")
        if self.length < 1 or self.layers < 1:
            raise ValueError(f"got length {self.length}, layers {self.layers}, expected 1 or more")


class ClipPrefix(Decoder):
    """A transformers causal language model behind a prefix.

    Args:
        width: C of what is seen; "mlp" and "transformer" take the mean over its places.
        language_model: its tokens are the vocabulary's, `START` read before the first word.
        shape: see `PrefixShape`.

    Cost: a step runs the language model over the prefix and all words so far.
    """

    def __init__(self, width: int, language_model: nn.Module, shape: PrefixShape) -> None:
        super().__init__(width)
        self.shape = shape
        self.language_model = language_model.requires_grad_(not shape.frozen)
        embed: nn.Module = self._model.get_input_embeddings()
        size = int(embed.weight.shape[1])  # pyright: ignore[reportArgumentType, reportIndexIssue, reportOptionalSubscript]
        maps = {"mlp": _Mlp, "transformer": _Transformer, "places": _Places}
        self.mapping = maps[shape.mapping](width, size, shape)

    @property
    def _model(self) -> Any:
        return self.language_model

    def begin(self, seen: Tensor) -> State:
        """The prefix, (B, k, D) (Eq. 3)."""
        return (self.mapping(self.standardized(seen)).float(),)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        vectors = torch.cat([state[0], self._embedded(tokens[:, None])], dim=1)
        self._check_context(vectors.shape[1])
        logits: Tensor = self._model(inputs_embeds=vectors).logits
        return logits[:, -1], (vectors,)

    def losses(
        self,
        seen: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        learned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Eq. 4, the mean over tokens."""
        count, flat = targets.shape[1], targets.flatten(0, 1)
        prefix = self.begin(seen)[0].repeat_interleave(count, dim=0)
        vectors = torch.cat([prefix, self._embedded(shifted(flat))], dim=1)
        self._check_context(vectors.shape[1])
        logits: Tensor = self._model(inputs_embeds=vectors).logits
        real = tokens_learned(flat, learned)
        return {"loss": self.cross_entropy(logits[:, self.shape.length :][real], flat[real])}

    def _check_context(self, count: int) -> None:
        """ValueError for more vectors than the language model reads."""
        most: int | None = getattr(self._model.config, "max_position_embeddings", None)
        if most is not None and count > most:
            words = max(0, most - self.shape.length - 1)
            raise ValueError(f"got a text of more than {words} tokens, expected at most {words}")

    def _embedded(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self._model.get_input_embeddings()(tokens)
        return vectors.float()


class _Mlp(nn.Module):
    def __init__(self, width: int, size: int, shape: PrefixShape) -> None:
        super().__init__()
        self._length, between = shape.length, shape.length * size // 2
        self.layers = nn.Sequential(
            nn.Linear(width, between), nn.Tanh(), nn.Linear(between, shape.length * size)
        )

    def forward(self, seen: Tensor) -> Tensor:
        return self.layers(seen.mean(dim=1)).unflatten(1, (self._length, -1))


class _Transformer(nn.Module):
    def __init__(self, width: int, size: int, shape: PrefixShape) -> None:
        super().__init__()
        self._length = shape.length
        self.of_clip = nn.Linear(width, shape.length * size)
        self.constant = nn.Parameter(torch.randn(shape.length, size) * 0.02)
        heads = next(n for n in (8, 4, 2, 1) if size % n == 0)
        layer = nn.TransformerEncoderLayer(
            size, heads, 2 * size, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)

    def forward(self, seen: Tensor) -> Tensor:
        clip = self.of_clip(seen.mean(dim=1)).unflatten(1, (self._length, -1))
        constant = self.constant.expand(len(seen), -1, -1)
        return self.blocks(torch.cat([clip, constant], dim=1))[:, self._length :]


class _Places(nn.Module):
    def __init__(self, width: int, size: int, shape: PrefixShape) -> None:
        super().__init__()
        self.of_place = nn.Linear(width, size)
        self.position = nn.Parameter(torch.randn(shape.length, size) * 0.02)

    def forward(self, seen: Tensor) -> Tensor:
        if seen.shape[1] != len(self.position):
            expected = f"expected {len(self.position)}, as many as the prefix"
            raise ValueError(f"got {seen.shape[1]} places of a picture, {expected}")
        return self.of_place(seen) + self.position


def small_language_model(vocabulary: int, size: int, layers: int, dropout: float) -> nn.Module:
    """A GPT-2 of its own size over a vocabulary, 32 numbers a head, weights drawn from torch's
    generator."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_embd=size, n_layer=layers, n_head=max(1, size // 32),
        n_positions=128, bos_token_id=1, eos_token_id=2, embd_pdrop=dropout, resid_pdrop=dropout,
        attn_pdrop=dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def language_model_of(config: Mapping[str, Any]) -> nn.Module:
    """The architecture of a saved configuration (`clipguide.clip.backbones.config_of`)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        made: Any = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), trust_remote_code=False
        )
    return made.float()
