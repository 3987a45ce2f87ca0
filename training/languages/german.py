"""Pairs of captions of scenes in English and German, and a small text encoder that knows no word.

python -m training.languages.german FOLDER

writes FOLDER/train.tsv, dev.tsv, test.tsv and FOLDER/encoder, for german.toml.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from clipguide.data.scene_captions import phrasings, spec_of, vocabulary
from clipguide.data.scene_captions_german import german_phrasings
from clipguide.data.scenes import pick, sample_scene
from clipguide.files import write_text

FIRST_SEED = 3_000_000
"""Scene i has this seed + i; none of the starter's own training or measurements."""
COUNTS = {"train": 8000, "dev": 500, "test": 500}
SHAPE = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "max_position_embeddings": 48, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def pairs(first: int, count: int) -> list[tuple[str, str]]:
    """Captions of the scenes `first` to `first + count`, each in a phrase that both languages
    have."""
    found: list[tuple[str, str]] = []
    for seed in range(FIRST_SEED + first, FIRST_SEED + first + count):
        rng = Random(seed)
        spec = spec_of(sample_scene(seed), rng)
        found.append(pick(rng, [*zip(phrasings(spec), german_phrasings(spec), strict=True)]))
    return found


def save_encoder(folder: Path, texts: list[str]) -> None:
    """A random encoder over the words of `texts`."""
    words = {word for text in texts for word in re.findall(r"\w+|,", text.lower())}
    known = [*MARKS, *sorted(words | set(vocabulary()))]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    inner.normalizer = Lowercase()
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(known), **SHAPE), add_pooling_layer=False).save_pretrained(
        folder
    )


def main(folder: Path) -> None:
    """All of it."""
    first, texts = 0, list[str]()
    for split, count in COUNTS.items():
        rows = pairs(first, count)
        lines = ["source\ttranslation", *("\t".join(row) for row in rows)]
        write_text(folder / f"{split}.tsv", "\n".join(lines) + "\n")
        first, texts = first + count, texts + [text for row in rows for text in row]
    save_encoder(folder / "encoder", texts)
    print(f"wrote {folder}: {', '.join(f'{n} {s}' for s, n in COUNTS.items())} pairs, and encoder")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
