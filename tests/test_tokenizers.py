"""Text sides of models: what they cannot do is refused at loading, and a prompt is words alone."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import tiny_image, tiny_text
from tiny_backbones import tiny_tokenizer as backbone_tokenizer
from tiny_clip import END, START, tiny_clip_dir, tiny_tokenizer
from tiny_text_models import MODELS, change, refused, saved, words_tokenizer
from torch.nn import functional
from transformers import (
    AutoTokenizer,
)

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.tokens import PromptTruncated
from clipguide.clip.towers import NoTower, Tower


def of_tokens(scorer: Scorer, *rows: list[int]) -> torch.Tensor:
    """Vectors of token ids by the library's own model, one text at a time."""
    model: Any = scorer.model.module
    with torch.no_grad():
        outputs = [model.get_text_features(input_ids=torch.tensor([row])) for row in rows]
    found = torch.cat([getattr(output, "pooler_output", output) for output in outputs])
    return functional.normalize(found, dim=-1)


@pytest.mark.parametrize("kind", ["clip", *MODELS])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path, kind)
    load_scorer(f"hf:{folder}")
    (folder / "tokenizer.json").unlink()
    refused(f"hf:{folder}", "tokenizer|cannot be loaded")
    (folder / "tokenizer_config.json").unlink()
    refused(f"hf:{folder}", "tokenizer|cannot be loaded")


def added_clip(folder: Path, end: int) -> Path:
    """A CLIP with two words added behind the end token, whose settings name another end."""
    tiny_clip_dir(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(folder)
    weights, table = (
        load_file(folder / "model.safetensors"),
        "text_model.embeddings.token_embedding",
    )
    known = weights[f"{table}.weight"]
    weights[f"{table}.weight"] = torch.cat([known, known[:2].flip(1)])  # (516, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"] |= {"eos_token_id": end, "vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_legacy_end_is_read_at_the_tokenizers(tmp_path: Path) -> None:
    """Truth: transformers with the right eos_token_id, and what follows the added word counts."""
    end = tiny_tokenizer().eos_token_id
    legacy = load_scorer(added_clip(tmp_path / "legacy", 2))
    right = load_scorer(added_clip(tmp_path / "right", end))
    prompts = ["a zebra b", "a zebra c", "a yak", "a dog", "a zebra and a long tail"]
    assert torch.equal(legacy.encode_text(prompts), right.encode_text(prompts))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "right")
    truth = of_tokens(right, *(tokenizer(prompt)["input_ids"] for prompt in prompts))
    assert torch.allclose(legacy.encode_text(prompts), truth, atol=1e-6)
    assert float((truth[0] * truth[1]).sum()) < 0.999


def test_another_end_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    refused(added_clip(tmp_path, 7), "got a text tower with eos_token_id 7 and a tokenizer with")


@pytest.mark.parametrize("mark", [START, END])
def test_a_mark_in_a_prompt_is_text(tmp_path: Path, mark: str) -> None:
    folder = tiny_clip_dir(tmp_path)
    scorer, tokenizer = load_scorer(folder), AutoTokenizer.from_pretrained(folder)
    prompts = [f"a {mark} dog", f"a {mark} cat", f"{mark}", f"{mark}{mark}a"]
    rows = [tokenizer(prompt, split_special_tokens=True)["input_ids"] for prompt in prompts]
    assert all(row.count(512) == 1 and row.count(513) == 1 for row in rows)
    got = scorer.encode_text(prompts)
    assert torch.allclose(got, of_tokens(scorer, *rows), atol=1e-6)
    assert float((got[0] * got[1]).sum()) < 0.999
    with pytest.raises(NoTower):  # a search's half of the model leaves it to the whole
        Tower("clip", folder, "text", scorer.preprocess).encode_text(prompts[:1])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mark", ["</s>", "<pad>", "<s>"])
def test_a_mark_of_other_models_is_text(tmp_path: Path, kind: str, mark: str) -> None:
    """Taken apart, its letters are words this tokenizer does not know: `<unk>`, as other text."""
    scorer = load_scorer(saved(tmp_path, kind))
    name = mark.strip("</>")
    apart = f"{mark[: mark.index(name)]} {name} > dog"
    got = scorer.encode_text([f"{mark} dog", apart, f"{mark} cat"])
    assert torch.allclose(got[0], got[1], atol=1e-6)
    assert float((got[0] * got[2]).sum()) < 0.999


