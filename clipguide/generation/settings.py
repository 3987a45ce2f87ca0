"""All settings of a run, as one frozen value that goes to JSON and comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from clipguide.clip.loading import is_cross_encoder, latent_config
from clipguide.generation.start import Start
from clipguide.guidance.config import GuidanceConfig, merge_guidance
from clipguide.rewards.named import check_reward
from clipguide.rewards.views import Views
from clipguide.search import METHODS, method_with
from clipguide.texts import check_text

DTYPES = ("float32", "float16", "bfloat16")
Value = TypeVar("Value")
LATENT_MODE = "noisy"

_CHOOSES = "contrast + 2*teacher.contrast + 4*scorer:log-prob:starter@0"

# What a model is best run with, where that differs from Settings' own defaults.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "starter": {
        "scorer": "starter:latent",
        "judge": "starter:judge",
        "decoder": "starter",
        "steps": 25,
        "cfg_scale": 3.0,
        # guided by the noisy latents; looks after 5, 8 and 12 steps choose the best of four: twice
        # the denoiser calls. Of pictures whose gradients climbed it a reward is too sure, so its
        # teacher and the captioner, which no gradient has climbed, choose with it
        "reward": "contrast",
        "preview": _CHOOSES,
        "final": _CHOOSES,
        "search": "prune",
        "search_options": {"at": [0.2, 0.3, 0.5], "keep": [0.75, 0.5, 0.25]},
        "budget": 2,
        "batch_size": 5,
        # of the scorer of pictures, where its gradients are asked for: exact ones, which vanish
        # once CLIP is sure of the picture
        "guidance": {"strength": 0.0, "mode": "xt", "normalize": "clamp", "window": [0.5, 1.0]},
    },
}


@dataclass(frozen=True)
class Settings:
    """One run's settings: the same settings, prompts, seeds and weights give the same pictures.

    `batch_size` is one of them because sums over a larger batch may round differently in the last
    bit; a batch of one by default makes each picture repeatable alone.

    Raises: ValueError names the first value out of range, and what was expected.
    """

    model: str = "starter"  # "starter", a directory, or a hub id
    scorer: str = "starter"
    judge: str | None = None  # a scorer that nothing optimises, to tell gain from hacking
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    views: Views = field(default_factory=Views)
    reward: str = "cosine"  # an expression of named rewards, see clipguide.rewards.named
    # another expression, which ranks a search's previews
    preview: str | None = None
    final: str | None = None  # another expression, which chooses among a search's finished pictures
    decoder: str | None = None  # of previews: an AutoencoderTiny; None: the pipeline's own
    search: str | None = None  # a method of clipguide.search
    # settings of the search's own, such as {"funnel": 0.7} of fk
    search_options: dict[str, Any] = field(default_factory=dict[str, Any])
    budget: int = 16  # denoised images per prompt of a search
    until: float | None = None  # stop a search at a picture told from its swaps so surely
    pruning: tuple[float, float] | None = None  # prune's one look (at, keep); None: by the scorer
    steps: int | None = None  # None: the model's own, see clipguide.generation.defaults
    cfg_scale: float | None = None
    negative: str = ""
    width: int | None = None  # None: the model's own
    height: int | None = None
    start: Start = field(default_factory=Start)  # the picture to start from; none: from noise
    sampler: str | None = None  # None: the model's own
    batch_size: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    any_autoencoder: bool = False  # a scorer of latents takes those of other weights than its own

    def __post_init__(self) -> None:
        clip = "a CLIP: a cross-encoder has no gradients and is given as --judge"
        _check(not is_cross_encoder(self.scorer), "scorer", self.scorer, clip)
        scale = self.cfg_scale
        good = scale is None or (math.isfinite(scale) and scale >= 0)
        _check(good, "cfg-scale", scale, "a finite number >= 0")
        for name in ("budget", "steps", "batch_size"):
            value: int | None = getattr(self, name)
            _check(value is None or value >= 1, name.replace("_", "-"), value, "1 or more")
        check_text(self.negative, "negative prompt")
        for name in ("width", "height"):
            side: int | None = getattr(self, name)
            _check(side is None or (side >= 8 and side % 8 == 0), name, side, "a multiple of 8")
        sure = self.until is None or 0 < self.until < 1
        _check(sure, "until", self.until, "a probability between 0 and 1")
        _check(self.until is None or self.search is not None, "until", self.until, "a search too")
        _check(self.search is not None or not self.search_options, "search options",
               self.search_options, "a search too")  # fmt: skip
        if self.search in METHODS:  # another name is said where models are loaded
            method_with(self.search, self.search_options)
        check_reward(self.reward, edit=self.start.edit is not None)
        for text in (self.preview, self.final):
            if text is not None:
                check_reward(text, edit=self.start.edit is not None)
        _check(self.dtype in DTYPES, "dtype", self.dtype, f"one of {', '.join(DTYPES)}")

    @property
    def guided(self) -> bool:
        """Whether CLIP decides anything: by gradients, or by choosing in a search."""
        return self.guidance.strength > 0 or self.search is not None

    @property
    def choosing(self) -> dict[str, str]:
        """The expressions by which a search chooses in the place of `reward`, by stage."""
        given = {"preview": self.preview, "final": self.final}
        searched = self.search is not None
        return {stage: text for stage, text in given.items() if searched and text is not None}

    def without_search(self) -> Settings:
        """The same without a search, nor what is only of one."""
        return replace(
            self, search=None, search_options={}, preview=None, final=None, pruning=None, until=None
        )

    def unguided(self) -> Settings:
        """The same without anything that CLIP decides."""
        return replace(self.without_search(), guidance=replace(self.guidance, strength=0.0))

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object, one key per field."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`; ValueError names a field that is unknown or of a wrong type."""
        return _build(cls, record)


