"""Shared modules, scorers used in inference mode, schedulers compared by their class."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from families.flows_packed import flux2
from tiny_clip import tiny_clip_dir
from tiny_pipelines import ProjectionReward, call, tiny_pipeline

from clipguide.attach.guide import guide
from clipguide.attach.hook import HOOKS
from clipguide.attach.preserve import Freeze, checkpointed, replaced
from clipguide.clip.loading import load_scorer
from clipguide.rewards import ClipReward, ContrastReward

REWARD = ProjectionReward()


def picture(pipe: Any, **settings: Any) -> torch.Tensor:
    with guide(pipe, REWARD, 0.2, **settings):
        return call(pipe)


@pytest.mark.parametrize("first_left", [0, 1])
def test_contexts_over_pipelines_that_share_modules_are_left_in_any_order(first_left: int) -> None:
    pipes = [tiny_pipeline(), tiny_pipeline()]
    vae = pipes[0].vae
    assert pipes[1].vae is vae
    before = {name: dict(vars(part)) for name, part in vae.named_modules()}
    alone = picture(pipes[0], mode="xt", checkpoint=True)
    contexts = [guide(pipe, REWARD, 0.2, mode="xt", checkpoint=True) for pipe in pipes]
    for context in contexts:
        context.__enter__()
    found = [call(pipe) for pipe in pipes]
    for i in (first_left, 1 - first_left):
        contexts[i].__exit__(None, None, None)
    assert all(torch.equal(one, alone) for one in found)
    assert {name: dict(vars(part)) for name, part in vae.named_modules()} == before
    assert all(parameter.requires_grad for parameter in vae.parameters())
    assert torch.equal(picture(pipes[1], mode="xt", checkpoint=True), alone)


def test_the_newest_open_replacement_is_in_force() -> None:
    class Target:
        kind = "class"

    target = Target()
    first, second = replaced(target, "kind", "first"), replaced(target, "kind", "second")
    first.__enter__()
    second.__enter__()
    assert target.kind == "second"
    first.__exit__(None, None, None)
    assert target.kind == "second"
    second.__exit__(None, None, None)
    assert vars(target) == {}


def test_what_two_contexts_froze_is_thawed_by_the_last() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    one, other = Freeze([module]), Freeze([module])
    one.freeze()
    other.freeze()
    one.thaw()
    assert not module.weight.requires_grad
    other.freeze()  # again: no more than once
    other.thaw()
    assert module.weight.requires_grad
    assert not module.bias.requires_grad


def test_checkpointing_is_on_until_the_last_context_is_left() -> None:
    unet = tiny_pipeline().unet
    contexts = [checkpointed([unet]), checkpointed([unet])]
    for context in contexts:
        context.__enter__()
    contexts[0].__exit__(None, None, None)
    assert unet.is_gradient_checkpointing
    contexts[1].__exit__(None, None, None)
    assert not unet.is_gradient_checkpointing


# ------------------------------------------------------------------------------- inference mode


@pytest.mark.parametrize("made", ["loaded", "used", "rewarded"])
@pytest.mark.parametrize("size", [21, 37])  # of pictures that no other test resizes
def test_a_scorer_used_in_inference_mode_guides_after_it(made: str, size: int, tmp_path: Any):
    folder = tiny_clip_dir(tmp_path, image_size=16)
    pictures, text = torch.rand(1, 3, size, size), "a fox"
    alternatives = [["a cat"]]
    with torch.inference_mode(made == "loaded"):
        scorer = load_scorer(folder)
    with torch.inference_mode():
        if made == "used":
            scorer.score(pictures, text)
            for match in ("pil", "smooth"):
                scorer.encode_image(pictures, match=match)
        if made == "rewarded":
            rewards = [ClipReward(scorer, text, image=pictures)]
            rewards += [ContrastReward(scorer, text, alternatives)]
            assert all(reward(pictures).isfinite().all() for reward in rewards)
    if made != "rewarded":
        rewards = [ClipReward(scorer, text, image=pictures)]
        rewards += [ContrastReward(scorer, text, alternatives)]
    for reward in rewards:
        leaf = pictures.clone().requires_grad_()
        (slope,) = torch.autograd.grad(reward(leaf).sum(), leaf)
        assert slope.isfinite().all()
        assert slope.any()
    assert not torch.is_inference(scorer.encode_text(text))


# ------------------------------------------------------------------------ compared by their class


def test_a_guided_scheduler_passes_for_its_class() -> None:
    """diffusers' Bria asks `type(scheduler) != FlowMatchEulerDiscreteScheduler`."""
    pipe = tiny_pipeline()
    scheduler, plain = pipe.scheduler, type(pipe.scheduler)
    with guide(pipe, REWARD, 0.1):
        assert scheduler in HOOKS
        kind = type(scheduler)
        assert kind == plain
        assert plain == kind
        assert operator.ne(kind, plain) is False
        assert kind in {plain: 1}
        assert kind in (FlowMatchEulerDiscreteScheduler, plain)
        assert kind != FlowMatchEulerDiscreteScheduler
        assert isinstance(scheduler, plain)
        assert type(copy.deepcopy(scheduler)) is plain
        call(pipe)
    assert type(scheduler) is plain


def test_position_ids_are_not_guessed() -> None:
    from diffusers import Flux2KleinPipeline

    class Own(Flux2KleinPipeline):
        """Inherits where the ids are."""

    from clipguide.attach.layouts import Prepared, unpacked

    latents = torch.arange(64.0).view(1, 4, 16)
    pipe = flux2(Own)
    ids = pipe._prepare_latent_ids(torch.zeros(1, 16, 2, 2))
    noise = torch.rand(1, 4, 16)
    found = unpacked(pipe, Prepared({}, (ids,)), latents)
    assert torch.equal(found, latents.view(1, 2, 2, 16).permute(0, 3, 1, 2))
    other = type("SomebodysPipeline", (), {"_unpack_latents_with_ids": staticmethod(_unpack)})()
    with pytest.raises(NotImplementedError, match="not verified"):
        unpacked(other, Prepared({}, (noise, ids)), latents)


def _unpack(x: torch.Tensor, x_ids: torch.Tensor) -> torch.Tensor:
    return x
