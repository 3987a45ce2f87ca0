"""The guided classes take what their bases take, in the same order, and ours by keyword."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_cases import CASES, EACH, FOLDER, Case, call, stock
from tiny_pipelines import ProjectionReward

from clipguide.attach.guide import guide
from clipguide.guidance.config import GuidanceConfig
from clipguide.pipelines.arguments import NAMES
from clipguide.pipelines.clip_guided_call import ClipGuidedCall
from clipguide.rewards import FunctionReward
from clipguide.seeds import make_generators

REWARD = ProjectionReward()


def parameters(cls: Any) -> list[inspect.Parameter]:
    return [*inspect.signature(cls.__call__).parameters.values()]


@EACH
def test_base_parameters_first_and_in_order_ours_by_keyword(case: Case) -> None:
    base, ours = parameters(case.stock_class), parameters(case.own_class)
    named = [p for p in base if p.kind is not p.VAR_KEYWORD]
    assert ours[: len(named)] == named  # names, kinds, defaults and annotations
    own = ours[len(named) : len(named) + len(NAMES)]
    assert [p.name for p in own] == [*NAMES]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in own)
    assert ours[len(named) + len(NAMES) :] == [p for p in base if p.kind is p.VAR_KEYWORD]


@EACH
def test_what_diffusers_asks_of_a_call(case: Case) -> None:
    """As `test_pipeline_call_signature` of its common tests: every pipeline has these."""
    given = inspect.signature(case.own_class.__call__).parameters
    optional = {name for name, p in given.items() if p.default is not p.empty}
    assert {"prompt", "num_inference_steps", "guidance_scale"} <= set(given)
    wanted = {"generator", "num_images_per_prompt", "output_type", "return_dict"}
    assert wanted | {"num_inference_steps"} <= optional


def test_arguments_by_place_are_the_base_s() -> None:
    """Prompt, height and width of Stable Diffusion; a name that nobody has is refused."""
    case = CASES[0]
    pipe = made_without_clip(case)
    settings = {"num_inference_steps": 2, "output_type": "pt", "clip_guidance_strength": 0.0}
    ours = pipe("a fox", 16, 24, generator=make_generators([0])[0], **settings)
    assert ours.images.shape == (1, 3, 16, 24)
    del settings["clip_guidance_strength"]
    plain = stock(case)("a fox", 16, 24, generator=make_generators([0])[0], **settings).images
    assert torch.equal(ours.images, plain)
    with pytest.raises(TypeError, match="multiple values"):
        pipe("a fox", prompt="a cat")


def made_without_clip(case: Case) -> Any:
    pipe = case.own_class(**stock(case).components, **case.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@EACH
def test_a_reward_expression_and_all_settings_in_one_value(case: Case) -> None:
    """The pictures of `guide` around the stock pipeline, without any CLIP."""
    reward, config = 0.5 * FunctionReward(REWARD) + brightness, GuidanceConfig(0.3, every=2)
    ours = call(case, made_without_clip(case), clip_reward=reward, clip_guidance=config)
    pipe = stock(case)
    with guide(pipe, reward, config=config) as trace:
        expected = call(case, pipe).images
    assert torch.equal(ours.images, expected)
    assert [s.score.item() for s in ours.clip_trace.steps] == [s.score.item() for s in trace.steps]
    assert ours.clip_cosines is None


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean((1, 2, 3))


def test_a_class_with_a_call_of_its_own_keeps_it() -> None:
    class Own(CASES[0].own_class):
        def __call__(self) -> str:
            return "own"

    class Below(CASES[0].own_class):
        pass

    assert [*inspect.signature(Own.__call__).parameters] == ["self"]
    assert parameters(Below) == parameters(CASES[0].own_class)
    assert issubclass(Below, ClipGuidedCall)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_guidance": GuidanceConfig(), "clip_guidance_every": 2}, "clip_guidance_every"),
        ({"clip_reward": REWARD, "clip_negative_prompt": "a cat"}, "clip_negative_prompt"),
        ({"clip_reward": REWARD, "num_candidates": 2}, "without clip_model"),
    ],
)
def test_what_excludes_each_other_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(CASES[0], made_without_clip(CASES[0]), **settings)


def test_the_readme_names_every_argument_and_every_block_input() -> None:
    readme = Path(FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert name in readme or f"`{name.removeprefix('clip_guidance')}`" in readme, name
    blocks = import_module("modular_clip_guidance").CLIPGuidedStableDiffusionXLBlocks()
    inputs = {spec.name for spec in blocks.inputs}
    assert {"clip_reward", "clip_guidance", "clip_prompt"} <= inputs
