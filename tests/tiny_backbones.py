"""Tiny random text and image encoders of the real classes, and a few pictures with captions."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ConvNextImageProcessor,
    DistilBertConfig,
    DistilBertModel,
    ResNetConfig,
    ResNetModel,
)

COLORS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (250,) * 3}
SHAPES = ("ball", "box", "bar")
WORDS = [*COLORS, *SHAPES, "a", "the", "on", "black", "table", "there", "is", "dog", "left", "of"]
EDGE = 32


def tiny_tokenizer() -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    return BertTokenizer(vocab=vocabulary)


def tiny_text(kind: str = "bert", layers: int = 2) -> torch.nn.Module:
    """BERT or DistilBERT of width 16."""
    torch.manual_seed(0)
    if kind == "distilbert":
        return DistilBertModel(
            DistilBertConfig(vocab_size=64, dim=16, hidden_dim=32, n_layers=layers, n_heads=2)
        ).eval()
    model = BertModel(
        BertConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=2,
        )
    )  # fmt: skip
    return _spread(model, 0.3)


def _spread(model: torch.nn.Module, std: float) -> torch.nn.Module:
    """Larger random weights, so that different inputs have clearly different features."""
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=std)
    return model.eval()


def tiny_image() -> torch.nn.Module:
    """ResNet of four stages, up to 24 channels; with batch normalisation."""
    torch.manual_seed(1)
    return ResNetModel(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], layer_type="basic"
        )
    ).eval()


def tiny_backbones(folder: Path) -> tuple[Path, Path]:
    """Folders of a text and an image backbone, as `from_pretrained` reads them."""
    text, image = folder / "text", folder / "image"
    tiny_text().save_pretrained(text)
    tiny_tokenizer().save_pretrained(text)
    tiny_image().save_pretrained(image)
    ConvNextImageProcessor(
        size={"shortest_edge": EDGE}, crop_pct=1.0, do_resize=True, do_center_crop=True,
        crop_size={"height": EDGE, "width": EDGE}, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(image)  # fmt: skip
    return text, image


def draw(color: str, shape: str) -> Image.Image:
    picture = Image.new("RGB", (40, 36), "black")
    pen, fill = ImageDraw.Draw(picture), COLORS[color]
    if shape == "ball":
        pen.ellipse((8, 6, 30, 28), fill=fill)
    elif shape == "box":
        pen.rectangle((8, 6, 30, 28), fill=fill)
    else:
        pen.rectangle((2, 15, 38, 20), fill=fill)
    return picture


def toy_captions(folder: Path) -> Path:
    """12 pictures in `folder/images`, two captions each in `folder/captions.tsv`."""
    (folder / "images").mkdir(parents=True)
    rows = ["image\tcaption"]
    for color in COLORS:
        for shape in SHAPES:
            name = f"{color}_{shape}.png"
            draw(color, shape).save(folder / "images" / name)
            rows += [f"{name}\ta {color} {shape}", f"{name}\tthere is a {color} {shape} on a table"]
    file = folder / "captions.tsv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def toy_config(folder: Path, **train: object) -> Path:
    """A configuration that trains on the toy pictures; backbones and data are made beside it."""
    text, image = tiny_backbones(folder)
    toy_captions(folder)
    split = ['captions = "captions.tsv"', 'images = "images"']
    settings = {"epochs": 3, "batch": 5, "warmup": 2, "save_every": 2, **train}
    values = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    lines = [
        'output = ""', "[data.train]", *split, "[data.dev]", *split,
        "[model]", f'text = "{text}"', f'image = "{image}"', "embed_dim = 8", "[train]", *values,
    ]  # fmt: skip
    file = folder / "toy.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else re.sub("True|False", str.lower, str(value))