def settings_for(model: str, given: Mapping[str, Any], pictures: int = 1) -> Settings:
    """Settings of `given` (nested as in `to_json`), else what model and scorer are best run with.

    A scorer of latents is climbed in mode "noisy" by the strength that it was measured best at; a
    model whose own scorer reads latents is guided by the teacher of it where another mode is given.
    `pictures`: how many of a prompt are to be kept; a model's own search spends its budget on each.
    """
    best = dict(MODEL_DEFAULTS.get(model, {}))
    if given.get("search", best.get("search")) != best.get("search"):  # meant for its own search
        best = {name: best[name] for name in best if name not in ("budget", "batch_size")}
    if "budget" in best:
        best["budget"] *= pictures
    asked: dict[str, Any] = dict(given.get("guidance", {}))
    scorer = str(given.get("scorer", best.get("scorer", Settings.scorer)))
    own = latent_config(scorer)
    if own is not None and "scorer" not in given and asked.get("mode", LATENT_MODE) != LATENT_MODE:
        scorer, own = own.teacher, None
    whole = all(given.get(n, best.get(n)) == best.get(n) for n in ("scorer", "reward", "search"))
    if own is None or not whole:
        for name in ("preview", "final", "search_options"):
            best.pop(name, None)  # meant for the model's own way to guide and to search
    guidance = best.get("guidance", {}) if own is None else {"mode": LATENT_MODE, **own.guidance}
    merged: dict[str, Any] = {**best, **given, "model": model, "scorer": scorer}
    merged["guidance"] = merge_guidance(guidance, asked)
    return _build(Settings, merged)


_PARTS: dict[str, type[Any]] = {"guidance": GuidanceConfig, "views": Views, "start": Start}


def _build(kind: type[Value], record: Mapping[str, Any]) -> Value:
    types = {f.name: str(f.type) for f in fields(cast("Any", kind))}
    values: dict[str, object] = {}
    for name, value in record.items():
        if name not in types:
            raise ValueError(f"got setting {name!r}, expected one of {', '.join(types)}")
        if name in _PARTS:
            _check(isinstance(value, Mapping), name, value, "an object")
            values[name] = _build(_PARTS[name], value)
        else:
            values[name] = _read(name, value, types[name])
    return kind(**values)


def _read(name: str, value: object, kind: str) -> object:
    if value is None and kind.endswith("| None"):
        return None
    if kind.startswith("dict"):
        _check(isinstance(value, Mapping), name, value, "a table")
        return dict(cast("Mapping[str, object]", value))
    if kind.startswith("tuple"):
        pair = cast("list[object]", value) if isinstance(value, list | tuple) else []
        _check(len(pair) == 2 and all(map(_is_number, pair)), name, value, "two numbers")
        return (cast("float", pair[0]), cast("float", pair[1]))
    if kind.startswith("float"):
        _check(_is_number(value), name, value, "a number")
        return float(cast("float", value))
    if kind == "bool":
        _check(isinstance(value, bool), name, value, "true or false")
        return value
    expected = int if kind.startswith("int") else str
    _check(isinstance(value, expected) and not isinstance(value, bool), name, value, kind)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ValueError(f"got {name} {value}, expected {expected}")
