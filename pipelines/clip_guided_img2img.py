"""An image changed by Stable Diffusion towards a prompt, led by CLIP.

A custom diffusers pipeline. The denoising loop is diffusers' own; guidance is `clipguide.guide`,
the choice among candidates is `clipguide.rerank` (`pip install clipguide`).

    pipe = DiffusionPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        custom_pipeline="pipelines/clip_guided_img2img.py",
        trust_remote_code=True,
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-large-patch14"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-large-patch14"),
    )
    best = pipe("a red fox", image=photo, strength=0.6, num_candidates=8, num_images_per_prompt=2)
    best.images, best.clip_cosines
"""

from __future__ import annotations

from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from clipguide.pipelines.clip_guided_call import ClipGuidedCall


class CLIPGuidedStableDiffusionImg2ImgPipeline(ClipGuidedCall, StableDiffusionImg2ImgPipeline):
    """Image to image by Stable Diffusion 1.x or 2.x, guided and chosen by a CLIP.

    Args:
        clip_model, clip_processor: the CLIP that guides and scores, of transformers. Optional: the
            pipeline without them is `StableDiffusionImg2ImgPipeline`
            (`clip_guidance_strength=0`). The model is frozen by the first call that uses it.
        The others: see `StableDiffusionImg2ImgPipeline`.

    The call: that of `StableDiffusionImg2ImgPipeline`, and by keyword the arguments of
    `clipguide.pipelines.arguments.ClipArguments`.
    """

    _optional_components = [  # noqa: RUF012  as the base class declares it
        *StableDiffusionImg2ImgPipeline._optional_components,
        "clip_model",
        "clip_processor",
    ]
    # guidance calls the CLIP at every step, and not through `forward`, which offloading hooks
    _exclude_from_cpu_offload = [  # noqa: RUF012
        *StableDiffusionImg2ImgPipeline._exclude_from_cpu_offload,
        "clip_model",
    ]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: CLIPImageProcessor,
        image_encoder: CLIPVisionModelWithProjection = None,
        clip_model: CLIPModel = None,
        clip_processor: CLIPProcessor = None,
        requires_safety_checker: bool = True,
    ) -> None:
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            requires_safety_checker=requires_safety_checker,
        )
        self.register_modules(clip_model=clip_model, clip_processor=clip_processor)
