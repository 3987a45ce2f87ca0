"""What the metrics of sets compare: image vectors of a CLIP, or of any vision tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.finite import check_weights_finite
from clipguide.clip.hub import NO_CODE
from clipguide.clip.loading import CHOICES, load_scorer
from clipguide.clip.refusals import refusing

VISION = "vision:"
Encode = Callable[[Sequence[Image.Image]], Tensor]


def load_features(name: str, device: str = "cpu") -> Encode:
    """Images to features (N, D), float32: of a scorer by its name, or "vision:REPO_OR_DIR".

    A CLIP gives unit vectors. A vision tower of transformers (DINOv2, ViT, ConvNeXt ...) sees what
    its own image processor makes of an image and gives its pooled output, or where it has none the
    first token's last state; as it is, not of length 1.

    Raises:
        ValueError: it cannot be loaded, reads no images, or is a cross-encoder (no vectors).

    Example:
        >>> load_features("starter")([image]).shape
        torch.Size([1, 128])
    """
    if name.startswith(VISION):
        return _Tower(name, name.removeprefix(VISION), device)
    try:
        scorer = load_scorer(name, device=device)
    except ValueError as error:
        if "expected one of: " in str(error):  # an unknown name: this has one kind more
            choices = ", ".join((*CHOICES, f"{VISION}REPOSITORY_OR_FOLDER"))
            raise ValueError(f"got features {name!r}, expected one of: {choices}") from error
        raise
    return lambda images: scorer.encode_image([*images])


class _Tower:
    """A vision tower of transformers."""

    def __init__(self, name: str, source: str, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        with refusing(name):
            folder = model_parts(name, source)
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
            module: nn.Module = load_module(name, folder, AutoModel, torch.float32)
        check_weights_finite(name, module)
        self._name, self._device = name, device
        self._module = module.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        pixels: Any = self._processor(images=[*images], return_tensors="pt").to(self._device)
        try:
            found: Any = self._module(**pixels)
        except (TypeError, ValueError) as error:  # it wants texts, or something else, too
            kind = type(self._module).__name__
            raise ValueError(f"{self._name}: got a {kind}, expected a vision tower") from error
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        features = found.last_hidden_state[:, 0] if pooled is None else pooled
        return features.flatten(1).float().cpu()  # (N, D)
