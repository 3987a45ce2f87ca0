"""Text encoders, tokenizers, autoencoders and schedulers that several families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tiny_clip import tiny_tokenizer
from tiny_pipelines import tiny_scheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

PROMPT = "a fox"
WIDTH = 16
"""Hidden size of every text encoder."""


@dataclass(frozen=True)
class Family:
    """One row of the family table.

    Attributes:
        pipeline: name of the pipeline class.
        build: makes the pipeline.
        call: arguments of a call for n images, but generator, steps and output type.
        variant: told apart in the table where one class serves several models.
        modes: those that are verified.
        signed: whether its output_type="pt" images are in [-1, 1].
        steps: of a call in the tests.
    """

    pipeline: str
    build: Callable[[], Any]
    call: Callable[[int], dict[str, Any]]
    variant: str = ""
    modes: tuple[str, ...] = ("x0", "xt", "noisy")
    signed: bool = False
    steps: int = 3

    def __str__(self) -> str:
        return f"{self.pipeline}{'-' * bool(self.variant)}{self.variant}"


def prompted(**more: Any) -> Callable[[int], dict[str, Any]]:
    """Call arguments of a text-to-image pipeline: n times the prompt."""
    return lambda n: {"prompt": [PROMPT] * n, **more}


def seeded(build: Callable[..., Any], *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    """A module with random weights that depend on `seed` alone, for inference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(*args, **kwargs).eval()


def ready(pipe: Any) -> Any:
    """The pipeline without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(**config: Any) -> Any:
    """DDIM that ends at sigma = 0."""
    return tiny_scheduler(DDIMScheduler, set_alpha_to_one=True, **config)


def flow(**config: Any) -> Any:
    """Euler on the straight line; ends at sigma = 0."""
    return FlowMatchEulerDiscreteScheduler(**config)


def vae(levels: int = 2, latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    """An AutoencoderKL with `levels` resolutions, so 2**(levels - 1) pixels to a latent."""
    return seeded(
        AutoencoderKL,
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        latent_channels=latent_channels,
        **config,
    )


def flow_vae(levels: int = 2) -> AutoencoderKL:
    """With a shift, as those of flow models have."""
    return vae(levels, scaling_factor=0.9, shift_factor=0.2)


@cache
def clip_tokenizer() -> Any:
    return tiny_tokenizer()


def clip_config() -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@cache
def clip_text() -> CLIPTextModel:
    return seeded(CLIPTextModel, clip_config())


@cache
def clip_text_projected() -> CLIPTextModelWithProjection:
    return seeded(CLIPTextModelWithProjection, clip_config())


@cache
def byte_tokenizer(length: int = 32) -> PreTrainedTokenizerFast:
    """One token per byte: stands in for SentencePiece and byte-pair vocabularies."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        model_max_length=length,
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return fast


@cache
def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(byte_tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
    )
    return seeded(T5EncoderModel, config)


@cache
def gemma() -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(byte_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return seeded(Gemma2Model, config)
