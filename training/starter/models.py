"""Shapes of the starter's networks, all plain diffusers and transformers classes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

CONTEXT_LENGTH = 28
"""Tokens of a prompt, start and end included: the longest caption of the grammar has 23."""
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")


def build_tokenizer(words: list[str], folder: Path) -> CLIPTokenizer:
    """A byte-level BPE tokenizer: each of ``words`` is one token, any other text still encodes."""
    letters = _byte_letters()
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        left, *rest = _split(word, merges)
        for right in rest:
            merges.append((left, right))
            left += right
    vocabulary += dict.fromkeys(left + right for left, right in merges)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    table = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(table, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT_LENGTH)


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The tokens of ``word`` under ``merges`` so far, the earliest merge first (BPE's rule)."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [pair for pair in pairwise(parts) if pair in merges]
        if not pairs:
            return parts
        pair = min(pairs, key=merges.index)
        at = next(i for i in range(len(parts)) if (parts[i], *parts[i + 1 : i + 2]) == pair)
        parts[at : at + 2] = ["".join(pair)]


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins of GPT-2's byte-level BPE, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def build_clip(
    tokenizer: CLIPTokenizer, *, image_size: int, patch: int, width: int, layers: int,
    text_width: int, text_layers: int, dimensions: int,
) -> CLIPModel:  # fmt: skip
    """A small CLIPModel whose position embeddings start on the scale of its token embeddings.

    Position embeddings that start small (transformers' 0.02 x factor) leave the text tower a bag of
    words: word order is then too faint a signal for the contrastive loss to pick up.
    """
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=text_width, intermediate_size=4 * text_width,
        num_hidden_layers=text_layers, num_attention_heads=text_width // 32,
        max_position_embeddings=CONTEXT_LENGTH, projection_dim=dimensions, hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, image_size=image_size, patch_size=patch,
        projection_dim=dimensions, hidden_act="gelu",
    )  # fmt: skip
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(),
                   projection_dim=dimensions)
    )  # fmt: skip
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.normal_(std=0.05)
        model.text_model.embeddings.position_embedding.weight.normal_(std=0.05)
        model.vision_model.embeddings.position_embedding.weight.normal_(std=0.2)
    return model


def build_image_processor(image_size: int) -> CLIPImageProcessor:
    """Bicubic resize of the short side, centre crop, mean and deviation of our scenes, rounded."""
    return CLIPImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size},
        image_mean=MEAN, image_std=STD, resample=3,
    )  # fmt: skip


def build_vae() -> AutoencoderTiny:
    """8x down, 4 channels, 0.25 M parameters; no normalisation over space, so it trains on crops.

    An AutoencoderKL of the same cost (16/32/64/64 channels, group norms) was still grey after 600
    steps; this one has colours after 100.
    """
    return AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(24,) * 4, num_encoder_blocks=(1, 2, 2, 2),
        decoder_block_out_channels=(24,) * 4, num_decoder_blocks=(2, 2, 2, 1),
    )  # fmt: skip


def build_preview_decoder() -> AutoencoderTiny:
    """Latents straight to half resolution (64 px), what the guide sees: a quarter of the work."""
    return AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8,) * 3, num_encoder_blocks=(0, 0, 0),
        decoder_block_out_channels=(24,) * 3, num_decoder_blocks=(2, 2, 1),
    )  # fmt: skip


def build_unet(text_width: int) -> UNet2DConditionModel:
    """9.7 M parameters: attention to the prompt at 8x8 and 4x4, convolutions alone at 16x16."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(64, 96, 192), norm_num_groups=16, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
    )  # fmt: skip


def build_scheduler(prediction: str) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """Stable Diffusion's own noise schedule, deterministic DDIM; for "flow_prediction" a straight
    line from noise to data, DPM-Solver++ 2M."""
    if prediction == "flow_prediction":
        return DPMSolverMultistepScheduler(
            prediction_type=prediction, use_flow_sigmas=True, flow_shift=1.0
        )
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction,
        timestep_spacing="trailing" if prediction == "v_prediction" else "leading",
    )  # fmt: skip
