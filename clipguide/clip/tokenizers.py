"""What a tokenizer of transformers can do for a text tower: looked at when a model is loaded.

A text vector is read at the model's own marks (start, end, padding); they stand where the tokenizer
puts them, and nothing that a user writes becomes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

_NO_LIMIT = 10**6  # a tokenizer without a limit says 10**30
_POSITIONS = ("position_embedding", "position_embeddings", "wpe")
_TOKENS = ("token_embedding", "word_embeddings", "embed_tokens", "wte")


class PromptTokens:
    """Prompts as token ids, special tokens included, padding and limit left out.

    A special token's name in a prompt (`<|endoftext|>`, `[SEP]`) is text like any other: it is
    taken apart, as transformers' `split_special_tokens` does.

    Args:
        name: of the model, for messages.
        tokenizer: of transformers.

    Example:
        >>> from clipguide import load_starter
        >>> tokenizer = load_starter().tokenizer
        >>> PromptTokens("starter", tokenizer)("a red star").count(tokenizer.eos_token_id)
        1
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self._name, self._tokenizer = name, tokenizer
        self._special = special_ids(tokenizer)
        self._own = self._count(self._encode(""))

    def __call__(self, prompt: str) -> list[int]:
        """Token ids of a prompt.

        Raises:
            ValueError: a special token that the tokenizer does not take apart, or a prompt that it
                cannot read, as without a token for what it does not know.
        """
        tokens = self._encode(prompt)
        if self._count(tokens) <= self._own:
            return tokens
        tokens = self._encode(prompt, split_special_tokens=True)
        check_special(self._name, prompt, self._count(tokens), self._own)
        return tokens

    def _encode(self, prompt: str, **settings: bool) -> list[int]:
        try:
            encoded = self._tokenizer(prompt, truncation=False, verbose=False, **settings)
        except Exception as error:  # tokenizers raises nothing narrower
            reason = str(error).partition("\n")[0][:160]
            raise ValueError(
                f"{self._name}: got a tokenizer that cannot read {prompt[:60]!r} ({reason})"
            ) from error
        return [int(token) for token in encoded["input_ids"]]

    def _count(self, tokens: Sequence[int]) -> int:
        return sum(token in self._special for token in tokens)


def check_special(name: str, prompt: str, found: int, own: int) -> None:
    """Refuse a prompt with more special tokens than the tokenizer itself puts around a text.

    Raises:
        ValueError: what follows one of them might not be read.
    """
    if found > own:
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        raise ValueError(
            f"{name}: got prompt {shown!r} with a special token of the model's in it (such as "
            "<|endoftext|>), expected words alone: what follows it would not be read"
        )


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Start, end, padding and the like; the token of unknown words only where it is one of them."""
    unknown = tokenizer.unk_token_id
    marks = {
        getattr(tokenizer, f"{mark}_token_id", None)
        for mark in ("bos", "eos", "cls", "sep", "pad", "mask")
    }
    found = {int(token) for token in tokenizer.all_special_ids}
    return frozenset(found if unknown in marks else found - {unknown})


def check_tokenizer(name: str, tokenizer: Any, text: nn.Module) -> None:
    """Refuse a tokenizer that cannot serve its text tower.

    Args:
        name: of the model, for messages.
        tokenizer: of transformers.
        text: the text tower.

    Raises:
        ValueError: no vocabulary (its files are missing), no token to pad with, or
            tokens that the tower has no vectors of.
    """
    words: dict[str, int] = tokenizer.get_vocab()
    special = {int(token) for token in tokenizer.all_special_ids}
    if len(set(words.values()) - special) < 2:
        raise ValueError(
            f"{name}: got a tokenizer of {len(words)} tokens, expected a vocabulary: is its file "
            "missing (tokenizer.json, or vocab.json and merges.txt, vocab.txt, or a .model)?"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{name}: got a tokenizer without pad_token, expected one")
    check_largest(name, max([*words.values(), *special]), text)


def check_largest(name: str, last: int, text: nn.Module) -> None:
    """ValueError where a text tower has no vector of the tokenizer's `last` token."""
    table = _table(text, _TOKENS)
    if table is not None and last >= table.num_embeddings:
        raise ValueError(
            f"{name}: got a tokenizer with token {last}, expected at most "
            f"{table.num_embeddings - 1}: the text tower has no vectors of others"
        )


def check_padding_side(name: str, tokenizer: Any) -> None:
    """ValueError for padding on the left, which would move the places of a batch's shorter texts.

    Towers that read texts padded to the whole context (SigLIP) may have it: the places are fixed.
    """
    if tokenizer.padding_side != "right":
        got = f"a tokenizer that pads on the {tokenizer.padding_side}"
        raise ValueError(f"{name}: got {got}, expected padding_side right")


def end_at_the_tokenizers(name: str, tokenizer: Any, text: nn.Module) -> None:
    """Let a text tower of CLIP read its vector where the tokenizer ends a text.

    Configurations of before July 2023 say `eos_token_id` 2, by which transformers takes the
    largest token id for the end: right until tokens are added behind it
    (https://github.com/huggingface/transformers/pull/24773). Such a tower is given the id itself.

    Raises:
        ValueError: another end than the tokenizer's: every text would be read at its start.
    """
    end = tokenizer.eos_token_id
    for part in text.modules():
        given: object = getattr(part, "eos_token_id", None)
        if not isinstance(given, int) or given == end:
            continue
        if given != 2 or end is None:
            got = f"a text tower with eos_token_id {given} and a tokenizer with {end}"
            raise ValueError(f"{name}: got {got}, expected the same")
        part.eos_token_id = end  # pyright: ignore[reportAttributeAccessIssue]


def context_length_of(name: str, tokenizer: Any, text: nn.Module, config: Any) -> int:
    """The most tokens that a text tower of transformers reads.

    The least of the tokenizer's limit and of the positions that the tower has, of which the
    RoBERTa family leaves out those up to its padding (`max_position_embeddings` - 2 in all of
    its released models).

    Raises:
        ValueError: neither is known, or there are fewer than 3.
    """
    positions = _positions(text) or getattr(config, "max_position_embeddings", None)
    limits = (getattr(tokenizer, "model_max_length", None), positions)
    known = [int(limit) for limit in limits if limit is not None and limit < _NO_LIMIT]
    if not known or min(known) < 3:
        got = f"{min(known)} tokens" if known else "no limit"
        raise ValueError(f"{name}: got {got} as context of the text tower, expected at least 3")
    return min(known)


def check_context(name: str, context_length: int, text: nn.Module) -> None:
    """ValueError where a text tower has fewer positions than `context_length`."""
    positions = _positions(text)
    if positions is not None and context_length > positions:
        raise ValueError(
            f"{name}: got context_length {context_length}, expected at most {positions}, the "
            "positions of the text tower"
        )


def _positions(text: nn.Module) -> int | None:
    table = _table(text, _POSITIONS)
    if table is None:
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _table(tower: nn.Module, names: Sequence[str]) -> nn.Embedding | None:
    """The first embedding of a tower under one of these names."""
    for path, part in tower.named_modules():
        if isinstance(part, nn.Embedding) and path.rpartition(".")[2] in names:
            return part
    return None
