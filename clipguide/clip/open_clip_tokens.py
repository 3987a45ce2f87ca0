"""What a tokenizer of open_clip makes of a prompt before it cuts it, and what its tower reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from clipguide.clip.tokenizers import (
    check_largest,
    check_special,
    check_tokenizer,
    special_ids,
)


class OpenClipTokens:
    """A prompt's token ids, start and end included, as open_clip's tokenizers see it before they
    cut it silently.

    Args:
        name: of the model, for messages.
        tokenizer: the result of `open_clip.get_tokenizer`.
        model: the open_clip model.

    Raises:
        ValueError: a tokenizer that does not go with the text tower.
    """

    def __init__(self, name: str, tokenizer: Any, model: Any) -> None:
        self._name, self._tokenizer = name, tokenizer
        self._inner: Any = getattr(tokenizer, "tokenizer", None)  # one of transformers
        if self._inner is None:  # SimpleTokenizer: its `encode` leaves start and end to the caller
            check_largest(name, int(tokenizer.vocab_size) - 1, getattr(model, "text", model))
            self._special = frozenset(int(token) for token in tokenizer.all_special_ids)
        else:
            check_tokenizer(name, self._inner, getattr(model, "text", model))
            _check_end(name, self._inner, model)
            self._special = special_ids(self._inner)
        self._own = self._count(self._encode(""))

    def __call__(self, prompt: str) -> list[int]:
        """Raises ValueError for a prompt with a special token in it, such as <end_of_text>."""
        tokens = self._encode(prompt)
        check_special(self._name, prompt, self._count(tokens), self._own)
        return tokens

    def _encode(self, prompt: str) -> list[int]:
        if self._inner is None:
            start, end = self._tokenizer.all_special_ids[:2]
            return [start, *self._tokenizer.encode(prompt), end]
        clean: str = self._clean(prompt)
        return [*self._inner(clean, truncation=False, verbose=False)["input_ids"]]

    def _clean(self, prompt: str) -> str:
        if hasattr(self._tokenizer, "clean_fn"):
            return self._tokenizer.clean_fn(prompt)
        from open_clip.tokenizer import get_clean_fn

        return get_clean_fn("canonicalize")(prompt)  # SigLipTokenizer has no other

    def _count(self, tokens: list[int]) -> int:
        return sum(token in self._special for token in tokens)


def _check_end(name: str, tokenizer: Any, model: Any) -> None:
    """Refuse a tower that reads its vector elsewhere than where the tokenizer ends a text."""
    text: nn.Module = getattr(model, "text", model)
    pooled = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if pooled == "argmax" and end != max(tokenizer.get_vocab().values()):
        got = f"a text tower read at the largest token id and a tokenizer that ends with {end}"
        raise ValueError(f"{name}: got {got}, expected the end to be its largest id")
    read = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
    if pooled == "eos" and read != end:
        got = f"a text tower read at token {read} and a tokenizer that ends with {end}"
        raise ValueError(f"{name}: got {got}, expected the same")
