"""The files of pipelines/, each made tiny beside the pipeline of diffusers below it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
from families.flows_packed import flux
from families.latent_unets import PICTURE, sdxl, stable_diffusion
from families.parts import WIDTH, byte_tokenizer, ddim, seeded
from families.stable_diffusion_3 import sd3
from tiny_clip import clip_parts
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from clipguide.seeds import make_generators

FOLDER = Path(__file__).parent.parent / "pipelines"
sys.path.insert(0, str(FOLDER))
CLIP = ("clip_model", "clip_processor")


@dataclass(frozen=True, eq=False)  # hashed as itself
class Case:
    """One file: its pipeline, the one of diffusers below it, and how that is made tiny."""

    file: str
    name: str
    stock: str
    build: Callable[[Any], Any]
    call: dict[str, Any] = field(default_factory=lambda: {"height": 16, "width": 16})
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    flow: bool = False

    def __str__(self) -> str:
        return self.file

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.file}.py"

    @property
    def stock_class(self) -> Any:
        return getattr(diffusers, self.stock)

    @property
    def own_class(self) -> Any:
        return getattr(importlib.import_module(self.file), self.name)


def sd(cls: Any) -> Any:
    return stable_diffusion(cls, ddim())


def sd3_with_t5(cls: Any) -> Any:
    """All three text encoders: diffusers loads a Stable Diffusion 3 without T5 only when told."""
    pipe, width = sd3(cls), 2 * WIDTH
    small = {"d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=len(byte_tokenizer()), d_model=width, **small)
    t5 = seeded(T5EncoderModel, config)
    pipe.register_modules(text_encoder_3=t5, tokenizer_3=byte_tokenizer())
    return pipe


NO_CHECKER = {"requires_safety_checker": False}
CASES = [
    Case("clip_guided_stable_diffusion", "CLIPGuidedStableDiffusionPipeline",
         "StableDiffusionPipeline", sd, config=NO_CHECKER),
    Case("clip_guided_img2img", "CLIPGuidedStableDiffusionImg2ImgPipeline",
         "StableDiffusionImg2ImgPipeline", sd, {"image": PICTURE, "strength": 1.0}, NO_CHECKER),
    Case("clip_guided_stable_diffusion_xl", "CLIPGuidedStableDiffusionXLPipeline",
         "StableDiffusionXLPipeline", sdxl),
    Case("clip_guided_sd3", "CLIPGuidedStableDiffusion3Pipeline", "StableDiffusion3Pipeline",
         sd3_with_t5, flow=True),
    Case("clip_guided_flux", "CLIPGuidedFluxPipeline", "FluxPipeline", flux, flow=True),
]  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES, ids=str)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def stock(case: Case) -> Any:
    return case.build(case.stock_class)


@cache
def made(case: Case, clip_dir: Path) -> Any:
    """By class, of the stock pipeline's components; shared between tests, not to be changed."""
    parts = {**stock(case).components, **clip_parts(clip_dir), **case.config}
    return quiet(case.own_class(**parts))


def call(case: Case, pipe: Any, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    defaults = {"output_type": "pt", "num_inference_steps": 2, "num_images_per_prompt": len(seeds)}
    settings = {**defaults, **case.call, **settings}
    if settings.get("num_candidates"):
        settings.setdefault("num_images_per_prompt", len(seeds))
    return pipe("a fox", generator=make_generators(seeds), **settings)


def guided(case: Case, pipe: Any, seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    return call(case, pipe, seeds, clip_guidance_strength=0.5, **settings)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
