"""The scorer: a CLIP behind a door that checks what comes in.

Scores are cosines; `clipguide.clip.conventions` puts them on other scales.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from clipguide.batching import batches
from clipguide.clip.finite import check_vectors
from clipguide.clip.image_arrays import Images, as_images, count_images, name_of
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.preprocess import Match, Preprocess
from clipguide.clip.protocol import ClipModel
from clipguide.clip.weights import hash_weights
from clipguide.images import ImageSource, check_image_shape, check_images, load_image
from clipguide.texts import check_text

BATCH_SIZE = 32
"""Images or prompts that go through a tower at once."""
TEXT_CACHE = 4096
"""Prompts whose vectors are kept."""


class Scorer:
    """Scores images against prompts by one CLIP, whose parameters it freezes.

    Images are PIL images, paths, a float tensor (B,3,H,W) in [0, 1], or an array (B,H,W,3) of uint8
    or of floats in [0, 1]; a list may also hold tensors (3,H,W) and arrays (H,W,3). Lists are read
    and scored in batches. Prompts longer than `context_length` tokens are cut with a warning
    (`PromptTruncated`), the end-of-text token kept. A special token's name in a prompt, such as
    `<|endoftext|>`, is text like any other; models of open_clip refuse such a prompt.

    Args:
        model: the adapter of a loaded model.

    Example:
        >>> scorer = load_scorer("starter")
        >>> scorer.score(["fox.png", "cat.png"], ["a fox", "a cat"]).shape
        torch.Size([2])
    """

    reads: str = "images"
    """What its image tower reads; "latents" of a `LatentScorer`."""
    convention: str = "cosine"
    """What its scores are, in the words that go into every output (a `CrossEncoder` has others)."""

    def __init__(self, model: ClipModel) -> None:
        self.model = model
        self.model.module.eval().requires_grad_(False)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()  # prompt -> (D,)
        self._hash: str | None = None

    def __repr__(self) -> str:
        return f"Scorer({self.name!r}, embed_dim={self.embed_dim}, device={str(self.device)!r})"

    @property
    def name(self) -> str:
        """What it was loaded by."""
        return self.model.name

    @property
    def preprocess(self) -> Preprocess:
        """From images in [0, 1] to the model's pixels."""
        return self.model.preprocess

    @property
    def context_length(self) -> int:
        """Tokens of a prompt that are read, special tokens included."""
        return self.model.context_length

    @property
    def logit_scale(self) -> float:
        """The model's factor on cosines."""
        return self.model.logit_scale

    @property
    def embed_dim(self) -> int:
        """D, the length of the unit vectors."""
        return self.model.embed_dim

    @property
    def noise_aware(self) -> bool:
        """Whether it was trained on x0 previews too, and so tells early what a picture will be.

        A transformers model says it by `"noise_aware": true` in its config.json, as "starter" does.
        """
        return self.model.noise_aware

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Rules of `clipguide.data.alternatives` by which a contrast tells a prompt from others."""
        return ("swaps",)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def content_hash(self) -> str:
        """SHA-256 over names, shapes, types and bytes of all weights as loaded (64 hex digits)."""
        if self._hash is None:
            self._hash = hash_weights(self.model.module)
        return self._hash

    @property
    def settings_hash(self) -> str:
        """SHA-256 over what changes scores beside the weights: configuration, preprocessing and
        tokenizer, as their files were when it was loaded (64 hex digits).

        Empty where they are not known: of a model that was in memory already (`scorer_of`).
        """
        return self.model.settings_hash

    def to(self, device: str | torch.device) -> Scorer:
        """Move the model to `device`, in place; returns itself."""
        with ordinary_tensors():
            self.model.module.to(device)
        self._texts.clear()
        return self

    def encode_image(self, images: Images, *, match: Match = "pil") -> Tensor:
        """(B,D) float32 unit vectors.

        A tensor is differentiable, and so is a list of tensors of one shape; with
        `match="smooth"`, the path of guidance, only a tensor's shape and type are checked, so the
        device is not waited for. PIL images and paths give no gradient and are always resized by
        Pillow.

        Cost: one image-tower pass per image.

        Raises:
            ImageError: an image cannot be read.
            ValueError: no images, or a tensor or array that is none (shape, type, range); a vector
                that is NaN or infinite (of an image tensor with `match="smooth"` they are returned:
                guidance has a guard of its own).
        """
        found = as_images(images)
        if isinstance(found, Tensor):
            vectors = self._encode_tensor(found, match)
            if match == "smooth":
                return vectors
            return self._finite(vectors, lambda place: f"image {place}")
        with torch.no_grad():
            parts = [
                self.model.encode_image(self._read(batch, match))
                for batch in batches(found, BATCH_SIZE)
            ]
        return self._finite(torch.cat(parts), lambda place: name_of(found[place], place))  # (B,D)

    def _finite(self, vectors: Tensor, what: Callable[[int], str]) -> Tensor:
        return check_vectors(vectors, what, self.name, self.model.module)

    def _encode_tensor(self, images: Tensor, match: Match) -> Tensor:
        if match == "smooth":
            check_image_shape(images)
        else:
            check_images(images)
        parts = [
            self.model.encode_image(self.preprocess(part.to(self.device), match))
            for part in images.split(BATCH_SIZE)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # (B,D)

    def _read(self, sources: Sequence[ImageSource | Tensor], match: Match) -> Tensor:
        """Normalised pixels (B,3,h,w), in order; PIL images go to the device as 8 bits."""
        if any(isinstance(source, Tensor) for source in sources):
            parts = [
                self.preprocess(source.to(self.device), match)
                if isinstance(source, Tensor)
                else self._read_files([source])
                for source in sources
            ]
            return torch.cat(parts)
        return self._read_files(cast("Sequence[ImageSource]", sources))

    def _read_files(self, sources: Sequence[ImageSource]) -> Tensor:
        pixels = [self.preprocess.from_pil(load_image(source)) for source in sources]
        batch = torch.stack(pixels).to(self.device).float().div(255)  # (B,3,h,w)
        return self.preprocess.normalize(batch)

    def encode_text(self, prompts: str | Sequence[str]) -> Tensor:
        """(P,D) float32 unit vectors, without gradient; kept for prompts seen before.

        Cost: one text-tower pass per new prompt.

        Raises:
            ValueError: no prompts, or an empty one; a vector that is NaN or infinite.
        """
        prompts = check_prompts([prompts] if isinstance(prompts, str) else prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        vectors = {prompt: self._texts[prompt] for prompt in prompts if prompt in self._texts}
        with ordinary_tensors():
            for part in batches(new, BATCH_SIZE):
                found = self._finite(
                    self.model.encode_text(part), lambda place, part=part: f"prompt {part[place]!r}"
                )
                vectors.update(zip(part, found, strict=True))
        self._remember(vectors)
        return torch.stack([vectors[prompt] for prompt in prompts])

    def _remember(self, vectors: dict[str, Tensor]) -> None:
        for prompt, vector in vectors.items():
            self._texts[prompt] = vector
            self._texts.move_to_end(prompt)
        while len(self._texts) > TEXT_CACHE:
            self._texts.popitem(last=False)

    def score(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B,) cosines, image i against prompt i; a single string is every image's prompt.

        Differentiable in an image tensor.

        Raises:
            ImageError, ValueError: see `encode_image` and `encode_text`; or the numbers of images
                and prompts differ.
        """
        count = count_images(images)
        if not isinstance(prompts, str) and len(check_prompts(prompts)) != count:
            raise ValueError(f"got {count} images and {len(prompts)} prompts, expected as many")
        texts = self.encode_text(prompts)  # (B,D) or (1,D)
        return (self.encode_image(images) * texts).sum(dim=-1)

    def similarity(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B,P) cosines of all pairs; otherwise as `score`."""
        texts = self.encode_text(prompts)
        return self.encode_image(images) @ texts.T

    def score_each(self, images: Images, texts: Sequence[Sequence[str]]) -> list[Tensor]:
        """For each image the (P_i,) scores with its own texts, as a caption file has them.

        Cost: one image-tower pass per image, one text-tower pass per new text.

        Raises:
            ImageError, ValueError: as `score`.
        """
        vectors = self.encode_image(images)
        if len(vectors) != len(texts):
            raise ValueError(f"got {len(vectors)} images and texts for {len(texts)}, expected both")
        return [self.encode_text(own) @ vector for own, vector in zip(texts, vectors, strict=True)]


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        ValueError: there are none, or one is no text, or empty, or not whole (which).
    """
    given = cast(object, prompts)
    if not isinstance(given, Sequence):
        raise ValueError(f"got prompts of type {type(given).__name__}, expected a text or a list")
    listed = list(prompts)
    if not listed:
        raise ValueError("got no prompts, expected one or more")
    for index, prompt in enumerate(listed):
        _check_prompt(prompt, index)
    return listed


def _check_prompt(prompt: object, index: int) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"got {type(prompt).__name__} as prompt {index}, expected a string")
    if not prompt.strip():
        raise ValueError(f"got an empty prompt at position {index}, expected text")
    check_text(prompt, f"prompt {index}")