def test_marks_of_open_clip_are_refused(tiny_open_clip: str) -> None:
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    for prompt in ("a <end_of_text> dog", "<START_OF_TEXT>", "a &lt;end_of_text&gt; dog"):
        with pytest.raises(ValueError, match="special token of the model's in it"):
            scorer.encode_text(prompt)
    assert len(scorer.encode_text(["end_of_text", "<end of text>"])) == 2


def test_text_sides_of_dual_encoders() -> None:
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(32, 32), crop=(32, 32), mean=half, std=half)
    parts: tuple[Any, ...] = tiny_text(), tiny_image(), backbone_tokenizer()
    dual, mark = DualEncoder(*parts, DualEncoderConfig(preprocess)), parts[2].sep_token_id
    [tokens] = dual.tokenize([f"the {parts[2].sep_token} dog"])["input_ids"].tolist()
    assert tokens.count(mark) == 1
    with pytest.raises(ValueError, match="got context_length 513, expected at most 512"):
        DualEncoder(*parts, DualEncoderConfig(preprocess, context_length=513))
    with pytest.raises(ValueError, match="expected a centre crop"):
        DualEncoder(*parts, DualEncoderConfig(replace(preprocess, crop=None)))
    parts[2].pad_token = None
    with pytest.raises(ValueError, match="without pad_token"):
        DualEncoder(*parts, DualEncoderConfig(preprocess))


def test_roberta_reads_two_positions_less(tmp_path: Path) -> None:
    scorer = load_scorer(saved(tmp_path, "altclip"))
    assert scorer.context_length == 18  # max_position_embeddings - 2
    ids = [0, *[4] * 40, 2]
    with pytest.warns(PromptTruncated, match="got 42 tokens, kept 18"):
        got = scorer.encode_text("a " * 40)
    assert torch.allclose(got, of_tokens(scorer, [*ids[:17], 2]), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.encode_text("a " * 16)


@pytest.mark.parametrize(("kind", "length"), [("chinese_clip", 20), ("siglip", 8)])
def test_other_towers_read_all_their_positions(tmp_path: Path, kind: str, length: int) -> None:
    assert load_scorer(saved(tmp_path / "a", kind)).context_length == length
    tokenizer = words_tokenizer(model_max_length=6)
    assert load_scorer(saved(tmp_path / "b", kind, tokenizer)).context_length == 6
    refused(saved(tmp_path / "c", kind, words_tokenizer(model_max_length=2)), "got 2 tokens as con")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pad_token": ...}, "without pad_token"),
        ({"padding_side": "left"}, "pads on the left, expected padding_side right"),
        ({"pad_token": "<new>"}, "got a tokenizer with token 15, expected at most 14"),
    ],
)
def test_tokenizers_that_do_not_serve_are_refused(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    folder = saved(tmp_path, "altclip")
    change(folder / "tokenizer_config.json", **settings)
    refused(folder, words)


def test_a_larger_vocabulary_than_the_towers_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tiny_clip_dir(tmp_path))
    refused(tmp_path, "got a tokenizer with token 514, expected at most 513")


def open_clip_folder(folder: Path, vocab: int, tokenizer: Any, **text: object) -> Path:
    """A folder of open_clip with a tokenizer of transformers in it."""
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {
            "context_length": 12, "vocab_size": vocab, "width": 32, "heads": 2, "layers": 1,
            "hf_tokenizer_name": "local", **text,
        },
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": config, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


def test_open_clip_with_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    scorer = load_scorer(open_clip_folder(tmp_path / "good", 514, tiny_tokenizer()))
    with pytest.raises(ValueError, match="special token of the model's in it"):
        scorer.encode_text(f"a {END} dog")
    small = open_clip_folder(tmp_path / "small", 500, tiny_tokenizer())
    refused(small, "got a tokenizer with token 513, expected at most 499")
    added = tiny_tokenizer()
    added.add_tokens(["zebra"])
    behind = open_clip_folder(tmp_path / "behind", 515, added)
    refused(behind, "read at the largest token id and a tokenizer that ends with 513")
    other = open_clip_folder(tmp_path / "end", 514, tiny_tokenizer(), pool_type="eos", eos_id=2)
    refused(other, "read at token 2 and a tokenizer that ends with 513")
    (tmp_path / "good" / "tokenizer.json").unlink()
    refused(tmp_path / "good", "expected a vocabulary|cannot be loaded")
