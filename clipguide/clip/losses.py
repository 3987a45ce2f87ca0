"""Contrastive losses for training a CLIP: InfoNCE, soft targets, sigmoid.

All take a batch of pairs. With `owners`, pairs of one image (its several captions) are positives of
each other, not negatives. `clipguide.clip.chunked_losses` computes the same in less memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def infonce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (CLIP), optionally with hard negative captions (NegCLIP).

    Args:
        image_features: (B, D) unit vectors.
        text_features: (B, D) unit vectors; caption i belongs to image i.
        logit_scale: multiplies cosines to give logits, the inverse of the temperature.
        hard_negatives: (N, D) unit vectors of captions that belong to no image of the batch; they
            join the other captions that each image must tell its own from.
        owners: (B,) numbers; pairs with one number show one image, and the target is uniform over
            them. None: all differ.

    Returns:
        The mean of both directions, a scalar; ln(B) when every pair looks alike.

    Raises:
        ValueError: the two are not of one shape (B, D), or not one owner a pair.

    Source: Radford et al. 2021 (Figure 3, https://arxiv.org/abs/2103.00020); negatives Yuksekgonul
    et al. 2023 (section 4, https://arxiv.org/abs/2210.01936); several positives Khosla et al. 2020
    (Eq. 2, https://arxiv.org/abs/2004.11362).

    Example:
        >>> infonce(torch.eye(4), torch.eye(4), 100.0).item() < 1e-6
        True
    """
    check_pairs(image_features, text_features, owners)
    to_text = logit_scale * image_features @ candidates(text_features, hard_negatives).T
    to_image = logit_scale * text_features @ image_features.T  # (B, B)
    if owners is None:
        target = torch.arange(len(image_features), device=image_features.device)
        columns = target
    else:
        target = same_owner(owners, owners).to(to_image.dtype)
        target = target / target.sum(dim=1, keepdim=True)  # (B, B), symmetric
        columns = functional.pad(target, (0, to_text.shape[1] - len(target)))
    losses = functional.cross_entropy(to_text, columns), functional.cross_entropy(to_image, target)
    return (losses[0] + losses[1]) / 2


