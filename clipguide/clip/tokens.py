"""Prompts longer than a model reads: cut so that the end-of-text token stays, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence


class PromptTruncated(UserWarning):
    """A prompt has more tokens than the model reads; the warning gives both counts."""


def truncate(tokens: Sequence[int], context_length: int, prompt: str) -> list[int]:
    """The first `context_length` tokens, the last of them being the prompt's own last token.

    CLIP reads its text vector at the end-of-text token: cutting it off changes the vector of a
    prompt that is one word too long beyond recognition.

    Args:
        tokens: with the model's special tokens, the last of which ends the text.
        context_length: tokens the model reads.
        prompt: for the warning.

    Warns:
        PromptTruncated: got N tokens, kept M.
    """
    if len(tokens) <= context_length:
        return list(tokens)
    shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
    warnings.warn(
        f"prompt {shown!r}: got {len(tokens)} tokens, kept {context_length} (the end is not read)",
        PromptTruncated,
        stacklevel=2,
    )
    return [*tokens[: context_length - 1], tokens[-1]]
