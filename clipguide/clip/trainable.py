"""What a CLIP offers to training: two towers, two heads, a learned scale and bias."""

from __future__ import annotations

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.preprocess import Preprocess
from clipguide.clip.protocol import ClipModel
from clipguide.files import atomic_path

Reader = TypeVar("Reader", bound=ClipModel)

MAX_LOGIT_SCALE = 100.0
"""The learned scale is kept at or below this (Radford et al. 2021, section 2.5)."""
FIRST_BIAS = -10.0
"""Where the learned bias of the sigmoid loss begins (section 3.2 of arXiv:2303.15343)."""


class Tower(nn.Module):
    """An encoder: `model` is the backbone whose blocks can train, `pooling` what is made of it."""

    pooling: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class TrainableClip(nn.Module, ABC):
    """A CLIP that can be trained; also a `ClipModel`.

    Attributes:
        name: what it was loaded by.
        text: tokens (B, T) and their mask (B, T) -> features (B, F).
        image: normalised pixels (B, 3, h, w) -> features (B, F).
        text_head, image_head: features -> (B, D), not of unit length.
        log_scale: logarithm of the factor on cosines.
        bias: of the sigmoid loss.
    """

    noise_aware: bool = False
    settings_hash: str = ""
    name: str
    text: Tower
    image: Tower
    text_head: nn.Module
    image_head: nn.Module
    log_scale: nn.Parameter
    bias: nn.Parameter

    @property
    @abstractmethod
    def preprocess(self) -> Preprocess: ...
    @property
    @abstractmethod
    def context_length(self) -> int: ...
    @property
    @abstractmethod
    def embed_dim(self) -> int: ...
    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens there are."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> `input_ids` and `attention_mask`, (P, T) each. A prompt beyond the context is
        cut with a warning (`PromptTruncated`)."""

    @abstractmethod
    def save_pretrained(
        self, folder: str | Path, results: Mapping[str, float] | None = None
    ) -> None:
        """Write all that `load_scorer(folder)` needs; `results` go into the model card."""

    @property
    def module(self) -> nn.Module:
        """Itself, as `ClipModel` asks."""
        return self

    @property
    def logit_scale(self) -> float:
        return float(self.scale().detach())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def scale(self) -> Tensor:
        """The learned factor on cosines, a scalar with gradient, at most `MAX_LOGIT_SCALE`."""
        return self.log_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (P, D) float32 unit vectors."""
        features = self.text(**self.tokenize(prompts))
        return functional.normalize(self.text_head(features).float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) -> (B, D) float32 unit vectors."""
        features = self.image(pixels.to(self.log_scale.dtype))
        return functional.normalize(self.image_head(features).float(), dim=-1)


class WholeClip(TrainableClip, Generic[Reader]):
    """A CLIP of another library, whose own `ClipModel` says how it reads pictures and prompts.

    Attributes:
        _reader: that `ClipModel`; it shares the parameters.
    """

    _reader: Reader

    @property
    def preprocess(self) -> Preprocess:
        return self._reader.preprocess

    @property
    def context_length(self) -> int:
        return self._reader.context_length

    @property
    def embed_dim(self) -> int:
        return self._reader.embed_dim


def save_files(folder: Path, marker: str, write: Callable[[Path], None]) -> None:
    """Put what `write` writes into a folder, its file `marker` last.

    A folder whose marker is there has all of it, from one `write` alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial") as place:
        write(Path(place))
        found = [path for path in Path(place).rglob("*") if path.is_file()]
        for path in sorted(found, key=lambda path: path.name == marker):
            target = folder / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                path.replace(temporary)


def card_of(kind: str, model: TrainableClip, results: Mapping[str, float]) -> str:
    """A short model card, Markdown with the header that the Hub reads."""
    lines = [
        "---",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        "",
        f"# {kind}",
        "",
        f"Images and texts as unit vectors of {model.embed_dim} dimensions, compared by cosine.",
        f"Trained by clipguide; learned scale on cosines {model.logit_scale:.2f}.",
        "",
        "```python",
        "import clipguide",
        'scorer = clipguide.load_scorer("FOLDER")',
        "```",
        "",
    ]
    return "\n".join([*lines, *table_of(results)])


def table_of(results: Mapping[str, float]) -> list[str]:
    """Lines of a table of figures, none where there are none."""
    if not results:
        return []
    rows = [f"| {name} | {value:.4g} |" for name, value in results.items()]
    return ["| figure | value |", "|---|---|", *rows, ""]
