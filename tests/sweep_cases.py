"""The pipelines of diffusers' own tests, with their tiny random components, without the Hub.

What those tests load from the Hub (tokenizers, processors, a few text encoders) is replaced by tiny
stand-ins of the same kind; everything else is as diffusers' developers made it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from families.parts import byte_tokenizer
from tiny_clip import tiny_tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase, T5Config

WIDTH = 32
"""Hidden size of diffusers' tiny text encoders."""
STEPS = 3


@dataclass(frozen=True)
class SweepCase:
    """One class of diffusers' tests: a pipeline class, its tiny components, a call.

    Attributes:
        pipeline: name of the pipeline class.
        variant: told apart where one class has several tests.
        holder: an instance of the test class.
    """

    pipeline: str
    variant: str
    holder: Any

    def __str__(self) -> str:
        return f"{self.pipeline}{f' ({self.variant})' if self.variant else ''}"

    def build(self) -> Any:
        """The pipeline, ready for inference; layers that start as zero are random."""
        torch.manual_seed(0)
        pipe = self.holder.pipeline_class(**self.holder.get_dummy_components())
        generator = torch.Generator().manual_seed(1)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval()
                for weight in part.parameters():
                    if weight.ndim > 1 and not weight.any():
                        weight.data.normal_(std=0.05, generator=generator)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def arguments(self) -> dict[str, Any]:
        """Of a call for one image, but generator and output type."""
        ask = self.holder.get_dummy_inputs
        given: dict[str, Any] = (
            ask("cpu") if "device" in inspect.signature(ask).parameters else ask()
        )
        for name in ("generator", "output_type", "num_images_per_prompt"):
            given.pop(name, None)
        prompt = given.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            given["prompt"] = prompt[0]
        if "num_inference_steps" in given:
            given["num_inference_steps"] = max(STEPS, given["num_inference_steps"])
        return given


def cases(checkout: Path) -> Iterator[SweepCase]:
    """One case per pipeline class and test module, in the order of the files.

    Args:
        checkout: a clone of diffusers; its tests import `parameterized` and `requests_mock`.
    """
    sys.path.insert(0, str(checkout))
    seen: set[str] = set()
    for path in sorted(checkout.glob("tests/pipelines/*/**/test_*.py")):
        module = importlib.import_module(".".join(path.relative_to(checkout).with_suffix("").parts))
        holders: dict[str, Any] = {}
        for kind in vars(module).values():
            if not isinstance(kind, type) or kind.__module__ != module.__name__:
                continue
            pipeline = getattr(kind, "pipeline_class", None)
            if isinstance(pipeline, type) and hasattr(kind, "get_dummy_components"):
                holders.setdefault(_own_name(pipeline), kind)
        for name, kind in holders.items():
            variant = path.stem.removeprefix("test_") if name in seen else ""
            seen.add(name)
            yield SweepCase(name, variant, kind())


def _own_name(pipeline: type[Any]) -> str:
    """Of diffusers' class: some tests wrap it."""
    own = (c.__name__ for c in pipeline.__mro__ if c.__module__.startswith("diffusers."))
    return next(own)


# ------------------------------------------------------------------------------ without the Hub


def offline() -> None:
    """Everything that diffusers' tests load from the Hub is a tiny stand-in from here on."""
    for loader in (PreTrainedTokenizerBase, transformers.AutoTokenizer):
        loader.from_pretrained = classmethod(_tokenizer)
    transformers.AutoConfig.from_pretrained = classmethod(_t5_config)
    transformers.AutoProcessor.from_pretrained = classmethod(_processor)
    for name in ("Qwen2VLProcessor", "Qwen3VLProcessor"):
        getattr(transformers, name).from_pretrained = classmethod(_processor)
    for name, config in _ENCODERS.items():
        getattr(transformers, name).from_pretrained = classmethod(_random(config))


def _tokenizer(cls: type[Any], name: Any, *args: Any, **kwargs: Any) -> Any:
    return tiny_tokenizer() if cls.__name__.startswith("CLIP") else byte_tokenizer(512)


def _processor(cls: type[Any], name: Any, *args: Any, **kwargs: Any) -> Any:
    """Of text and pictures, as Qwen's."""
    return transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=byte_tokenizer(512),
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=byte_tokenizer(512).chat_template,
    )


def _t5_config(cls: type[Any], name: Any, *args: Any, **kwargs: Any) -> T5Config:
    return T5Config(vocab_size=1103, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)


_TOWER: dict[str, Any] = {
    "vocab_size": 1103,
    "hidden_size": WIDTH,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_ENCODERS: dict[str, Any] = {
    "T5EncoderModel": lambda: _t5_config(T5Config, ""),
    "UMT5EncoderModel": lambda: transformers.UMT5Config(
        vocab_size=1103, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    ),
    "BertModel": lambda: transformers.BertConfig(**_TOWER),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**_TOWER | {"hidden_size": 16}),
    "SiglipVisionModel": lambda: transformers.SiglipVisionConfig(
        **{k: v for k, v in _TOWER.items() if k != "vocab_size"}, image_size=30, patch_size=2
    ),
}


def _random(config: Any) -> Any:
    def from_pretrained(cls: type[Any], name: Any, *args: Any, **kwargs: Any) -> Any:
        return cls(config())

    return from_pretrained
