"""The aesthetic reward: how much people liked pictures of that CLIP vector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clipguide.clip.hub import fetch
from clipguide.clip.refusals import refusal
from clipguide.rewards.embedding import EmbeddingReward
from clipguide.rewards.view_encoder import ViewEncoder, as_scorer
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


@dataclass(frozen=True)
class PublishedHead:
    """A head by name: where its weights are, and the CLIP whose vectors it was trained on."""

    repository: str
    scorer: str


HEADS: dict[str, PublishedHead] = {
    "laion-l14": PublishedHead(
        "shunk031/aesthetics-predictor-v1-vit-large-patch14", "openai:ViT-L-14"
    ),
    "laion-b32": PublishedHead(
        "shunk031/aesthetics-predictor-v1-vit-base-patch32", "openai:ViT-B-32"
    ),
    "sac-l14": PublishedHead(
        "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE", "openai:ViT-L-14"
    ),
}
"""Name -> head. LAION's linear ones, and the one of several layers trained on Simulacra Aesthetic
Captions, LOGOS and AVA; these repositories hold them as safetensors, inside whole models."""

# a linear layer is weight and bias; of several, each has a number in its name
_LAYER = re.compile(r"(?:^|\.)(?:predictor\.|(?:layers|mlp)\.(?P<place>\d+)\.)?(weight|bias)$")
_CLIP = ("vision_model.", "text_model.", "visual_projection.", "text_projection.")


class AestheticReward(EmbeddingReward):
    """A rating of about 1 to 10, linear in CLIP's unit vector of the picture.

    Args:
        scorer: the CLIP whose vectors the head was trained on: what `load_scorer` returns, or a
            name for it; None: that of a head by name.
        head: a name of `HEADS`, a .safetensors file, or a Hub id "OWNER/NAME"; see
            `load_aesthetic_head`.
        views: random crops, flips and noise per image; the mean of the ratings is taken.

    Cost: one pass of the image tower over B·views.count images.

    Raises:
        ValueError: no scorer for a head without a name, a head for vectors of another length, or
            one that cannot be read.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"weight": torch.randn(1, 16), "bias": torch.ones(1)}, "head.safetensors")
        >>> AestheticReward(scorer, "head.safetensors")(images).shape
        torch.Size([2])

    Source: LAION's aesthetic predictors (https://github.com/LAION-AI/aesthetic-predictor, linear;
    https://github.com/christophschuhmann/improved-aesthetic-predictor, the several layers, which
    have no activations between them); Schuhmann et al. 2022 (LAION-5B, appendix,
    https://arxiv.org/abs/2210.08402).
    """

    def __init__(
        self,
        scorer: Scorer | str | Path | None = None,
        head: str | Path = "laion-l14",
        views: Views = Views(),
    ) -> None:
        published = HEADS.get(str(head))
        if scorer is None and published is None:
            raise ValueError(f"got head {head} without a scorer, expected the CLIP it is for")
        self.head = load_aesthetic_head(head)  # small: read before the CLIP is
        given = published.scorer if scorer is None and published is not None else scorer
        super().__init__(ViewEncoder(as_scorer(given or ""), views))
        width = next(self.head.parameters()).shape[1]
        if width != self.scorer.embed_dim:
            raise ValueError(
                f"{head}: got a head for vectors of {width} numbers, expected "
                f"{self.scorer.embed_dim}, those of {self.scorer.name}"
            )

    def with_views(self, views: Views) -> AestheticReward:
        """The same head and scorer with other views."""
        other = copy(self)
        other.encoder = replace(self.encoder, views=views)
        return other

    def value(self, embeddings: Tensor) -> Tensor:
        """(B, V, D) -> (B, V)."""
        self.head.to(embeddings.device)
        return self.head(embeddings).squeeze(-1)


def load_aesthetic_head(source: str | Path) -> nn.Sequential:
    """Linear layers, one after the other, from unit vectors (..., D) to a rating (..., 1).

    Args:
        source: a name of `HEADS`; a .safetensors file; a Hub id "OWNER/NAME" of a repository with
            one. The file holds `weight` (1, D) and `bias` (1,), or `layers.N.weight` and
            `layers.N.bias` for several layers, in the order of N, under whatever names before
            these; what else it holds, such as a whole CLIP, is not read.

    Raises:
        ValueError: no such name or file (the names are listed), one that cannot be fetched, or
            without the layers of a head.

    Cost: a repository's whole .safetensors file is fetched once; 1.2 GB of the published ones.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, "sum.safetensors")
        >>> load_aesthetic_head("sum.safetensors")(torch.tensor([0.6, 0.8]))
        tensor([2.4000])
    """
    file = _file(source)
    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys()  # noqa: SIM118  not a mapping
                     if _LAYER.search(name) and not name.startswith(_CLIP)]  # fmt: skip
            tensors = {name: opened.get_tensor(name).float() for name in names}
    except Exception as error:  # OSError, SafetensorError
        raise refusal(str(source), error) from error
    return _layers(str(source), tensors)


def _file(source: str | Path) -> Path:
    name = str(source)
    if name in HEADS:
        return _fetched(name, HEADS[name].repository)
    place = Path(source).expanduser()
    if place.is_file():
        if place.suffix != ".safetensors":
            raise ValueError(f"{name}: got {place.suffix or 'no suffix'}, expected .safetensors")
        return place
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and place.suffix != ".safetensors":
        return _fetched(name, name)
    raise ValueError(
        f"got aesthetic head {name!r}, expected one of {', '.join(HEADS)}, a .safetensors file "
        "that is there, or a Hub id OWNER/NAME"
    )


def _fetched(name: str, repository: str) -> Path:
    files = sorted(fetch(name, repository, ["*.safetensors"]).glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"{name}: got {len(files)} .safetensors files in it, expected one")
    return files[0]


def _layers(name: str, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """The layers in order, held against each other."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _LAYER.search(key)
        if match is not None:
            found.setdefault(int(match["place"] or 0), {})[key.rsplit(".", 1)[-1]] = tensor
    pairs = [found[place] for place in sorted(found)]
    widths = [pair["weight"].shape for pair in pairs if "weight" in pair]
    whole = all(
        pair.keys() == {"weight", "bias"} and pair["weight"].ndim == 2
        and pair["bias"].shape == pair["weight"].shape[:1] for pair in pairs
    )  # fmt: skip
    chained = all(before[0] == after[1] for before, after in pairwise(widths))
    if not (pairs and whole and chained and widths[-1][0] == 1):
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        raise ValueError(f"{name}: got {shapes}, expected linear layers down to one number")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{name}: got a weight that is NaN or infinite, expected finite ones")
    layers: list[nn.Module] = []
    for pair in pairs:
        layer = nn.Linear(pair["weight"].shape[1], pair["weight"].shape[0])
        with torch.no_grad():
            layer.weight.copy_(pair["weight"])
            layer.bias.copy_(pair["bias"])
        layers.append(layer)
    return nn.Sequential(*layers).eval().requires_grad_(False)
