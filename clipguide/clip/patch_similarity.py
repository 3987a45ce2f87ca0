"""How near each patch of a picture is to a phrase: the patch tokens of a ViT, put beside texts."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from clipguide.clip.open_clip_model import OpenClipModel
from clipguide.clip.patch_tokens import patch_tokens
from clipguide.clip.protocol import ClipModel
from clipguide.clip.scorer import Scorer
from clipguide.clip.transformers_clip import TransformersClip
from clipguide.images import ImageSource, load_image


@torch.no_grad()
def patch_similarity(scorer: Scorer, image: ImageSource, phrase: str) -> Tensor:
    """(h, w) float32 in [-1, 1]: the cosine of each patch with the phrase, rows from the top.

    The last layer's tokens go through what the class token alone goes through in CLIP, the last
    normalisation and the projection (Zhou et al. 2022, https://arxiv.org/abs/2112.01071, section
    3.2, without its change of the last attention). No CLIP was trained for it: patches of empty
    background often score as high as the object (Li et al. 2023, https://arxiv.org/abs/2304.05653),
    so the reports use `clipguide.clip.similarity_map`, which asks for scores alone.

    Args:
        scorer: with a ViT of transformers' CLIP or of open_clip.
        image: a picture; what the model's own crop leaves of it is looked at.
        phrase: what is looked for.

    Cost: one pass of the image tower, all of its layers' states in memory.

    Raises:
        ValueError: a model whose patches have no vectors beside texts; an empty phrase;
            `ImageError` for no picture.

    Example:
        >>> patch_similarity(scorer, Image.new("RGB", (40, 30)), "a red star").shape
        torch.Size([4, 4])
    """
    text = scorer.encode_text(phrase)[0]  # (D,)
    pixels = scorer.preprocess.from_pil(load_image(image)).to(scorer.device).float().div(255)
    tokens = patch_tokens(scorer.model, scorer.preprocess.normalize(pixels[None]))[-1]  # (1, N, C)
    vectors = _beside_texts(scorer.model, tokens)[0].float()  # (N, D)
    cosines = functional.normalize(vectors, dim=-1) @ text  # (N,)
    side = math.isqrt(len(cosines))
    return cosines.reshape(side, side).cpu()


def _beside_texts(model: ClipModel, tokens: Tensor) -> Tensor:
    """(1, N, C) of the last layer -> (1, N, D), what the class token alone becomes in CLIP."""
    module: Any = cast("Any", model.module)
    tokens = tokens.to(next(model.module.parameters()).dtype)
    if isinstance(model, TransformersClip) and hasattr(module, "visual_projection"):
        return module.visual_projection(module.vision_model.post_layernorm(tokens))
    tower: Any = getattr(module, "visual", None)
    if isinstance(model, OpenClipModel) and isinstance(getattr(tower, "proj", None), Tensor):
        return tower.ln_post(tokens) @ tower.proj
    raise ValueError(
        f"{model.name}: got a {type(module).__name__}, whose patches have no vectors beside texts, "
        "expected a CLIP with a ViT; similarity_map asks for scores alone"
    )
