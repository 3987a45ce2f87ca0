"""One pipeline call of a search: how many images it may make, and what it returns as a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from clipguide.attach.layouts import is_a
from clipguide.attach.preserve import undone_when_left
from clipguide.attach.unsupported import Unsupported

RESERVED = ("generator", "output_type", "num_images_per_prompt", "return_dict", "prompt")
"""Arguments of the pipeline that a search sets itself."""

# pipelines that fail for several images, whatever their arguments say (in diffusers 0.42 PRX gives
# the denoiser as many timesteps as there are branches of classifier-free guidance), or make others
# of them in a batch than alone (the views of Panorama)
ONE_A_CALL = ("PRXPipeline", "PRXPixelPipeline", "StableDiffusionPanoramaPipeline")

# how arguments begin that say what the text says, whatever they are made of
_TEXT = ("prompt", "negative_prompt", "pooled", "negative_pooled")


@dataclass(frozen=True)
class Call:
    """A pipeline and its arguments, to be called with any generators.

    Attributes:
        pipe: the pipeline.
        prompt: one text; None for pipelines without one.
        arguments: all others but those in `RESERVED`; of a prompt (`negative_prompt`, `prompt_2`) a
            list of one text stands for that text.
    """

    pipe: Any
    prompt: str | None
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        taken = [name for name in RESERVED if name in self.arguments]
        if taken:
            raise ValueError(f"got argument {taken[0]!r} for the pipeline, but a search sets it")
        arguments = {name: _single(name, value) for name, value in self.arguments.items()}
        object.__setattr__(self, "arguments", arguments)

    @property
    def alone(self) -> bool:
        """Whether every image has to be a call of its own.

        diffusers encodes the one picture of a call with the first generator and repeats it, so in
        a batch the other images would have a posterior and noise that are not their seed's.
        """
        given = any(holds_pictures(*item) for item in self.arguments.items())
        return given or self._count is None or is_a(self.pipe, ONE_A_CALL)

    @property
    def _count(self) -> str | None:
        """The pipeline's argument for images per call; None for one that makes one alone."""
        given = inspect.signature(type(self.pipe).__call__).parameters
        return next((n for n in ("num_images_per_prompt", "batch_size") if n in given), None)

    def __call__(
        self, generators: list[torch.Generator], prompts: Sequence[str | None] | None = None
    ) -> Tensor:
        """One image per generator, (B, 3, H, W) in [0, 1], without gradient.

        Asked for as arrays: only those are in [0, 1] whatever the pipeline (Kandinsky 2.2 and
        DeepFloyd IF return tensors in [-1, 1]).

        Args:
            generators: one per image.
            prompts: of each image; None: `prompt` for all.
        """
        own = self._asked(len(generators), prompts or [self.prompt])
        # of one image exactly the call that a user of the pipeline would make
        own["generator"] = generators[0] if len(generators) == 1 else generators
        with undone_when_left(self.pipe):
            output = self.pipe(**own, output_type="np")
        return as_tensor(_images(output, self.pipe), self.pipe).to(
            getattr(self.pipe, "_execution_device", "cpu")
        )

    def _asked(self, count: int, prompts: Sequence[str | None]) -> dict[str, Any]:
        """Prompts, other arguments, and how many images, for `count` of them."""
        if len(set(prompts)) > 1:
            each = {name: _repeated(name, value, count) for name, value in self.arguments.items()}
            return each | {"prompt": [*prompts]}
        own: dict[str, Any] = {} if prompts[0] is None else {"prompt": prompts[0]}
        own |= {} if self._count is None else {self._count: count}
        return self.arguments | own


def _repeated(name: str, value: Any, count: int) -> Any:
    """An argument that says what a prompt says, for `count` prompts; others as they are."""
    if not name.startswith(_TEXT):
        return value
    if isinstance(value, str):
        return [value] * count
    return value.repeat_interleave(count, 0) if isinstance(value, Tensor) else value


def _single(name: str, value: Any) -> Any:
    """The text of a list of one text: there is one prompt, so one negative prompt. Other lists (the
    phrases of GLIGEN) are what they are."""
    prompt = name.startswith(("prompt", "negative_prompt"))
    texts = cast("list[Any]", value) if prompt and isinstance(value, list) else []
    return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else value


def holds_pictures(name: str, value: Any) -> bool:
    """Whether an argument of a pipeline gives pictures, latents, or arrays of unknown meaning."""
    if isinstance(value, Mapping):
        return any(holds_pictures(name, part) for part in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return any(holds_pictures(name, part) for part in cast("list[Any]", value))
    if name.startswith(_TEXT) or name.endswith("_embeds"):
        return False
    return isinstance(value, Tensor | np.ndarray | Image)


def _images(output: Any, pipe: Any) -> Any:
    """The pictures of a pipeline's output.

    Raises:
        NotImplementedError: names what it returned in their place.
    """
    fields: dict[str, Any] = {**output} if isinstance(output, dict) else {}
    for name in ("images", "rgb"):  # LDM3D: rgb and depth
        if fields.get(name) is not None:
            return fields[name]
    got = ", ".join(fields) or type(output).__name__
    raise Unsupported(
        f"{type(pipe).__name__} returned {got}, expected images: a search makes pictures"
    )


def as_tensor(images: Any, pipe: Any) -> Tensor:
    """Images as pipelines return arrays of them, (B, H, W, 3), as a tensor (B, 3, H, W).

    Raises:
        NotImplementedError: no images (video, audio), or not of three channels.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[-1] != 3:
        got = f"shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise Unsupported(
            f"{type(pipe).__name__} returned images of {got}, expected (B, H, W, 3): a search "
            "makes pictures"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
