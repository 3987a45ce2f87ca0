"""The configuration of a captioner that is trained: a TOML or YAML file (`[captioner]`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from clipguide.clip.preprocess import MAX_SIDE
from clipguide.language.captioner_files import KINDS, PREFIX
from clipguide.language.clip_prefix import MAPPINGS
from clipguide.language.sight import VIEWS
from clipguide.training.optimizer_settings import TrainTable
from clipguide.training.ranges import BELOW_ONE, Range, check_ranges
from clipguide.training.run_config import RunConfig

_CAPTIONER = {
    **dict.fromkeys(("levels", "hidden", "least", "prefix", "layers"), Range(1)),
    "size": Range(0, MAX_SIDE),
    "dropout": BELOW_ONE,
}


@dataclass(frozen=True)
class CaptionerSettings:
    """What writes, and what it sees.

    Attributes:
        kind: one of `clipguide.language.captioner_files.KINDS`.
        image: a transformers image encoder, of which each place is seen; or
        clip: a scorer by name, of which `view` is seen: "patches" or "embedding".
        size: the side of the square as which `image` is shown the whole photo; 0: as the encoder's
            own preprocessing does, which may cut its edges away.
        levels: how many of the last states of `image` are seen, end to end.
        mirrored: whether captions are written from the photo and its mirror image; they are
            learned from either alone.
        hidden: of an LSTM; the width of a small language model.
        dropout: while it is trained.
        tie_words: whether a word is told by the vector by which it is read; of an LSTM.
        least: how often a word stands in the captions that is taught.
        prefix, mapping: k and kind of the mapping of `clip_prefix`; "places" takes k places.
        layers: of its small language model, and of a mapping by a transformer.
    """

    kind: str = ""
    image: str = ""
    clip: str = ""
    view: str = "patches"
    size: int = 0
    levels: int = 1
    mirrored: bool = False
    hidden: int = 512
    dropout: float = 0.5
    tie_words: bool = False
    least: int = 5
    prefix: int = 10
    mapping: str = "mlp"
    layers: int = 4

    def __post_init__(self) -> None:
        choices = {"kind": KINDS, "view": VIEWS, "mapping": MAPPINGS}
        for name, known in choices.items():
            if (got := getattr(self, name)) not in known:
                raise ValueError(f"got captioner.{name} {got!r}, expected one of {[*known]}")
        if bool(self.image) == bool(self.clip):
            raise ValueError("got captioner.image and captioner.clip both or none, expected one")
        for name, other in (("size", self.size), ("levels", self.levels - 1)):
            if other and self.clip:
                raise ValueError(f"got captioner.{name} beside captioner.clip, expected an image")
        for name in ("mirrored", "tie_words"):
            if self.kind == PREFIX and getattr(self, name):
                raise ValueError(f"got captioner.{name} of {PREFIX}, expected one with an LSTM")
        if self.kind == PREFIX and self.hidden % 32 and self.hidden > 32:
            raise ValueError(f"got captioner.hidden {self.hidden}, expected a multiple of 32")
        check_ranges(self, _CAPTIONER, "captioner.")


@dataclass(frozen=True)
class CaptionTrainSettings(TrainTable):
    """How it is trained. An epoch takes every photo once, with captions drawn among its own.

    Attributes:
        epochs, batch: passes over the photos; photos of a step.
        captions_per_image: drawn for each photo.
        views: cached looks at each photo, of which the first is the photo (`random_view`).
        flip: whether half of the photos are mirrored, as places are (nearly what the encoder makes
            of a mirrored photo).
        longest: words of a caption that are read.
        label_smoothing: the share of a word's probability that is spread over all words.
        answer: how many words at the end of a caption are learned, of a question with its answer
            the answer's; 0: all of it.
        weight_drop: share of an LSTM's weights from state to state that is dropped.
        learning_rate, warmup (steps), ema_decay: of the loop.
        every: epochs between two evaluations on dev.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("batch", "captions_per_image", "views", "longest", "every"), Range(1)),
        "answer": Range(0),
        **dict.fromkeys(("ema_decay", "label_smoothing", "weight_drop"), BELOW_ONE),
    }

    epochs: int = 10
    batch: int = 64
    captions_per_image: int = 5
    views: int = 1
    flip: bool = True
    longest: int = 24
    answer: int = 0
    label_smoothing: float = 0.0
    weight_drop: float = 0.0
    learning_rate: float = 1e-3
    warmup: int = 50
    ema_decay: float = 0.0
    every: int = 1


@dataclass(frozen=True)
class CaptionConfig(RunConfig):
    """A whole run."""

    MODELS = "captioner", ("image", "clip")

    captioner: CaptionerSettings = field(default_factory=CaptionerSettings)
    train: CaptionTrainSettings = field(default_factory=CaptionTrainSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captioner.kind == PREFIX and self.train.weight_drop:
            raise ValueError(f"got train.weight_drop of {PREFIX}, expected one with an LSTM")
