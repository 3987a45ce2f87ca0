"""Flux that follows its prompt by CLIP: guidance and reranking in one call.

A custom diffusers pipeline. The denoising loop is diffusers' own; guidance is `clipguide.guide`,
the choice among candidates is `clipguide.rerank` (`pip install clipguide`).

    pipe = DiffusionPipeline.from_pretrained(
        "black-forest-labs/FLUX.1-schnell",
        custom_pipeline="pipelines/clip_guided_flux.py",
        trust_remote_code=True,
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-large-patch14"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-large-patch14"),
    )
    best = pipe("a red fox", num_inference_steps=4, clip_guidance_strength=0.1, num_candidates=4)
    best.images, best.clip_cosines
"""

from __future__ import annotations

from diffusers.models import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
    T5TokenizerFast,
)

from clipguide.pipelines.clip_guided_call import ClipGuidedCall


class CLIPGuidedFluxPipeline(ClipGuidedCall, FluxPipeline):
    """Text to image by Flux.1, guided and chosen by a CLIP.

    Args:
        clip_model, clip_processor: the CLIP that guides and scores, of transformers. Optional: the
            pipeline without them is `FluxPipeline`
            (`clip_guidance_strength=0`). The model is frozen by the first call that uses it.
        The others: see `FluxPipeline`.

    The call: that of `FluxPipeline`, and by keyword the arguments of
    `clipguide.pipelines.arguments.ClipArguments`.
    """

    _optional_components = [  # noqa: RUF012  as the base class declares it
        *FluxPipeline._optional_components,
        "clip_model",
        "clip_processor",
    ]
    # guidance calls the CLIP at every step, and not through `forward`, which offloading hooks
    _exclude_from_cpu_offload = [  # noqa: RUF012
        *FluxPipeline._exclude_from_cpu_offload,
        "clip_model",
    ]

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: T5TokenizerFast,
        transformer: FluxTransformer2DModel,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        clip_model: CLIPModel = None,
        clip_processor: CLIPProcessor = None,
    ) -> None:
        super().__init__(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        self.register_modules(clip_model=clip_model, clip_processor=clip_processor)
