"""Guidance with LoRA layers and an IP-Adapter loaded, as diffusers loads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from clipguide.attach.guide import guide

MODES = pytest.mark.parametrize("mode", ["x0", "xt"])
REWARD = ProjectionReward()
PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")


def own_pipeline() -> Any:
    pipe = tiny_pipeline()
    pipe.unet = copy.deepcopy(pipe.unet)
    return pipe


def plain(pipe: Any, **call: Any) -> Tensor:
    call = {"num_inference_steps": 3, "output_type": "pt", **call}
    return pipe("a fox", generator=generators(0), **call).images


def guided(pipe: Any, mode: Any, **call: Any) -> Tensor:
    with guide(pipe, REWARD, 0.5, mode=mode):
        return plain(pipe, **call)


# ------------------------------------------------------------------------------------------- LoRA


def with_lora(pipe: Any) -> Any:
    """A LoRA of rank 2 with random weights, through the pipeline's own loader."""
    peft = pytest.importorskip("peft", reason="LoRA in diffusers needs peft")
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"])
    donor = copy.deepcopy(pipe.unet)
    donor.add_adapter(config)
    torch.manual_seed(7)
    state = {
        f"unet.{name}": 0.3 * torch.randn_like(value)
        for name, value in peft.get_peft_model_state_dict(donor).items()
    }
    pipe.load_lora_weights(state)
    return pipe


@MODES
def test_a_lora_is_guided_as_its_fused_weights_are(mode: Any) -> None:
    pipe = own_pipeline()
    without = guided(pipe, mode)
    with_lora(pipe)
    unguided, images = plain(pipe), guided(pipe, mode)
    assert (images - without).abs().max() > 1e-3
    assert REWARD(images) > REWARD(unguided)
    assert torch.equal(plain(pipe), unguided)
    pipe.fuse_lora()
    assert (guided(pipe, mode) - images).abs().max() < 1e-4
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert (guided(pipe, mode) - without).abs().max() < 1e-5


@MODES
def test_a_lora_in_training_keeps_its_trainable_weights(mode: Any) -> None:
    """Only the LoRA's weights require a gradient, before as after."""
    pipe = with_lora(own_pipeline())
    for name, parameter in pipe.unet.named_parameters():
        parameter.requires_grad_("lora" in name)
    before = [p.requires_grad for p in pipe.unet.parameters()]
    guided(pipe, mode)
    assert [p.requires_grad for p in pipe.unet.parameters()] == before
    assert True in before
    assert False in before
    assert all(p.grad is None for p in pipe.unet.parameters())


@MODES
def test_a_lora_scaled_to_zero_is_no_lora(mode: Any) -> None:
    pipe = own_pipeline()
    without = guided(pipe, mode)
    with_lora(pipe)
    found = guided(pipe, mode, cross_attention_kwargs={"scale": 0.0})
    assert (found - without).abs().max() < 1e-5


# ------------------------------------------------------------------------------------- IP-Adapter


def with_ip_adapter(pipe: Any) -> Any:
    """A random IP-Adapter of four image tokens and its tiny image encoder."""
    torch.manual_seed(11)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPVisionConfig(
        **tower, num_hidden_layers=1, projection_dim=8, image_size=16, patch_size=8
    )
    size = {"height": 16, "width": 16}
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size),
    )
    width = pipe.unet.config.cross_attention_dim
    names = [name for name in pipe.unet.attn_processors if "attn2" in name]
    layers: dict[str, Tensor] = {}
    for index, name in enumerate(names):
        features = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        layers[f"{2 * index + 1}.to_k_ip.weight"] = torch.randn(features, width)
        layers[f"{2 * index + 1}.to_v_ip.weight"] = torch.randn(features, width)
    projection = {
        "proj.weight": torch.randn(4 * width, 8),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    state = {"image_proj": projection, "ip_adapter": layers}
    pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
    return pipe


@MODES
def test_an_ip_adapter(mode: Any) -> None:
    pipe = own_pipeline()
    without = guided(pipe, mode)
    with_ip_adapter(pipe)
    images = guided(pipe, mode, ip_adapter_image=PICTURE)
    assert REWARD(images) > REWARD(plain(pipe, ip_adapter_image=PICTURE))
    assert (images - without).abs().max() > 1e-3
    pipe.set_ip_adapter_scale(0.0)
    assert (guided(pipe, mode, ip_adapter_image=PICTURE) - without).abs().max() < 1e-5
    pipe.unload_ip_adapter()
    assert (guided(pipe, mode) - without).abs().max() < 1e-5


@MODES
def test_an_ip_adapter_by_its_embeddings(mode: Any) -> None:
    pipe = with_ip_adapter(own_pipeline())
    by_image = guided(pipe, mode, ip_adapter_image=PICTURE)
    embeds = pipe.prepare_ip_adapter_image_embeds(PICTURE, None, "cpu", 1, True)
    by_embeds = guided(pipe, mode, ip_adapter_image_embeds=embeds)
    assert (by_image - by_embeds).abs().max() < 1e-6
