"""A tiny safety checker of random weights, saved as diffusers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

SIDE = 32


def saved_checker(path: Path) -> Path:
    """Its folder."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    tower["num_attention_heads"] = 2
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.visual_projection.weight.normal_(std=0.5)
        checker.concept_embeds.normal_()
        checker.special_care_embeds.normal_()
        # thresholds among the cosines that occur, so that both verdicts do
        checker.concept_embeds_weights.uniform_(0.5, 0.75)
        checker.special_care_embeds_weights.uniform_(0.0, 0.6)
    checker.save_pretrained(path)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(path)
    return path
