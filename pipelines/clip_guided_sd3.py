"""Stable Diffusion 3 that follows its prompt by CLIP: guidance and reranking in one call.

A custom diffusers pipeline. The denoising loop is diffusers' own; guidance is `clipguide.guide`,
the choice among candidates is `clipguide.rerank` (`pip install clipguide`).

    pipe = DiffusionPipeline.from_pretrained(
        "stabilityai/stable-diffusion-3.5-medium",
        custom_pipeline="pipelines/clip_guided_sd3.py",
        trust_remote_code=True,
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-large-patch14"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-large-patch14"),
    )
    best = pipe("a red fox", clip_guidance_strength=0.1, num_candidates=4)
    best.images, best.clip_cosines
"""

from __future__ import annotations

from diffusers.models import AutoencoderKL, SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPModel,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    SiglipImageProcessor,
    SiglipVisionModel,
    T5EncoderModel,
    T5TokenizerFast,
)

from clipguide.pipelines.clip_guided_call import ClipGuidedCall


class CLIPGuidedStableDiffusion3Pipeline(ClipGuidedCall, StableDiffusion3Pipeline):
    """Text to image by Stable Diffusion 3 or 3.5, guided and chosen by a CLIP.

    Args:
        clip_model, clip_processor: the CLIP that guides and scores, of transformers. Optional: the
            pipeline without them is `StableDiffusion3Pipeline`
            (`clip_guidance_strength=0`). The model is frozen by the first call that uses it.
        The others: see `StableDiffusion3Pipeline`.

    The call: that of `StableDiffusion3Pipeline`, and by keyword the arguments of
    `clipguide.pipelines.arguments.ClipArguments`.
    """

    _optional_components = [  # noqa: RUF012  as the base class declares it
        *StableDiffusion3Pipeline._optional_components,
        "clip_model",
        "clip_processor",
    ]
    # guidance calls the CLIP at every step, and not through `forward`, which offloading hooks
    _exclude_from_cpu_offload = [  # noqa: RUF012
        *StableDiffusion3Pipeline._exclude_from_cpu_offload,
        "clip_model",
    ]

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        text_encoder_3: T5EncoderModel,
        tokenizer_3: T5TokenizerFast,
        image_encoder: SiglipVisionModel = None,
        feature_extractor: SiglipImageProcessor = None,
        clip_model: CLIPModel = None,
        clip_processor: CLIPProcessor = None,
    ) -> None:
        super().__init__(
            transformer=transformer,
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        self.register_modules(clip_model=clip_model, clip_processor=clip_processor)
