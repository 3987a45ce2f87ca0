"""pipelines/modular_clip_guidance.py: by class, by path, saved and loaded, guided by its prompt."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipelineBlocks, StableDiffusion3AutoBlocks, StableDiffusionXLAutoBlocks
from test_modular import call, pipeline, same_trace
from tiny_clip import clip_parts, tiny_clip_dir

from clipguide.clip.loading import scorer_of
from clipguide.clip.scorer import Scorer
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards import ClipReward

FOLDER = Path(__file__).parent.parent / "pipelines"
sys.path.insert(0, str(FOLDER))
from modular_clip_guidance import (  # noqa: E402
    CLIPGuidedStableDiffusionXLBlocks,
    CLIPRewardStep,
    with_clip_guidance,
)

STRONG = {"clip_guidance_strength": 0.5}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return clip_parts(tiny_clip_dir(tmp_path_factory.mktemp("clip"), image_size=16))


def scorer(parts: dict[str, Any]) -> Scorer:
    return scorer_of(parts["clip_model"], parts["clip_processor"])


def guided(name: str, blocks: Any, parts: dict[str, Any]) -> Any:
    pipe = pipeline(name, blocks)
    pipe.update_components(**parts)
    return pipe


def test_stable_diffusion_xl_follows_its_prompt(parts: dict[str, Any]) -> None:
    """The images and scores of the reward and settings that the arguments stand for."""
    pipe = guided("xl", CLIPGuidedStableDiffusionXLBlocks(), parts)
    plain, none = call(pipe, (0, 1), clip_guidance_strength=0.0)
    assert none is None
    assert torch.equal(plain, call(pipeline("xl", StableDiffusionXLAutoBlocks()), (0, 1))[0])
    judge = scorer(parts)
    images, trace = call(pipe, (0, 1), clip_guidance_window=(0.1, 1.0), **STRONG)
    assert judge.score(images, "a fox").sum() > judge.score(plain, "a fox").sum()
    expected, steps = call(
        pipeline("xl"),
        (0, 1),
        clip_reward=ClipReward(judge, "a fox"),
        clip_guidance=GuidanceConfig(0.5, window=(0.1, 1.0)),
    )
    assert torch.equal(images, expected)
    same_trace(trace, steps)


def test_clip_prompt_and_negative_prompt(parts: dict[str, Any]) -> None:
    pipe = guided("xl", CLIPGuidedStableDiffusionXLBlocks(), parts)
    images, _ = call(pipe, clip_prompt="snow", clip_negative_prompt="rain", **STRONG)
    reward = ClipReward(scorer(parts), "snow", negative="rain")
    expected, _ = call(pipeline("xl"), clip_reward=reward, clip_guidance=GuidanceConfig(0.5))
    assert torch.equal(images, expected)


def test_other_blocks(parts: dict[str, Any]) -> None:
    pipe = guided("sd3", with_clip_guidance(StableDiffusion3AutoBlocks()), parts)
    images, trace = call(pipe, **STRONG)
    assert len(trace.steps) == 3
    assert not torch.equal(images, call(pipe, clip_guidance_strength=0.0)[0])


def test_loading_by_path_and_saving(parts: dict[str, Any], tmp_path: Path) -> None:
    loaded = ModularPipelineBlocks.from_pretrained(str(FOLDER), trust_remote_code=True)
    assert type(loaded).__name__ == "CLIPGuidedStableDiffusionXLBlocks"
    by_class = CLIPGuidedStableDiffusionXLBlocks()
    expected, _ = call(guided("xl", by_class, parts), **STRONG)
    assert torch.equal(call(guided("xl", loaded, parts), **STRONG)[0], expected)
    by_class.save_pretrained(tmp_path)
    shutil.copy(FOLDER / "modular_clip_guidance.py", tmp_path)
    again = ModularPipelineBlocks.from_pretrained(str(tmp_path), trust_remote_code=True)
    assert torch.equal(call(guided("xl", again, parts), **STRONG)[0], expected)
    kept, saved = (
        json.loads((folder / "modular_config.json").read_text()) for folder in (FOLDER, tmp_path)
    )
    assert kept["auto_map"] == saved["auto_map"]
    assert kept["_class_name"] == saved["_class_name"]


def test_mistakes_are_named(parts: dict[str, Any]) -> None:
    bare = pipeline("xl", CLIPGuidedStableDiffusionXLBlocks())
    with pytest.raises(ValueError, match="without clip_model and clip_processor"):
        call(bare, **STRONG)
    pipe = guided("xl", CLIPGuidedStableDiffusionXLBlocks(), parts)
    with pytest.raises(ValueError, match="got strength"):
        call(pipe, clip_guidance_strength=-1.0)
    names = {spec.name for spec in CLIPRewardStep().expected_components}
    assert names == {"clip_model", "clip_processor"} <= set(pipe.component_names)
    assert set(CLIPGuidedStableDiffusionXLBlocks().available_workflows) == set(
        StableDiffusionXLAutoBlocks().available_workflows
    )
