"""The call of the custom pipelines: any diffusers pipeline's own, guided and chosen by a CLIP."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from clipguide.attach.decoders import find_decoder, upcast
from clipguide.attach.guide import guide
from clipguide.attach.layouts import Prepared
from clipguide.clip.loading import scorer_of
from clipguide.clip.scorer import Scorer
from clipguide.guidance.config import GuidanceConfig
from clipguide.pipelines.output import ClipGuidedOutput
from clipguide.rerank import rerank
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.attach.guide import Decoder

OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class ClipGuidedCall:
    """Put before a diffusers text-to-image or image-to-image pipeline among the base classes.

    The class made so has two components more, `clip_model` and `clip_processor` (a CLIP of
    transformers, both optional), which its `__init__` registers, and this call. With strength 0
    and no `num_candidates`, all that it can without them, it is the pipeline that it inherits from,
    to the bit.

    Example:
        >>> from diffusers import DiffusionPipeline
        >>> class Mine(ClipGuidedCall, DiffusionPipeline):
        ...     def __init__(self, vae=None, clip_model=None, clip_processor=None):
        ...         super().__init__()
        ...         self.register_modules(vae=vae)  # a StableDiffusionXLPipeline does its own
        ...         self.register_modules(clip_model=clip_model, clip_processor=clip_processor)
        >>> Mine(clip_model=scorer.model.module).clip_model is scorer.model.module
        True
    """

    clip_model: Any
    clip_processor: Any
    image_processor: Any

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
        clip_guidance_decoder: Decoder | str | None = None,
        clip_guidance_decode_size: int | None = None,
        clip_prompt: str | list[str] | None = None,
        clip_negative_prompt: str | list[str] | None = None,
        clip_views: Views | None = None,
        num_candidates: int | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        **kwargs: Any,
    ) -> ClipGuidedOutput | tuple[Any, ...]:
        """Images of each prompt, guided by CLIP, the best of several candidates.

        Args:
            prompt, args, kwargs: as the pipeline's own call has them.
            clip_guidance_strength: 0 or more; 0 is the pipeline itself to the bit.
            clip_guidance_mode, _normalize, _damping, _window, _every: see
                `clipguide.guidance.config.GuidanceConfig`.
            clip_guidance_decoder, _decode_size: see `clipguide.guide`; an AutoencoderTiny for the
                same latents, or a small size, makes guidance cheap.
            clip_prompt: what CLIP reads in the place of `prompt` (needed with `prompt_embeds`): one
                text for all prompts, or one for each.
            clip_negative_prompt: what guidance leads away from.
            clip_views: random crops and flips of what CLIP sees while guiding.
            num_candidates: images sampled per prompt, at least `num_images_per_prompt`; the best by
                CLIP score are returned, best first. None samples as many as are returned and leaves
                their order. All candidates are one batch.
            generator: as diffusers has it for `num_candidates` images per prompt: a list has one
                generator per candidate, and candidate i then depends on generator i alone.
            output_type: "pil" | "np" | "pt" | "latent".

        Returns:
            `ClipGuidedOutput`, or the pipeline's own tuple with the CLIP scores behind it.

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
        texts = _texts(prompt, clip_prompt, kwargs.get("prompt_embeds"))
        if config.strength > 0 or num_candidates is not None:
            self._check_clip(texts)
        there = self.clip_model is not None and self.clip_processor is not None
        scorer = self.clip_scorer() if there and texts else None
        guided: Any = nullcontext()
        if config.strength > 0 and scorer is not None:
            views = clip_views or Views()
            reward = ClipReward(scorer, texts, negative=clip_negative_prompt, views=views)
            decoding: Any = {
                "decoder": clip_guidance_decoder,
                "decode_size": clip_guidance_decode_size,
            }
            pipe: Any = self
            guided = guide(pipe, reward, config=config, **decoding)
        own: Any = super()
        with guided as trace:
            made = own.__call__(
                prompt,
                *args,
                num_images_per_prompt=each,
                generator=generator,
                output_type="latent" if output_type == "latent" else "pt",
                return_dict=True,
                **kwargs,
            )
        keep = None if num_candidates is None else num_images_per_prompt
        images = made.images
        if output_type == "latent" and keep is not None:
            given = inspect.signature(own.__call__).bind(prompt, *args, **kwargs).arguments
            images = self._decoded(images, given)
        scored = scorer if keep is not None or output_type != "latent" else None
        chosen, scores = _chosen(images, texts, scored, keep)
        images = self._formatted(made.images[chosen], output_type)
        flags = _pick(getattr(made, "nsfw_content_detected", None), chosen)
        if not return_dict:
            beside = (flags,) if hasattr(made, "nsfw_content_detected") else ()
            return (images, *beside, scores)
        indices, seeds = [index % each for index in chosen], _pick(_seeds(generator), chosen)
        return ClipGuidedOutput(images, flags, scores, indices, seeds, trace)

    def clip_scorer(self) -> Scorer:
        """The pipeline's CLIP as a `clipguide.Scorer`; its parameters are frozen."""
        return scorer_of(self.clip_model, self.clip_processor)

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

    @torch.no_grad()
    def _decoded(self, latents: Tensor, given: dict[str, Any]) -> Tensor:
        """As the pipeline itself decodes the latents of a call, (B, 3, H, W) in [0, 1]."""
        pipe: Any = self
        prepared = Prepared()
        if latents.ndim == 3:  # packed: their shape does not say how high and wide they are
            side: int = pipe.default_sample_size * pipe.vae_scale_factor
            prepared.arguments = {name: given.get(name) or side for name in ("height", "width")}
        decode, module = find_decoder(pipe, prepared=prepared)
        with upcast(module):
            return decode(latents)

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


def _chosen(
    images: Tensor, texts: list[str], scorer: Scorer | None, keep: int | None
) -> tuple[list[int], list[float] | None]:
    """Places in the batch of the images to return, and their scores.

    The `keep` best of each prompt; None keeps all in their order. Without a scorer all, unscored.
    """
    if scorer is None:
        return list(range(len(images))), None
    each = len(images) // len(texts)
    order: list[int] = []
    scores: list[float] = []
    for number, text in enumerate(texts):
        rows = rerank(images[number * each : (number + 1) * each], text, scorer, top_k=keep)
        for row in rows if keep else sorted(rows, key=lambda row: row.index):
            order.append(number * each + row.index)
            scores.append(row.score)
    return order, scores


def _texts(
    prompt: str | list[str] | None, clip_prompt: str | list[str] | None, embeds: Tensor | None
) -> list[str]:
    """What CLIP reads for each prompt of the call; empty where there is no text."""
    prompts = _listed(prompt)
    count = len(prompts) if embeds is None else len(embeds)
    texts = prompts if clip_prompt is None else _listed(clip_prompt)
    if len(texts) == 1:
        return texts * max(1, count)
    if texts and count and len(texts) != count:
        raise ValueError(
            f"got {len(texts)} texts in clip_prompt for {count} prompts, expected one for all or "
            "one for each"
        )
    return texts


def _listed(texts: str | list[str] | None) -> list[str]:
    if texts is None:
        return []
    return [texts] if isinstance(texts, str) else list(texts)


def _seeds(generator: torch.Generator | list[torch.Generator] | None) -> list[int] | None:
    if isinstance(generator, list):
        return [one.initial_seed() for one in generator]
    return None


def _pick(values: Sequence[Any] | None, order: list[int]) -> list[Any] | None:
    return None if values is None else [values[index] for index in order]
