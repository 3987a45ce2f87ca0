"""Stable Diffusion that follows its prompt by CLIP: guidance and reranking in one call.

A custom diffusers pipeline. The denoising loop is diffusers' own; guidance is `clipguide.guide`,
the choice among candidates is `clipguide.rerank` (`pip install clipguide`).

    pipe = DiffusionPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        custom_pipeline="pipelines/clip_guided_stable_diffusion.py",
        trust_remote_code=True,
        clip_model=CLIPModel.from_pretrained("openai/clip-vit-base-patch32"),
        clip_processor=CLIPProcessor.from_pretrained("openai/clip-vit-base-patch32"),
    )
    best = pipe("a red fox", clip_guidance_strength=0.1, num_candidates=8, num_images_per_prompt=2)
    best.images, best.clip_scores
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from clipguide.attach.guide import guide
from clipguide.clip.scorer import Scorer
from clipguide.clip.transformers_clip import TransformersClip, read_preprocess
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.trace import Trace
from clipguide.rerank import rerank
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.views import Views

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class CLIPGuidedStableDiffusionPipelineOutput(StableDiffusionPipelineOutput):
    """Stable Diffusion's output, and what CLIP said; one entry per image, in their order.

    Attributes:
        clip_scores: cosine of each image with its prompt; None without a CLIP or without a text.
        candidate_indices: number of each image among the candidates of its prompt.
        seeds: of each image's generator, where a list of generators was given.
        clip_trace: what guidance did, step by step; None for an unguided call.
    """

    clip_scores: list[float] | None = None
    candidate_indices: list[int] | None = None
    seeds: list[int] | None = None
    clip_trace: Trace | None = None


class CLIPGuidedStableDiffusionPipeline(StableDiffusionPipeline):
    """Text to image by Stable Diffusion 1.x or 2.x, guided and chosen by a CLIP.

    Args:
        clip_model, clip_processor: the CLIP that guides and scores, of transformers. Optional: the
            pipeline without them is Stable Diffusion (`clip_guidance_strength=0`). The model is
            frozen by the first call that uses it.
        The others: see `StableDiffusionPipeline`.
    """

    _optional_components = [  # noqa: RUF012  as the base class declares it
        *StableDiffusionPipeline._optional_components,
        "clip_model",
        "clip_processor",
    ]
    # guidance calls the CLIP at every step, and not through `forward`, which offloading hooks
    _exclude_from_cpu_offload = [  # noqa: RUF012
        *StableDiffusionPipeline._exclude_from_cpu_offload,
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

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *args: Any,
        clip_guidance_strength: float = 0.1,
        clip_guidance_mode: str = "x0",
        clip_guidance_normalize: str = "rms",
        clip_guidance_damping: float | None = None,
        clip_guidance_window: tuple[float, float] = (0.0, 1.0),
        clip_guidance_every: int = 1,
        clip_guidance_decoder: Any = None,
        clip_prompt: str | list[str] | None = None,
        clip_negative_prompt: str | list[str] | None = None,
        clip_views: Views | None = None,
        num_candidates: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs: Any,
    ) -> CLIPGuidedStableDiffusionPipelineOutput | tuple[Any, ...]:
        """Images of each prompt, guided by CLIP, the best of several candidates.

        Args:
            prompt, args, kwargs: as `StableDiffusionPipeline.__call__`.
            clip_guidance_strength: 0 or more; 0 is Stable Diffusion to the bit.
            clip_guidance_mode, _normalize, _damping, _window, _every: see
                `clipguide.guidance.config.GuidanceConfig`.
            clip_guidance_decoder: an AutoencoderTiny for the same latents makes guidance cheap.
            clip_prompt: what CLIP reads in the place of `prompt` (needed with `prompt_embeds`).
            clip_negative_prompt: what guidance leads away from.
            clip_views: random crops and flips of what CLIP sees while guiding.
            num_candidates: images sampled per prompt, at least `num_images_per_prompt`; the best by
                CLIP score are returned, best first. None samples as many as are returned and leaves
                their order. All candidates are one batch.
            generator: as diffusers has it for `num_candidates` images per prompt: a list has one
                generator per candidate, and candidate i then depends on generator i alone.
            output_type: "pil" | "np" | "pt" | "latent".

        Returns:
            `CLIPGuidedStableDiffusionPipelineOutput`, or (images, nsfw flags, CLIP scores).

        Cost: `num_candidates` trajectories per prompt; guidance as `clipguide.guide`; one image
        embedding per candidate.
        Raises: ValueError for an argument out of range, or a CLIP that is needed and not there.
        """
        each = _candidates(num_candidates, num_images_per_prompt)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"got output_type {output_type!r}, expected one of {OUTPUT_TYPES}")
        config = GuidanceConfig(
            clip_guidance_strength,
            clip_guidance_mode,
            clip_guidance_normalize,
            clip_guidance_damping,
            clip_guidance_window,
            clip_guidance_every,
        )
        texts = _texts(prompt if clip_prompt is None else clip_prompt)
        if config.strength > 0 or num_candidates is not None:
            self._check_clip(texts)
        scorer = self.clip_scorer() if self.clip_model is not None and texts else None
        guided = nullcontext()
        if config.strength > 0:
            reward = ClipReward(
                scorer, texts, negative=clip_negative_prompt, views=clip_views or Views()
            )
            guided = guide(self, reward, decoder=clip_guidance_decoder, config=config)
        with guided as trace:
            made = super().__call__(
                prompt,
                *args,
                num_images_per_prompt=each,
                generator=generator,
                output_type="latent" if output_type == "latent" else "pt",
                return_dict=True,
                **kwargs,
            )
        keep = None if num_candidates is None else num_images_per_prompt
        chosen, scores = self._chosen(made.images, texts, scorer, keep, output_type)
        output = CLIPGuidedStableDiffusionPipelineOutput(
            images=self._formatted(made.images[chosen], output_type),
            nsfw_content_detected=_pick(made.nsfw_content_detected, chosen),
            clip_scores=scores,
            candidate_indices=[index % each for index in chosen],
            seeds=_pick(_seeds(generator), chosen),
            clip_trace=trace,
        )
        if return_dict:
            return output
        return output.images, output.nsfw_content_detected, output.clip_scores

    def clip_scorer(self) -> Scorer:
        """The pipeline's CLIP as a `clipguide.Scorer`; its parameters are frozen."""
        name = self.clip_model.config.name_or_path or "clip_model"
        preprocess = read_preprocess(self.clip_processor.image_processor.to_dict(), name)
        tokenizer = self.clip_processor.tokenizer
        return Scorer(TransformersClip(name, self.clip_model, tokenizer, preprocess))

    def _check_clip(self, texts: list[str]) -> None:
        if self.clip_model is None or self.clip_processor is None:
            raise ValueError(
                "got a pipeline without clip_model and clip_processor, expected both: pass them to "
                "from_pretrained or from_pipe (or clip_guidance_strength=0 and no num_candidates)"
            )
        if not texts:
            raise ValueError(
                "got no text for CLIP, expected prompt or, with embeddings, clip_prompt"
            )

    def _chosen(
        self,
        made: Tensor,
        texts: list[str],
        scorer: Scorer | None,
        keep: int | None,
        output_type: str,
    ) -> tuple[list[int], list[float] | None]:
        """Places in the batch of the images to return, and their scores.

        The `keep` best of each prompt; None keeps all in their order (and latents unscored).
        """
        if keep is None and (scorer is None or output_type == "latent"):
            return list(range(len(made))), None
        images = self._decoded(made) if output_type == "latent" else made
        each = len(images) // len(texts)
        order: list[int] = []
        scores: list[float] = []
        for number, text in enumerate(texts):
            rows = rerank(images[number * each : (number + 1) * each], text, scorer, top_k=keep)
            for row in rows if keep else sorted(rows, key=lambda row: row.index):
                order.append(number * each + row.index)
                scores.append(row.score)
        return order, scores

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        """As the pipeline itself decodes, (B, 3, H, W) in [0, 1]."""
        images = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return self.image_processor.postprocess(images, output_type="pt")

    def _formatted(self, images: Tensor, output_type: str) -> Any:
        """As diffusers' image processor goes on from "pt"."""
        if output_type in ("latent", "pt"):
            return images
        array = self.image_processor.pt_to_numpy(images)
        return array if output_type == "np" else self.image_processor.numpy_to_pil(array)


def _candidates(num_candidates: int | None, wanted: int) -> int:
    """How many images are sampled per prompt."""
    if num_candidates is not None and num_candidates < wanted:
        expected = f"expected at least num_images_per_prompt={wanted}"
        raise ValueError(f"got num_candidates={num_candidates}, {expected}")
    return wanted if num_candidates is None else num_candidates


def _texts(prompt: str | list[str] | None) -> list[str]:
    if prompt is None:
        return []
    return [prompt] if isinstance(prompt, str) else list(prompt)


def _seeds(generator: torch.Generator | list[torch.Generator] | None) -> list[int] | None:
    if isinstance(generator, list):
        return [one.initial_seed() for one in generator]
    return None


def _pick(values: Sequence[Any] | None, order: list[int]) -> list[Any] | None:
    return None if values is None else [values[index] for index in order]
