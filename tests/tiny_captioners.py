"""Tiny random captioners of the real classes of transformers, saved like any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_cross_encoders import CHAT, SIDE, WORDS, random_weights, tiny_llava, words_tokenizer
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CAPTION_WORDS = (*WORDS, *["Describe", "image", "in", "one", "short", "sentence"])
CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")


def _save(model: torch.nn.Module, images: object, path: Path) -> Path:
    torch.manual_seed(5)
    for name, value in model.named_parameters():
        if value.ndim > 1:  # far enough from even that the choices of a search differ
            torch.nn.init.normal_(value, std=0.6 if "embed" in name else 0.3)
    model.save_pretrained(path)  # type: ignore[operator]
    images.save_pretrained(path)  # type: ignore[attr-defined]
    words_tokenizer(cls_token="[CLS]", sep_token="[SEP]").save_pretrained(path)
    return path


def tiny_blip_captioner(path: Path) -> Path:
    text = {**_TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 48}
    text |= {"encoder_hidden_size": 16, "pad_token_id": 1, "bos_token_id": CLS}
    text |= {"sep_token_id": SEP, "eos_token_id": SEP, "projection_dim": 16}
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    size = {"height": SIDE, "width": SIDE}
    return _save(BlipForConditionalGeneration(config), BlipImageProcessor(size=size), path)


def tiny_git(path: Path) -> Path:
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    config = GitConfig(
        **_TOWER, vision_config=vision, vocab_size=len(WORDS), max_position_embeddings=64,
        bos_token_id=CLS, eos_token_id=SEP, pad_token_id=1,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    return _save(GitForCausalLM(config), images, path)


def tiny_encoder_decoder(path: Path) -> Path:
    """A ViT with a GPT-2 that reads it."""
    encoder = ViTConfig(**_TOWER, image_size=SIDE, patch_size=8)
    decoder = GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=len(WORDS), n_positions=48,
        add_cross_attention=True, bos_token_id=CLS, eos_token_id=SEP,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = CLS, 1, SEP
    model = VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = CLS
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = SEP, 1
    size = {"height": SIDE, "width": SIDE}
    return _save(model, ViTImageProcessor(size=size), path)


def tiny_talking(path: Path) -> Path:
    return tiny_llava(path, CAPTION_WORDS, CHAT)


PATCH_WORDS = (*CAPTION_WORDS, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>")


def tiny_qwen(path: Path) -> Path:
    """A Qwen2-VL: an image is rows of patches, places are counted by what is picture and what is
    word; a caption ends with one of two tokens."""
    size, places = len(PATCH_WORDS), dict(zip(PATCH_WORDS, range(len(PATCH_WORDS)), strict=True))
    marks = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    marks["vision_bos_token"] = "<|vision_start|>"
    tokenizer: Any = words_tokenizer(PATCH_WORDS, sep_token="[SEP]", extra_special_tokens=marks)
    text = {
        **_TOWER, "num_key_value_heads": 2, "vocab_size": size, "bos_token_id": CLS,
        "eos_token_id": SEP, "pad_token_id": 1, "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    patches = {"patch_size": 4, "temporal_patch_size": 2}
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2,
        "spatial_merge_size": 2, **patches,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=places["<|image_pad|>"],
        video_token_id=places["<|video_pad|>"], vision_start_token_id=places["<|vision_start|>"],
    )  # fmt: skip
    model = random_weights(Qwen2VLForConditionalGeneration(config))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [SEP, 1], 1
    model.save_pretrained(path)
    patches["merge_size"] = 2
    limits = {"shortest_edge": 64, "longest_edge": 1024}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, **patches), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT.replace("<image>", "<|vision_start|> <|image_pad|>"),
    ).save_pretrained(path)  # fmt: skip
    return path


def tiny_clipseg(path: Path) -> Path:
    tower = {**_TOWER, "num_hidden_layers": 3}
    text = {**tower, "vocab_size": 32, "max_position_embeddings": 16, "eos_token_id": 4}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[0, 1, 2],
        reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=32,
        conditional_layer=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPSegForImageSegmentation(config)
    for value in model.decoder.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(path)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    words_tokenizer(cls_token="[CLS]", sep_token="[SEP]").save_pretrained(path)
    return path


def tiny_vilt(path: Path) -> Path:
    """A ViLT of two layers that answers no, yes or red; it reads 40 tokens."""
    config = ViltConfig(
        **_TOWER, vocab_size=len(WORDS), image_size=SIDE, patch_size=8, max_position_embeddings=40,
        id2label={0: "no", 1: "yes", 2: "red"}, label2id={"no": 0, "yes": 1, "red": 2},
    )  # fmt: skip
    torch.manual_seed(3)
    model = ViltForQuestionAnswering(config)
    for value in model.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.4)
    model.save_pretrained(path)
    tokenizer = words_tokenizer(cls_token="[CLS]", sep_token="[SEP]")
    ViltProcessor(ViltImageProcessor(size={"shortest_edge": SIDE}), tokenizer).save_pretrained(path)
    return path
