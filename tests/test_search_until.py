"""Stop when verified: which seeds are tried, what comes first, and what it costs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_rewards import images
from tiny_search import PROMPT, REWARD, STEPS, pipeline, run

from clipguide.clip.scorer import Scorer
from clipguide.data.hard_negatives import swaps_of
from clipguide.images import to_pil, to_tensor
from clipguide.rewards import ContrastReward
from clipguide.search import METHODS, Prune, StopWhenVerified, ToldFromSwaps, search, stopping

CUBE = "a red cube left of a blue ball"


class Seen:
    """A predicate that remembers what it was asked, and says yes to the picture number `right`."""

    def __init__(self, right: int) -> None:
        self.right, self.images = right, list[Image.Image]()

    def __call__(self, image: Image.Image) -> bool:
        self.images.append(image)
        return len(self.images) == self.right


def calls_of(pipe: Any) -> list[int]:
    """Images of each denoiser call that is made from here on."""
    made: list[int] = []
    pipe.unet = copy.deepcopy(pipe.unet)  # the tests share its modules
    # twice the images: with and without the text
    pipe.unet.conv_in.register_forward_pre_hook(lambda _m, inputs: made.append(len(inputs[0]) // 2))
    return made


@pytest.mark.parametrize("batch", [1, 2])
def test_best_of_stops_after_the_batch_that_has_a_right_one(batch: int) -> None:
    everything = {c.seed: c.score for c in run(pipeline(), budget=6, batch_size=1)}
    limit = sorted(everything.values())[-2]  # two of six are enough
    first = next(seed for seed in range(6) if everything[seed] >= limit)
    tried = math.ceil((first + 1) / batch) * batch
    pipe = pipeline()
    made = calls_of(pipe)
    found = run(pipe, budget=6, batch_size=batch, until=limit - 1e-4)
    assert sorted(c.seed for c in found) == [*range(tried)]
    assert sum(made) == tried * STEPS
    assert found[0].score >= limit - 1e-4


def test_a_right_picture_comes_before_a_better_one() -> None:
    plain = run(pipeline(), budget=4, batch_size=1)
    worst = plain[-1]
    found = run(
        pipeline(),
        budget=4,
        batch_size=4,
        until=lambda image: image.tobytes() == worst.image.tobytes(),
    )
    assert [c.seed for c in found] == [worst.seed, *(c.seed for c in plain[:-1])]


@pytest.mark.parametrize("method", [*METHODS])
def test_where_nothing_is_right_the_budget_is_spent_and_not_more(method: str) -> None:
    pipe, never = pipeline(), Seen(0)
    made = calls_of(pipe)
    found = run(pipe, method, budget=8, batch_size=4, until=never)
    assert sum(made) <= 8 * STEPS
    assert len(never.images) == len(found)
    assert len({c.image.tobytes() for c in found}) == len(found)  # no seed twice
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


@pytest.mark.parametrize("method", ["prune", "fk", "svdd", "noise"])
def test_every_method_stops_early(method: str) -> None:
    pipe = pipeline()
    made = calls_of(pipe)
    found = run(pipe, method, budget=16, batch_size=4, until=-1e9)
    assert 0 < sum(made) <= 4 * STEPS
    assert found == run(pipeline(), method, budget=4, batch_size=4)


def test_rounds_of_an_instance_draw_from_seeds_of_their_own() -> None:
    method = Prune(0.5, 0.25)
    found = run(pipeline(), method, budget=8, until=1e9)
    rounds = [run(pipeline(), method, budget=2, seed=seed) for seed in (0, 8, 16, 24)]
    assert {c.seed for c in found} == {c.seed for part in rounds for c in part}


def test_told_from_swaps_is_a_softmax(tiny_scorer: Scorer) -> None:
    image = to_pil(images(1, 32))[0]
    texts = [CUBE, *swaps_of(CUBE)]
    scaled = [tiny_scorer.logit_scale * float(tiny_scorer.score([image], [t])[0]) for t in texts]
    p = math.exp(scaled[0]) / sum(map(math.exp, scaled))
    told = ToldFromSwaps(tiny_scorer, CUBE, min(0.99, p + 0.01))
    assert told.probability(image) == pytest.approx(p, abs=1e-5)
    assert not told(image)
    assert ToldFromSwaps(tiny_scorer, CUBE, max(0.01, p - 0.01))(image)


def test_told_is_the_contrast_reward_s_probability(tiny_scorer: Scorer) -> None:
    """One meaning of alternatives: also where the scorer is used with other rules."""

    class Doubling(Scorer):
        alternatives = ("swaps", "doubles")

    scorer = copy.copy(tiny_scorer)
    scorer.__class__ = Doubling
    image = to_pil(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))[0]
    reward = ContrastReward(scorer, CUBE, scale=scorer.logit_scale, cosine=0.0, match="pil")
    told = ToldFromSwaps(scorer, CUBE).probability(image)
    assert told == pytest.approx(float(reward(to_tensor(image)).exp()), abs=1e-5)
    assert told < ToldFromSwaps(tiny_scorer, CUBE).probability(image)


def test_the_teacher_of_a_scorer_of_latents_looks(starter_assets: Path) -> None:
    image = to_pil(images(1, 64))[0]
    prompt = "a red star left of a blue ring"
    found = [
        ToldFromSwaps(name, prompt).probability(image) for name in ("starter", "starter:latent")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_what_cannot_be_verified(tiny_scorer: Scorer) -> None:
    with pytest.raises(ValueError, match=r"got p=1.0, expected a probability in \(0, 1\)"):
        ToldFromSwaps(tiny_scorer, CUBE, 1.0)
    with pytest.raises(ValueError, match="got 'a fox', expected a prompt with something to tell"):
        ToldFromSwaps(tiny_scorer, "a fox")
    with pytest.raises(ValueError, match="got until=nan, expected a finite reward or a function"):
        search(pipeline(), PROMPT, REWARD, until=math.nan)
    assert StopWhenVerified(METHODS["best_of"], 0.5).until == 0.5


def test_a_method_is_named_as_everywhere() -> None:
    assert stopping("best_of", 0.5).method == METHODS["best_of"]
    with pytest.raises(ValueError, match="got search method 'best', expected one of best_of"):
        stopping("best", 0.5)
