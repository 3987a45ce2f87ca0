"""Every file of pipelines/: what diffusers' own pipeline tests ask, with their tolerances.

Save and load 5e-4, batch against single images 1e-4, dictionary against tuple 1e-4, from_pipe 1e-3,
attention slicing 1e-3, optional components 1e-4 (diffusers, tests/pipelines/test_pipelines_common).
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from families.flows_packed import flux
from families.latent_unets import PICTURE, sdxl, stable_diffusion
from families.parts import WIDTH, byte_tokenizer, ddim, seeded
from families.stable_diffusion_3 import sd3
from tiny_clip import tiny_clip_dir
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from clipguide.clip.loading import load_scorer
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


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip_dir(tmp_path_factory.mktemp("clip"), image_size=16)


def clip_parts(folder: Path) -> dict[str, Any]:
    processor = CLIPProcessor(
        image_processor=CLIPImageProcessor.from_pretrained(folder),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
    )
    return {"clip_model": CLIPModel.from_pretrained(folder), "clip_processor": processor}


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


# ----------------------------------------------------------------------------------- what it does


@EACH
def test_strength_0_is_the_stock_pipeline_to_the_bit(case: Case, clip_dir: Path) -> None:
    expected = call(case, stock(case), (0, 1)).images
    ours = call(case, made(case, clip_dir), (0, 1), clip_guidance_strength=0.0)
    assert torch.equal(ours.images, expected)
    scorer = load_scorer(clip_dir)
    assert ours.clip_scores == pytest.approx(scorer.score(expected, "a fox").tolist(), abs=1e-6)


@EACH
def test_guidance_raises_the_score_of_the_same_seeds(case: Case, clip_dir: Path) -> None:
    pipe, seeds = made(case, clip_dir), (0, 1, 2, 3)
    plain = call(case, pipe, seeds, clip_guidance_strength=0.0).clip_scores
    for mode in ("x0", "xt"):
        output = guided(case, pipe, seeds, clip_guidance_mode=mode)
        assert sum(output.clip_scores) > sum(plain)
        # alpha is 0 in the first step of a flow, where mode xt is singular
        assert len(output.clip_trace.steps) == 2 - (mode == "xt" and case.flow)
        assert not output.clip_trace.skipped
    again = call(case, pipe, seeds, clip_guidance_strength=0.0).clip_scores
    assert again == plain


@EACH
def test_the_best_of_several_latents_are_those_of_the_images(case: Case, clip_dir: Path) -> None:
    pipe, seeds = made(case, clip_dir), (0, 1, 2, 3)
    settings = {"num_candidates": 4, "num_images_per_prompt": 2, "clip_guidance_strength": 0.0}
    images = call(case, pipe, seeds, **settings)
    latents = call(case, pipe, seeds, output_type="latent", **settings)
    everything = call(case, pipe, seeds, clip_guidance_strength=0.0)
    best = torch.tensor(everything.clip_scores).argsort(descending=True)[:2].tolist()
    assert images.candidate_indices == latents.candidate_indices == best
    assert torch.equal(images.images, everything.images[best])
    assert latents.clip_scores == pytest.approx(images.clip_scores, abs=1e-6)


# ------------------------------------------------------------------------------------- invariants


@EACH
def test_a_batch_is_its_single_images(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    batch = guided(case, pipe, (3, 4, 5)).images
    single = torch.cat([guided(case, pipe, (seed,)).images for seed in (3, 4, 5)])
    assert difference(batch, single) < 1e-4


@EACH
def test_tuple_and_dictionary_agree(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    output = guided(case, pipe)
    images, *beside, scores = guided(case, pipe, return_dict=False)
    assert difference(images, output.images) < 1e-4
    assert scores == pytest.approx(output.clip_scores, abs=1e-6)
    assert len(beside) == hasattr(call(case, stock(case)), "nsfw_content_detected")


@EACH
def test_components_are_the_arguments_of_init(case: Case, clip_dir: Path) -> None:
    pipe = made(case, clip_dir)
    arguments = set(inspect.signature(type(pipe).__init__).parameters)
    stock_arguments = set(inspect.signature(case.stock_class.__init__).parameters)
    assert arguments == stock_arguments | set(CLIP)
    assert set(pipe.components) == set(stock(case).components) | set(CLIP)
    assert {*CLIP, *case.stock_class._optional_components} == set(pipe._optional_components)
    assert "clip_model" in pipe._exclude_from_cpu_offload
    again = quiet(case.own_class(**pipe.components, **case.config))
    assert torch.equal(guided(case, again).images, guided(case, pipe).images)


@EACH
def test_callbacks_are_the_stock_pipelines(case: Case, clip_dir: Path) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def callback(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> Any:
        seen.append((step, tuple(tensors["latents"].shape)))
        return tensors

    output = guided(case, made(case, clip_dir), callback_on_step_end=callback)
    assert [step for step, _ in seen] == [0, 1]
    plain = guided(case, made(case, clip_dir))
    assert torch.equal(output.images, plain.images)


@EACH
def test_half_precision(case: Case, clip_dir: Path) -> None:
    pipe = quiet(copy.deepcopy(made(case, clip_dir)).to(torch.bfloat16))
    output, full = guided(case, pipe, (0, 1)), guided(case, made(case, clip_dir), (0, 1))
    assert output.clip_scores == pytest.approx(full.clip_scores, abs=0.1)
    assert not output.clip_trace.skipped


# -------------------------------------------------------------------------------- load and save


def dtypes(pipe: Any) -> set[torch.dtype]:
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return {p.dtype for module in modules for p in module.parameters()}


@EACH
def test_save_and_load_by_class_and_by_path(case: Case, clip_dir: Path, tmp_path: Path) -> None:
    pipe = made(case, clip_dir)
    expected = guided(case, pipe, (0, 1)).images
    pipe.save_pretrained(tmp_path)
    by_class = quiet(case.own_class.from_pretrained(tmp_path))
    assert difference(guided(case, by_class, (0, 1)).images, expected) < 5e-4
    by_path = quiet(
        DiffusionPipeline.from_pretrained(
            tmp_path, custom_pipeline=str(case.path), trust_remote_code=True
        )
    )
    assert type(by_path).__name__ == case.name
    assert difference(guided(case, by_path, (0, 1)).images, expected) < 5e-4
    half = case.own_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert dtypes(half) == {torch.bfloat16}


@EACH
def test_a_stock_model_gets_its_clip_while_loading(
    case: Case, clip_dir: Path, tmp_path: Path
) -> None:
    """And without one it is the stock pipeline, saved and loaded with the components None."""
    stock(case).save_pretrained(tmp_path / "stock")
    loaded = quiet(
        DiffusionPipeline.from_pretrained(
            tmp_path / "stock",
            custom_pipeline=str(case.path),
            trust_remote_code=True,
            **clip_parts(clip_dir),
        )
    )
    expected = guided(case, made(case, clip_dir)).images
    assert difference(guided(case, loaded).images, expected) < 5e-4
    bare = quiet(case.own_class.from_pretrained(tmp_path / "stock"))
    bare.save_pretrained(tmp_path / "bare")
    bare = quiet(case.own_class.from_pretrained(tmp_path / "bare"))
    assert bare.clip_model is bare.clip_processor is None
    output = call(case, bare, clip_guidance_strength=0.0)
    # weights read from a file lie elsewhere in memory: the last bits of a product may differ
    assert difference(output.images, call(case, stock(case)).images) < 5e-4
    assert output.clip_scores is None
    with pytest.raises(ValueError, match="without clip_model and clip_processor"):
        guided(case, bare)


@EACH
def test_from_pipe_and_back(case: Case, clip_dir: Path) -> None:
    parts = clip_parts(clip_dir)
    ours = quiet(case.own_class.from_pipe(stock(case), dtype=torch.float32, **parts))
    assert ours.vae is stock(case).vae
    expected = guided(case, made(case, clip_dir)).images
    assert difference(guided(case, ours).images, expected) < 1e-3
    back = quiet(case.stock_class.from_pipe(ours, dtype=torch.float32))
    assert torch.equal(call(case, back).images, call(case, stock(case)).images)
    half = copy.deepcopy(made(case, clip_dir)).to(torch.bfloat16)
    stays = case.own_class.from_pipe(half, dtype=torch.bfloat16)
    assert dtypes(stays) == {torch.bfloat16}


@EACH
def test_the_file_is_one_pipeline_of_its_own(case: Case) -> None:
    """One class, absolute imports, no loop and no file beside it."""
    tree = ast.parse(case.path.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert classes == [case.name]
    assert all(node.level == 0 for node in imports)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
    siblings = {file.stem for file in FOLDER.glob("*.py")}
    assert not siblings & {str(node.module).split(".")[0] for node in imports}


def test_every_file_is_tested_and_in_the_readme() -> None:
    files = {file.stem for file in FOLDER.glob("*.py")} - {"modular_clip_guidance"}
    assert files == {case.file for case in CASES}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for case in CASES:
        assert f"| `{case.file}.py` | `{case.name}` |" in readme
        assert case.stock in readme
