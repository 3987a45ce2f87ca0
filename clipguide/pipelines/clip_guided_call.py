"""The call of the custom pipelines: any diffusers pipeline's own, guided and chosen by a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.decoders import find_decoder, upcast
from clipguide.attach.guide import guide
from clipguide.attach.layouts import Prepared
from clipguide.clip.loading import scorer_of
from clipguide.clip.scorer import Scorer
from clipguide.pipelines.arguments import NAMES, ClipArguments, call_signature
from clipguide.pipelines.output import ClipGuidedOutput
from clipguide.rerank import rerank

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

_DOCUMENTED = """Images of each prompt, guided by CLIP, the best of several candidates.

Args:
    The arguments of the pipeline that the class inherits from, as that has them. A list of
        generators has one per candidate, and candidate i then depends on generator i alone.
        output_type: "pil" | "np" | "pt" | "latent".
    By keyword: see `clipguide.pipelines.arguments.ClipArguments`.

Returns:
    `ClipGuidedOutput`, or the pipeline's own tuple with the CLIP scores behind it.

Cost: `num_candidates` trajectories per prompt; guidance as `clipguide.guide`; one image embedding
per candidate.
Raises: ValueError for an argument out of range, or a CLIP that is needed and not there.
"""


class ClipGuidedCall:
    """Put before a diffusers text-to-image or image-to-image pipeline among the base classes.

    The class made so has two components more, `clip_model` and `clip_processor` (a CLIP of
    transformers, both optional), which its `__init__` registers. Its call takes what the call of
    the pipeline takes, in the same order, and by keyword what `ClipArguments` lists. With strength
    0 and no `num_candidates`, all that it can without them, it is the pipeline that it inherits
    from, to the bit.

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Gives the class a call with the parameters of the pipeline that it inherits from."""
        super().__init_subclass__(**kwargs)
        owners = [base for base in cls.__mro__ if "__call__" in vars(base)]
        if owners and not issubclass(owners[0], ClipGuidedCall):
            made: Any = cls
            made.__call__ = _guided_call(vars(owners[0])["__call__"])

    def _called(
        self, own: Callable[..., Any], given: dict[str, Any], clip: ClipArguments
    ) -> ClipGuidedOutput | tuple[Any, ...]:
        """One call: `own` with the arguments `given`, by name, guided and chosen as `clip` says."""
        wanted: int = given.get("num_images_per_prompt") or 1
        each = _candidates(clip.num_candidates, wanted)
        output_type: str = given["output_type"]
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"got output_type {output_type!r}, expected one of {OUTPUT_TYPES}")
        config = clip.config()
        texts = _texts(given.get("prompt"), clip.clip_prompt, given.get("prompt_embeds"))
        climbs = config.strength > 0
        if (climbs and clip.clip_reward is None) or clip.num_candidates is not None:
            self._check_clip(texts)
        there = self.clip_model is not None and self.clip_processor is not None
        scorer = self.clip_scorer() if there and texts else None
        guided: Any = nullcontext()
        if climbs:
            decoding: Any = {
                "decoder": clip.clip_guidance_decoder,
                "decode_size": clip.clip_guidance_decode_size,
            }
            pipe: Any = self
            guided = guide(pipe, clip.reward(scorer, texts), config=config, **decoding)
        asked = {
            "num_images_per_prompt": each,
            "output_type": "latent" if output_type == "latent" else "pt",
            "return_dict": True,
        }
        with guided as trace:
            made = own(self, **{**given, **asked})
        keep = None if clip.num_candidates is None else wanted
        images = made.images
        if output_type == "latent" and keep is not None:
            images = self._decoded(images, given)
        scored = scorer if keep is not None or output_type != "latent" else None
        chosen, scores = _chosen(images, texts, scored, keep)
        images = self._formatted(made.images[chosen], output_type)
        flags = _pick(getattr(made, "nsfw_content_detected", None), chosen)
        if not given["return_dict"]:
            beside = (flags,) if hasattr(made, "nsfw_content_detected") else ()
            return (images, *beside, scores)
        indices = [index % each for index in chosen]
        seeds = _pick(_seeds(given.get("generator")), chosen)
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


def _guided_call(own: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a class whose pipeline's own call is `own`."""
    signature = call_signature(own)

    def __call__(
        self: ClipGuidedCall, *args: Any, **kwargs: Any
    ) -> ClipGuidedOutput | tuple[Any, ...]:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = {**bound.arguments}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:  # those of them that were given
                given |= given.pop(name)
        del given[next(iter(signature.parameters))]  # self
        clip = ClipArguments(**{name: given.pop(name) for name in NAMES})
        return self._called(own, given, clip)  # pyright: ignore[reportPrivateUsage]

    called: Any = __call__
    called.__signature__, called.__doc__ = signature, _DOCUMENTED
    return __call__


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
