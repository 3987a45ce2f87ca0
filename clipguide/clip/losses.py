"""Contrastive losses for training a CLIP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def infonce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hard_negatives: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (CLIP), optionally with hard negative captions (NegCLIP).

    Args:
        image_features: (B, D) unit vectors.
        text_features: (B, D) unit vectors; caption i belongs to image i.
        logit_scale: multiplies cosines to give logits, the inverse of the temperature.
        hard_negatives: (N, D) unit vectors of captions that belong to no image of the batch; they
            join the other captions that each image must tell its own from.

    Returns:
        The mean of both directions, a scalar; ln(B) when every pair looks alike.

    Raises:
        ValueError: the two are not of one shape (B, D).

    Source: Radford et al. 2021 (Figure 3, https://arxiv.org/abs/2103.00020); negatives Yuksekgonul
    et al. 2023 (section 4, https://arxiv.org/abs/2210.01936).

    Example:
        >>> infonce(torch.eye(4), torch.eye(4), 100.0).item() < 1e-6
        True
    """
    if image_features.shape != text_features.shape or image_features.ndim != 2:
        raise ValueError(
            f"got features {tuple(image_features.shape)} and {tuple(text_features.shape)}, "
            "expected two of shape (B, D)"
        )
    candidates = text_features
    if hard_negatives is not None:
        candidates = torch.cat([text_features, hard_negatives])  # (B + N, D)
    target = torch.arange(len(image_features), device=image_features.device)
    to_text = functional.cross_entropy(logit_scale * image_features @ candidates.T, target)
    to_image = functional.cross_entropy(logit_scale * text_features @ image_features.T, target)
    return (to_text + to_image) / 2
