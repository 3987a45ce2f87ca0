"""Stable Diffusion XL that follows its prompt by CLIP: guidance and reranking in one call.

A custom diffusers pipeline. The denoising loop is diffusers' own; guidance is `clipguide.guide`,
the choice among candidates is `clipguide.rerank` (`pip install clipguide`).

    pipe = DiffusionPipeline.from_pretrained(
        "stabilityai/stable-diffusion-xl-base-1.0",
        custom_pipeline="pipelines/clip_guided_stable_diffusion_xl.py",
        trust_remote_code=True,
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-large-patch14"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-large-patch14"),
    )
    best = pipe("a red fox", clip_guidance_strength=0.1, num_candidates=4)
    best.images, best.clip_cosines
"""

from __future__ import annotations

from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from clipguide.pipelines.clip_guided_call import ClipGuidedCall


class CLIPGuidedStableDiffusionXLPipeline(ClipGuidedCall, StableDiffusionXLPipeline):
    """Text to image by Stable Diffusion XL, guided and chosen by a CLIP.

    Args:
        clip_model, clip_processor: the CLIP that guides and scores, of transformers. Optional: the
            pipeline without them is `StableDiffusionXLPipeline`
            (`clip_guidance_strength=0`). The model is frozen by the first call that uses it.
        The others: see `StableDiffusionXLPipeline`.

    The call: that of `StableDiffusionXLPipeline`, and by keyword the arguments of
    `clipguide.pipelines.arguments.ClipArguments`.
    """

    _optional_components = [  # noqa: RUF012  as the base class declares it
        *StableDiffusionXLPipeline._optional_components,
        "clip_model",
        "clip_processor",
    ]
    # guidance calls the CLIP at every step, and not through `forward`, which offloading hooks
    _exclude_from_cpu_offload = [  # noqa: RUF012
        *StableDiffusionXLPipeline._exclude_from_cpu_offload,
        "clip_model",
    ]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        clip_model: CLIPModel = None,
        clip_processor: CLIPProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        add_watermarker: bool | None = None,
    ) -> None:
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=scheduler,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            add_watermarker=add_watermarker,
        )
        self.register_modules(clip_model=clip_model, clip_processor=clip_processor)