def soft(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    """Cross-entropy against targets from the similarity of images and of captions among themselves.

    The targets are softmax over each row of logit_scale · (I·Iᵀ + T·Tᵀ)/2 on unit vectors, with no
    gradient, at the temperature of the logits; pairs of one image count as equal. A hard negative
    caption has target 0.

    Args and errors: as `infonce`.

    Returns:
        The mean of both directions, a scalar; ln(B) when every pair looks alike. It is never below
        the entropy of its targets.

    Source: the tutorial at https://github.com/moein-shariatnia/OpenAI-CLIP, mended; what it
    publishes is `soft_published`.
    """
    check_pairs(image_features, text_features, owners)
    to_text = logit_scale * image_features @ candidates(text_features, hard_negatives).T
    to_image = logit_scale * text_features @ image_features.T
    # symmetric before the softmax, so one matrix is the target of both directions
    target = target_logits(image_features, text_features, logit_scale, owners).softmax(dim=1)
    target /= target.sum(dim=1, keepdim=True)  # a float32 softmax over thousands sums to 1 + 2e-6
    columns = functional.pad(target, (0, to_text.shape[1] - len(target)))
    losses = functional.cross_entropy(to_text, columns), functional.cross_entropy(to_image, target)
    return (losses[0] + losses[1]) / 2


def soft_published(
    image_features: Tensor, text_features: Tensor, temperature: Tensor | float = 1.0
) -> Tensor:
    """The soft-target loss exactly as the tutorial publishes it; training with it collapses.

    Its targets carry gradient, are multiplied by the temperature where the logits are divided by
    it, are transposed without being normalised again, and its features have no unit length: making
    all of them alike lowers it, and it comes to rest at ln(B).

    Args:
        image_features, text_features: (B, D), what the heads return.
        temperature: T; the tutorial's is 1.

    Returns:
        A scalar.

    Source: https://github.com/moein-shariatnia/OpenAI-CLIP, `CLIPModel.forward`.
    """
    check_pairs(image_features, text_features, None)
    logits = text_features @ image_features.T / temperature
    images = image_features @ image_features.T
    texts = text_features @ text_features.T
    targets = ((images + texts) / 2 * temperature).softmax(dim=-1)
    texts_loss = -(targets * logits.log_softmax(dim=-1)).sum(dim=1)
    images_loss = -(targets.T * logits.T.log_softmax(dim=-1)).sum(dim=1)
    return ((images_loss + texts_loss) / 2).mean()


def sigmoid(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    bias: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    """Every image with every caption is one yes-or-no question (SigLIP).

    Args and errors: as `infonce`; `bias` is added to all logits.

    Returns:
        The sum over all questions divided by B, a scalar; about ln(B) + 1 when every pair looks
        alike and the bias is the best for that.

    Source: Zhai et al. 2023 (Algorithm 1, https://arxiv.org/abs/2303.15343).
    """
    check_pairs(image_features, text_features, owners)
    logits = logit_scale * image_features @ candidates(text_features, hard_negatives).T + bias
    count = len(image_features)
    if owners is None:
        own = torch.eye(count, dtype=torch.bool, device=logits.device)
    else:
        own = same_owner(owners, owners)
    own = functional.pad(own, (0, logits.shape[1] - count))
    return functional.softplus(torch.where(own, -logits, logits)).sum() / count


def collapsed_value(loss: str, batch: int, negatives: int = 0) -> float:
    """The value of a loss when every image and caption has the same vector.

    Args:
        loss: "infonce", "soft", "soft_published" or "sigmoid".
        batch: B.
        negatives: hard negative captions that are candidates of every image.

    Example:
        >>> round(collapsed_value("infonce", 128), 3)
        4.852
    """
    if loss != "sigmoid":
        return (math.log(batch + negatives) + math.log(batch)) / 2
    share = 1 / (batch + negatives)  # of right captions among those an image is compared with
    return -math.log(share) - (batch + negatives - 1) * math.log1p(-share) if share < 1 else 0.0


@torch.no_grad()
def target_logits(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor | float,
    owners: Tensor | None,
    rows: slice = slice(None),
) -> Tensor:
    """Rows of scale · (I·Iᵀ + T·Tᵀ)/2, no gradient; pairs of one image are wholly alike: scale."""
    likeness = image_features[rows] @ image_features.T + text_features[rows] @ text_features.T
    likeness = likeness * (scale / 2)
    if owners is None:
        return likeness
    whole = torch.as_tensor(scale, dtype=likeness.dtype, device=likeness.device)
    return torch.where(same_owner(owners[rows], owners), whole, likeness)


def candidates(text_features: Tensor, hard_negatives: Tensor | None) -> Tensor:
    """The captions an image is compared with: (B, D), or (B + N, D)."""
    return text_features if hard_negatives is None else torch.cat([text_features, hard_negatives])


def same_owner(rows: Tensor, columns: Tensor) -> Tensor:
    """(len(rows), len(columns)): whether two pairs show one image."""
    return rows.unsqueeze(1) == columns.unsqueeze(0)


def check_pairs(image_features: Tensor, text_features: Tensor, owners: Tensor | None) -> None:
    """Refuse what is not a batch of pairs."""
    if image_features.shape != text_features.shape or image_features.ndim != 2:
        raise ValueError(
            f"got features {tuple(image_features.shape)} and {tuple(text_features.shape)}, "
            "expected two of shape (B, D)"
        )
    if owners is not None and owners.shape != image_features.shape[:1]:
        got, expected = tuple(owners.shape), len(image_features)
        raise ValueError(f"got owners {got}, expected ({expected},), one a pair")
