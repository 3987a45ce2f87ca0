"""The words that a captioner trained here knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipguide.files import atomic_path

PAD, START, END, UNKNOWN = range(4)
"""Tokens that are no words: beside the end, before the first word, after the last, any other."""
_NAMES = ("<pad>", "<s>", "</s>", "<unk>")
FILE = "tokenizer.json"
_NO_LETTER = r"[^\w' -]+"


class Vocabulary:
    """Words in small letters, split at spaces and punctuation, as a `tokenizers.Tokenizer`.

    Args:
        tokenizer: of words alone; its first four are `PAD`, `START`, `END`, `UNKNOWN`.

    Example:
        >>> words = Vocabulary.of(["A dog runs .", "A dog"], least=1)
        >>> words.encode("a dog flies!"), words.decode([4, 5])
        ([4, 5, 3], 'a dog')
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.size = int(tokenizer.get_vocab_size())

    @classmethod
    def of(cls, captions: Sequence[str], least: int) -> Vocabulary:
        """The words that stand in captions at least `least` times, the most frequent first.

        Raises:
            ValueError: there is none.
        """
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        empty = Tokenizer(models.WordLevel(dict(zip(_NAMES, range(4), strict=True)), _NAMES[3]))
        lower: Any = normalizers.Lowercase()
        replace: Any = normalizers.Replace(Regex(_NO_LETTER), " ")
        empty.normalizer = normalizers.Sequence([lower, replace])  # pyright: ignore[reportAttributeAccessIssue]
        empty.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(lower_words(empty, caption))
        words = sorted((w for w, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))
        if not words:
            raise ValueError(
                f"got no word that stands {least} times in the captions, expected some"
            )
        ids = {word: number for number, word in enumerate([*_NAMES, *words])}
        empty.model = models.WordLevel(ids, _NAMES[3])
        return cls(empty)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """What `save` wrote."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(folder / FILE)))

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        with atomic_path(folder / FILE) as path:
            self._tokenizer.save(str(path))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The words, between spaces; tokens that are no words are left out."""
        words = [token for token in tokens if token > UNKNOWN]
        return " ".join(str(self._tokenizer.id_to_token(token)) for token in words)

    def first_unknown(self, text: str, tokens: Sequence[int]) -> str:
        """The first word of a text that is not in the vocabulary; "" where all are."""
        found = UNKNOWN in tokens
        return lower_words(self._tokenizer, text)[[*tokens].index(UNKNOWN)] if found else ""

    def targets(self, texts: Sequence[str], longest: int) -> Tensor:
        """(B, T) tokens with the end, `PAD` behind it; a text beyond `longest` words is cut."""
        rows = [[*self.encode(text)[:longest], END] for text in texts]
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def lower_words(tokenizer: Any, text: str) -> list[str]:
    """The words of a text, before a vocabulary is known."""
    normal = str(tokenizer.normalizer.normalize_str(text))
    return [str(word) for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
