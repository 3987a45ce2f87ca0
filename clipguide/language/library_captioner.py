"""Captioners of transformers, through their own `generate`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from clipguide.clip.cross_encoder_vqa import check_plain
from clipguide.language.captioner import LONGEST, Captioner, LogProb, Request, Written

Inputs = Mapping[str, Tensor]
ASK = "Describe this image in one short sentence."
"""What a model that is talked to is asked."""
_GIT_COUNTS_WORDS = (5, 18)
"""The first transformers whose GIT counts words alone where it remembers what it read."""


class LibraryCaptioner(Captioner):
    """What the families have in common: tokens after a start, up to the model's own end.

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        tokenizer: its own.
    """

    def __init__(self, name: str, module: nn.Module, tokenizer: Any) -> None:
        super().__init__(name, module)
        self._tokenizer = tokenizer
        self.model: Any = module

    @property
    @abstractmethod
    def ends(self) -> tuple[int, ...]:
        """The tokens that may stand after the last word: each ends a caption."""

    @abstractmethod
    def inputs(self, images: Sequence[Image.Image]) -> Inputs:
        """What `generate` takes beside its options; tokens, `input_ids`, where it is talked to."""

    @abstractmethod
    def start(self, inputs: Inputs) -> list[int]:
        """The tokens that stand before the first word."""

    @abstractmethod
    def logits(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """(B, T, V) of what follows each of tokens (B, T), the start with them."""

    @property
    def options(self) -> dict[str, Any]:
        """What else `generate` is told."""
        return {}

    def groups(self, images: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
        """Images that are given to the model at once."""
        return [images]

    def write(
        self, images: Sequence[Image.Image], request: Request, generator: torch.Generator | None
    ) -> list[list[Written]]:
        return [
            written
            for group in self.groups(images)
            for written in self._write(self.inputs(group), len(group), request, generator)
        ]

    def _write(
        self, inputs: Inputs, images: int, request: Request, generator: torch.Generator | None
    ) -> list[list[Written]]:
        found = self._generated(inputs, request, generator).tolist()
        begin = self.start(inputs)
        rows = [self._until_end(row[len(begin) :]) for row in found]
        repeated = {k: _repeated(v, images, request.count) for k, v in inputs.items()}
        sums = self._sums(repeated, rows).tolist()
        made = [
            Written(self.decode(row), total, len(row))
            for row, total in zip(rows, sums, strict=True)
        ]
        several = [made[at * request.count : (at + 1) * request.count] for at in range(images)]
        return [sorted(some, key=lambda one: -one.log_prob / one.tokens) for some in several]

    def _generated(
        self, inputs: Inputs, request: Request, generator: torch.Generator | None
    ) -> Tensor:
        """Tokens (B * count, T), the start with them."""
        options = {
            "num_beams": request.width, "num_return_sequences": request.count,
            "max_new_tokens": LONGEST, "do_sample": False, **self.options,
        }  # fmt: skip
        if request.method != "sample":
            return self.model.generate(**inputs, **options)
        drawn = {**options, "do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        seed = int(torch.randint(2**31, (1,), generator=generator))
        with torch.random.fork_rng():  # it draws from torch's own generator
            torch.manual_seed(seed)
            return self.model.generate(**inputs, **drawn)

    def _until_end(self, tokens: Sequence[int]) -> list[int]:
        """Up to and with the first end."""
        stops = [place for place, token in enumerate(tokens) if token in self.ends]
        return [*tokens[: stops[0] + 1]] if stops else [*tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._tokenizer.decode([*tokens], skip_special_tokens=True)).strip()

    def likelihood(self, images: Sequence[Image.Image], texts: Sequence[str]) -> LogProb:
        rows = [[*self.encode(text), self.ends[0]] for text in texts]
        sums: list[Tensor] = []
        at = 0
        for group in self.groups(images):
            sums.append(self._sums(self.inputs(group), rows[at : at + len(group)]))
            at += len(group)
        sentence = torch.cat(sums)
        return LogProb(sentence, sentence / torch.tensor([len(row) for row in rows]))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text alone.

        Raises:
            ValueError: a text with one of the model's special tokens in it.
        """
        check_plain(self.name, self._tokenizer, text)
        return [int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _sums(self, inputs: Inputs, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B,) log-probabilities of rows of tokens after the start; of an end that of all ends."""
        begin = self.start(inputs)
        self._check_context(len(begin), max(map(len, rows)))
        whole = [torch.tensor([*begin, *row]) for row in rows]
        # behind the end may stand any word: the models are causal, and it is not counted
        tokens = pad_sequence(whole, batch_first=True, padding_value=begin[-1]).to(self.device)
        chances = self.logits(inputs, tokens[:, :-1]).float().log_softmax(dim=-1)
        ends = [*self.ends]
        chances[..., ends] = chances[..., ends].logsumexp(dim=-1, keepdim=True)
        found = chances.gather(2, tokens[:, 1:, None])[..., 0].cpu()
        last = torch.tensor([len(begin) + len(row) - 1 for row in rows])
        place = torch.arange(found.shape[1])
        told = (place >= len(begin) - 1) & (place < last[:, None])
        return found.masked_fill(~told, 0.0).sum(dim=1)

    def _check_context(self, begin: int, row: int) -> None:
        """ValueError for a text beyond what the model reads, where it says how much that is; the
        end of `row` tokens is not read."""
        most: int | None = getattr(
            self.model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        if most is not None and begin + row - 1 > most:
            told = f"got a text of {row - 1} tokens, expected at most {max(0, most - begin)}"
            raise ValueError(f"{self.name}: {told} after the {begin} that it reads first")


def _repeated(value: Tensor, images: int, count: int) -> Tensor:
    """What is given of images, `count` times each; of one image it may have any form (patches)."""
    return torch.cat([value] * count) if images == 1 else value.repeat_interleave(count, dim=0)


def _listed(found: int | Sequence[int]) -> tuple[int, ...]:
    return (int(found),) if isinstance(found, int) else tuple(int(one) for one in found)


class _PixelCaptioner(LibraryCaptioner):
    """A model that is given pixels alone.

    Args:
        name, module, tokenizer: as of `LibraryCaptioner`.
        image_processor: its own, from a PIL image to pixels.
    """

    def __init__(self, name: str, module: nn.Module, tokenizer: Any, image_processor: Any) -> None:
        super().__init__(name, module, tokenizer)
        self._image_processor = image_processor

    def inputs(self, images: Sequence[Image.Image]) -> Inputs:
        pixels: Mapping[str, Tensor] = self._image_processor(images=[*images], return_tensors="pt")
        dtype = next(self.module.parameters()).dtype
        return {"pixel_values": pixels["pixel_values"].to(self.device, dtype)}


class BlipCaptioner(_PixelCaptioner):
    """`BlipForConditionalGeneration` (Li et al. 2022, https://arxiv.org/abs/2201.12086)."""

    @property
    def ends(self) -> tuple[int, ...]:
        return (int(self.model.config.text_config.sep_token_id),)

    def start(self, inputs: Inputs) -> list[int]:
        return [int(self.model.config.text_config.bos_token_id)]

    def logits(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, **inputs).logits


class GitCaptioner(_PixelCaptioner):
    """`GitForCausalLM` (Wang et al. 2022, https://arxiv.org/abs/2205.14100).

    Before transformers 5.18 its `generate` adds the image's places to the positions of the words
    after the first, where it remembers what it read, and runs out of them; there it is told to
    read everything anew for each word: the same captions, slower.
    """

    @property
    def options(self) -> dict[str, Any]:
        from transformers import __version__ as version

        major, minor = (int(part) for part in version.split(".")[:2])
        return {} if (major, minor) >= _GIT_COUNTS_WORDS else {"use_cache": False}

    @property
    def ends(self) -> tuple[int, ...]:
        return _listed(self.model.config.eos_token_id)

    def start(self, inputs: Inputs) -> list[int]:
        return [int(self.model.config.bos_token_id)]

    def logits(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        found: Tensor = self.model(input_ids=tokens, **inputs).logits
        return found[:, -tokens.shape[1] :]  # the image's places come first


class EncoderDecoderCaptioner(_PixelCaptioner):
    """`VisionEncoderDecoderModel` (as in TrOCR, Li et al. 2021, https://arxiv.org/abs/2109.10282)."""

    @property
    def _settings(self) -> Any:
        return self.model.generation_config

    @property
    def ends(self) -> tuple[int, ...]:
        return _listed(self._settings.eos_token_id)

    def start(self, inputs: Inputs) -> list[int]:
        first = self._settings.decoder_start_token_id
        return [int(self._settings.bos_token_id if first is None else first)]

    def logits(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        return self.model(decoder_input_ids=tokens, **inputs).logits


class TalkingCaptioner(LibraryCaptioner):
    """An image-text-to-text model with a chat template, asked `ASK`; one image at a time.

    Args:
        name, module: as of `LibraryCaptioner`.
        processor: chat template, tokenizer, image processor.
        question: what it is asked.
    """

    def __init__(self, name: str, module: nn.Module, processor: Any, question: str = ASK) -> None:
        super().__init__(name, module, processor.tokenizer)
        self._processor, self.question = processor, question

    @property
    def ends(self) -> tuple[int, ...]:
        found = self.model.generation_config.eos_token_id
        return _listed(self._tokenizer.eos_token_id if found is None else found)

    @property
    def options(self) -> dict[str, Any]:
        """It never writes the token that stands for a picture."""
        image = getattr(self.model.config, "image_token_id", None)
        return {} if image is None else {"suppress_tokens": [int(image)]}

    def groups(self, images: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
        return [[image] for image in images]

    def inputs(self, images: Sequence[Image.Image]) -> Inputs:
        said = [{"type": "image", "image": images[0]}, {"type": "text", "text": self.question}]
        found: Any = self._processor.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
        return dict(found.to(self.device, next(self.module.parameters()).dtype))

    def start(self, inputs: Inputs) -> list[int]:
        return [int(token) for token in inputs["input_ids"][0].tolist()]

    def logits(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        for key in rest.keys() & {"token_type_ids", "mm_token_type_ids"}:  # 0: a word, no picture
            rest[key] = pad(rest[key], (0, tokens.shape[1] - rest[key].shape[1]))
        return self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **rest).logits
