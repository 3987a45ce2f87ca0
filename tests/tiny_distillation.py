"""A latent scorer made on toys: pictures, a teacher, an autoencoder, a run."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from tiny_backbones import toy_captions
from tiny_clip import tiny_clip_dir
from torch import Tensor

from clipguide.training.distillation_config import DistillConfig
from clipguide.training.distillation_run import DistillationRun
from clipguide.training.run_config import read_run_config


def tiny_autoencoder(folder: Path, channels: int = 4, seed: int = 0) -> Path:
    """TAESD's class: 8 pixels a latent cell."""
    torch.manual_seed(seed)
    widths = (8, 8, 8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=channels,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def latent_toys(folder: Path) -> Path:
    """Pictures, a teacher, an autoencoder, and a configuration."""
    toy_captions(folder)
    tiny_clip_dir(folder / "clip")
    tiny_autoencoder(folder / "vae")
    split = ['captions = "captions.tsv"', 'images = "images"']
    lines = [
        'output = ""', "[data.train]", *split, "[data.dev]", *split,
        "[latent]", 'teacher = "./clip"', 'autoencoder = "./vae"', "image_size = 64",
        "stem_width = 16", "stem_blocks = 1", "[train]", "stem_epochs = 1", "stem_batch = 6",
        "epochs = 2", "batch = 5", "views = 2", "others = 6", "warmup = 1", "save_every = 1",
        "levels = [0, 0.7]",
    ]  # fmt: skip
    (folder / "toy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recall(images: Tensor, texts: Tensor, owners: Tensor) -> float:
    """Of every caption's own picture among the first ten, counted one by one."""
    order = (texts @ images.T).argsort(dim=1, descending=True)[:, :10]
    return 100 * sum(int(o in row) for o, row in zip(owners, order, strict=True)) / len(owners)


def run_of(toys: Path, output: Path, *changes: str) -> DistillationRun:
    places = [f"output={output}", f"cache={toys / 'cache'}"]
    config = read_run_config(toys / "toy.toml", [*places, *changes], DistillConfig)
    return DistillationRun(config, recall, lambda line: None)
