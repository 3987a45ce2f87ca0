"""What a caption has to be told from, and who says by which rules."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_guide_noisy import scorer_of_tiny_vae
from tiny_pipelines import tiny_scorer

from clipguide import ContrastReward, load_scorer
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.data.alternatives import alternatives_of, doubles_of
from clipguide.data.hard_negatives import swaps_of
from clipguide.data.scene_captions import parse_caption
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.rewards.named import load_reward


@pytest.mark.parametrize("prompt", fixed_prompts(20) + fixed_prompts(20, held_out=True))
def test_a_double_names_one_of_two_objects_twice(prompt: str) -> None:
    """By the grammar's own parser, whatever the phrasing."""
    objects = parse_caption(prompt).objects
    found = [parse_caption(text) for text in doubles_of(prompt)]
    assert {tuple(sorted(map(str, spec.objects))) for spec in found} == {
        tuple(sorted(map(str, (*objects, once)))) for once in objects
    }
    assert all(spec.relation is None for spec in found)


@pytest.mark.parametrize("caption", ["a cat", "", "red", "a photo of a dog"])
def test_a_caption_of_one_thing_has_no_double(caption: str) -> None:
    assert doubles_of(caption) == []


def test_rules_are_taken_in_order_and_no_text_twice() -> None:
    caption = "A dog left of a cat"
    assert alternatives_of(caption) == swaps_of(caption)
    both = alternatives_of(caption, ("doubles", "swaps", "doubles"))
    assert both == [*doubles_of(caption), *swaps_of(caption)]
    assert both[0] == "a dog, a dog and a cat"
    with pytest.raises(ValueError, match="got rule 'thirds', expected one of swaps, doubles"):
        alternatives_of(caption, ("thirds",))


def test_a_contrast_takes_the_rules_of_its_scorer() -> None:
    prompt = "a red star left of a blue ring"
    plain = scorer_of_tiny_vae()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model = plain._latent  # pyright: ignore[reportPrivateUsage]
    own, config = LatentScorer(model), model.config
    try:
        model.config = dataclasses.replace(config, alternatives=("swaps", "doubles"))
        found = ContrastReward(own, prompt).of_latents(latents, 0.3)
        named = load_reward("contrast", own)([prompt]).of_latents(latents, 0.3)
    finally:
        model.config = config
    given = ContrastReward(plain, prompt, [swaps_of(prompt) + doubles_of(prompt)])
    assert torch.equal(found, given.of_latents(latents, 0.3))
    assert torch.equal(named, found)
    assert not torch.allclose(found, ContrastReward(plain, prompt).of_latents(latents, 0.3))


def test_the_starter_s_scorers_say_theirs() -> None:
    assert load_scorer("starter:latent").alternatives == ("swaps", "doubles")
    assert load_scorer("starter").alternatives == tiny_scorer().alternatives == ("swaps",)


@pytest.mark.parametrize("name", ["cosine", "contrast"])
def test_a_teacher_s_reward_is_of_pictures(name: str) -> None:
    prompt = "a red star left of a blue ring"
    scorer = load_scorer("starter:latent")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = load_reward(f"teacher.{name}", scorer)([prompt])
    own = load_reward(name, load_scorer("starter"))([prompt])
    assert found.reads == own.reads == "images"
    assert torch.equal(found(images), own(images))
    both = load_reward(f"{name} + 2*teacher.{name}", scorer)([prompt])
    assert both.reads == "images and latents"
