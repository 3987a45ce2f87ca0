"""The heads of a dual encoder: from the features of a backbone to the common space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ProjectionHead(nn.Module):
    """Linear to D, then GELU, linear and dropout beside a residual, then LayerNorm."""

    layers = "linear, GELU, linear, dropout, residual, LayerNorm"

    def __init__(self, features: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(features, embed_dim)
        self.fc = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, D), not of unit length."""
        projected = self.projection(features)
        return self.layer_norm(projected + self.dropout(self.fc(functional.gelu(projected))))


class LinearHead(nn.Module):
    """Features brought to length sqrt(F), a share of them dropped while training, linear to D."""

    layers = "features of length sqrt(F), dropout, linear"

    def __init__(self, features: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(features, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, D), not of unit length."""
        scaled = functional.normalize(features, dim=-1) * features.shape[-1] ** 0.5
        return self.projection(self.dropout(scaled))


HEADS: dict[str, type[ProjectionHead | LinearHead]] = {
    "projection": ProjectionHead,
    "linear": LinearHead,
}
"""Name -> class, made of (features F, embed_dim D, dropout), its `layers` for a card. On features
of frozen backbones the linear one learns as much and overfits less; the other is the tutorial's."""
