"""Stable Diffusion 1 and 2, and what is made of their parts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetXSAdapter,
    DDIMInverseScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    T2IAdapter,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from families.latent_unets import PICTURE, controlnet, stable_unclip, unet
from families.parts import WIDTH, clip_text, clip_tokenizer, ddim, seeded, vae
from sweep.case import STEPS, Case, case, heard
from tiny_pipelines import tiny_scheduler
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

NOISE = "the scheduler's last step adds noise"


def pool() -> dict[str, Any]:
    return {
        "unet": unet(),
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "scheduler": ddim(),
    }


def vision() -> CLIPVisionModelWithProjection:
    """An image encoder of pictures of 16 pixels."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    return seeded(CLIPVisionModelWithProjection, config)


def extractor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def of_channels(count: int, **more: Any) -> Any:
    return lambda: {"unet": unet(in_channels=count, **more)}


def controlled() -> dict[str, Any]:
    return {"controlnet": controlnet()}


def adapter() -> dict[str, Any]:
    made = seeded(
        T2IAdapter, channels=[8, 16], num_res_blocks=1, downscale_factor=2,
        adapter_type="full_adapter",
    )  # fmt: skip
    return {"adapter": made}


def consistency() -> dict[str, Any]:
    return {"unet": unet(time_cond_proj_dim=8), "scheduler": tiny_scheduler(LCMScheduler)}


def upscaler() -> dict[str, Any]:
    """Latents of the size of the small picture, shown beside them with a noise level."""
    return {
        "unet": unet(in_channels=7, num_class_embeds=1000),
        "low_res_scheduler": DDPMScheduler(),
        "vae": vae(3),
    }


def latent_upscaler() -> dict[str, Any]:
    """The picture at twice the size, by a UNet of k-diffusion's blocks in its own space."""
    denoiser = unet(
        act_fn="gelu",
        norm_num_groups=None,
        attention_head_dim=8,
        block_out_channels=(32, 32, 64, 64),
        time_cond_proj_dim=128 + WIDTH,
        conv_in_kernel=1,
        conv_out_kernel=1,
        in_channels=8,
        out_channels=5,
        down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
        mid_block_type=None,
        only_cross_attention=False,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    scheduler = EulerDiscreteScheduler(prediction_type="sample")
    return {"unet": denoiser, "vae": vae(4), "scheduler": scheduler}


def variation() -> dict[str, Any]:
    return {"image_encoder": vision(), "feature_extractor": extractor()}


def unclip_from_picture() -> dict[str, Any]:
    width = 2 * WIDTH
    return {
        **variation(),
        "image_normalizer": seeded(StableUnCLIPImageNormalizer, embedding_dim=WIDTH),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "unet": unet(class_embed_type="projection", projection_class_embeddings_input_dim=width),
    }


def thin_controlnet() -> dict[str, Any]:
    base = unet(layers_per_block=2)  # as it takes for granted
    net = ControlNetXSAdapter.from_unet(
        base, size_ratio=1, conditioning_embedding_out_channels=(4, 8)
    )
    return {"unet": base, "controlnet": heard(net)}


def with_depth() -> dict[str, Any]:
    return {"vae": vae(in_channels=6, out_channels=6)}


def inverse() -> dict[str, Any]:
    return {"inverse_scheduler": DDIMInverseScheduler()}


def of(name: str, **more: Any) -> Case:
    return case(name, pool, **more)


DEPTH = torch.linspace(0, 1, 256).view(1, 16, 16)
CONTROLLED: dict[str, Any] = {"parts": controlled}

CASES = [
    of("StableDiffusionPipeline"),
    of("StableDiffusionImg2ImgPipeline"),
    of("StableDiffusionInpaintPipeline"),
    of("StableDiffusionControlNetPipeline", **CONTROLLED),
    of("StableDiffusionControlNetImg2ImgPipeline", **CONTROLLED),
    of("StableDiffusionControlNetInpaintPipeline", **CONTROLLED),
    of("StableDiffusionPAGPipeline"),
    of("StableDiffusionPAGImg2ImgPipeline"),
    of("StableDiffusionPAGInpaintPipeline"),
    of("StableDiffusionControlNetPAGPipeline", **CONTROLLED),
    of("StableDiffusionControlNetPAGInpaintPipeline", **CONTROLLED),
    of("StableDiffusionControlNetXSPipeline", parts=thin_controlnet),
    of("StableDiffusionAdapterPipeline", parts=adapter),
    of("StableDiffusionInstructPix2PixPipeline", parts=of_channels(8)),
    of("StableDiffusionDepth2ImgPipeline", parts=of_channels(5), depth_map=DEPTH),
    of("StableDiffusionUpscalePipeline", parts=upscaler, image=PICTURE.resize((8, 8))),
    of("StableDiffusionLatentUpscalePipeline", parts=latent_upscaler,
       image=PICTURE.resize((64, 64))),
    of("StableDiffusionImageVariationPipeline", parts=variation),
    of("StableDiffusionLDM3DPipeline", parts=with_depth),
    of("StableDiffusionPanoramaPipeline", height=16, width=32),
    of("StableDiffusionSAGPipeline"),
    of("StableDiffusionAttendAndExcitePipeline", token_indices=[1], max_iter_to_alter=1,
       attn_res=(8, 8), thresholds={0: 0.5}),
    of("SemanticStableDiffusionPipeline", editing_prompt="snow"),
    of("StableDiffusionGLIGENPipeline", parts=of_channels(4, attention_type="gated"),
       gligen_phrases=["a fox"], gligen_boxes=[[0.1, 0.1, 0.6, 0.6]]),
    of("StableDiffusionDiffEditPipeline", parts=inverse,
       mask_image=torch.ones(1, 8, 8), image_latents=torch.zeros(1, STEPS - 1, 4, 8, 8)),
    of("StableDiffusionParadigmsPipeline", parts=lambda: {"scheduler": DDIMParallelScheduler()}),
    of("StableDiffusionInpaintPipelineLegacy"),
    of("CycleDiffusionPipeline", source_prompt="a cat", eta=0.1,
       parts=lambda: {"scheduler": tiny_scheduler(DDIMScheduler, set_alpha_to_one=True)}),
    of("LatentConsistencyModelPipeline", parts=consistency, original_inference_steps=50),
    of("LatentConsistencyModelImg2ImgPipeline", parts=consistency, original_inference_steps=50),
    of("StableUnCLIPImg2ImgPipeline", parts=unclip_from_picture),
    case("StableUnCLIPPipeline", lambda: stable_unclip().components, prior_num_inference_steps=2),
]  # fmt: skip
