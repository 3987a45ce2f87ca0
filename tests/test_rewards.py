"""Rewards: the CLIP reward against the scorer, views, and who is to blame."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import tiny_clip_dir
from tiny_rewards import generators, images, smooth_cosines
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.guidance.gradient import evaluate
from clipguide.images import to_pil
from clipguide.rewards import (
    ClipReward,
    ContrastReward,
    FunctionReward,
    PartsReward,
    RegionReward,
    Reward,
    Views,
)
from clipguide.rewards.per_prompt import PerPrompt
from clipguide.rewards.probes import Probes, of_samples, probe, watching


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load_scorer(tiny_clip_dir(tmp_path_factory.mktemp("clip"), image_size=16))


MEAN = FunctionReward(lambda x: x.flatten(1).mean(1))


# ------------------------------------------------------------------------------------- CLIP reward


def test_one_prompt_is_the_cosine(scorer: Scorer) -> None:
    x = images()
    torch.testing.assert_close(
        ClipReward(scorer, "a fox")(x), smooth_cosines(scorer, x, "a fox"), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        ClipReward(scorer, "a fox", match="pil")(x), scorer.score(x, "a fox"), atol=1e-6, rtol=0
    )


def test_a_scorer_by_name_is_loaded(tmp_path: Path) -> None:
    """The bundled one, and a folder as text and as a path; what is loaded already stays itself."""
    x, folder = images(), tiny_clip_dir(tmp_path, image_size=16)
    for name in ("starter", folder, str(folder)):
        loaded = load_scorer(name)
        for kind in (ClipReward, ContrastReward):
            prompt = "a red star left of a blue ring"
            torch.testing.assert_close(kind(name, prompt)(x), kind(loaded, prompt)(x))
            assert kind(loaded, prompt).scorer is loaded
    with pytest.raises(ValueError, match="got scorer 'startr', expected one of: starter"):
        ClipReward("startr", "a fox")
    with pytest.raises(TypeError, match="got scorer FunctionReward, expected a Scorer or a name"):
        ContrastReward(MEAN, "a fox")  # type: ignore[arg-type]


def test_weights_negatives_and_image_prompts_add_up(scorer: Scorer) -> None:
    x, target = images(), images(1, seed=9)
    reward = ClipReward(
        scorer,
        {"a fox": 0.7, "snow": -0.2},
        negative="a cat",
        negative_weight=0.25,
        image=target,
        image_weight=0.5,
    )
    near = scorer.encode_image(x, match="smooth") @ scorer.encode_image(target)[0]
    expected = (
        0.7 * smooth_cosines(scorer, x, "a fox")
        - 0.2 * smooth_cosines(scorer, x, "snow")
        - 0.25 * smooth_cosines(scorer, x, "a cat")
        + 0.5 * near
    )
    torch.testing.assert_close(reward(x), expected, atol=1e-6, rtol=0)


def test_a_prompt_per_image_in_diffusers_order(scorer: Scorer) -> None:
    """Prompts a, b with num_images_per_prompt=2 make images a, a, b, b."""
    x = images(4)
    reward = ClipReward(scorer, ["a fox", {"a cat": 2.0}], negative="snow", negative_weight=1.0)
    fox, cat = ClipReward(scorer, "a fox"), 2.0 * ClipReward(scorer, "a cat")
    expected = torch.cat([fox(x[:2]), cat(x[2:])]) - ClipReward(scorer, "snow")(x)
    torch.testing.assert_close(reward(x), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="got 3 images for 2 prompts"):
        reward(images(3))


def test_image_prompts_from_files_and_pil(scorer: Scorer, tmp_path: Path) -> None:
    (picture,) = to_pil(images(1, seed=4))
    picture.save(tmp_path / "fox.png")
    x = images()
    from_pil, from_file = (
        ClipReward(scorer, image=source)(x) for source in (picture, tmp_path / "fox.png")
    )
    assert torch.equal(from_pil, from_file)
    per_image = ClipReward(scorer, image=[picture, images(1), tmp_path / "fox.png"])(x)
    assert per_image[0] == pytest.approx(float(from_pil[0]), abs=1e-6)
    assert per_image[1] != pytest.approx(float(from_pil[1]), abs=1e-4)


def test_the_text_tower_runs_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = ClipReward(scorer, {"one more fox": 1.0}, negative="one more cat")
    monkeypatch.setattr(
        type(scorer.model), "encode_text", lambda *a: pytest.fail("the text tower ran again")
    )
    reward(images())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got no prompt, negative or image"),
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": []}, "empty sequence"),
        ({"prompt": ["a fox", {}]}, "empty sequence or mapping"),
        ({"prompt": {"a fox": float("nan")}}, "got weight nan for 'a fox'"),
        ({"prompt": "a fox", "negative_weight": -1.0}, "got negative_weight -1.0"),
        ({"prompt": ["a", "b"], "negative": ["a", "b", "c"]}, r"got sequences of \[2, 3\]"),
    ],
)
def test_what_makes_no_reward_is_refused(
    scorer: Scorer, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ClipReward(scorer, **arguments)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- views


def test_default_views_are_the_image_and_need_no_generator() -> None:
    x = images(2)
    assert torch.equal(Views()(x, None), x)
    assert torch.equal(Views(count=3)(x, None), x.repeat_interleave(3, dim=0))


def test_views_of_an_image_depend_on_its_generator_alone() -> None:
    views, x = Views(count=3, crop=(0.4, 0.9), flip=True, noise=0.1), images(3)
    together = views(x, generators(5, 6, 7))
    assert together.shape == (9, 3, 24, 24)
    alone = views(x[1:2], generators(6))
    torch.testing.assert_close(together[3:6], alone, atol=1e-6, rtol=0)
    assert torch.equal(together, views(x, generators(5, 6, 7)))
    assert not torch.allclose(together[0], together[1])


def test_a_crop_is_a_window_of_the_image() -> None:
    """On an image whose value is the position, a window keeps slope side and stays inside."""
    ramp = ((torch.arange(64) + 0.5) / 64).expand(1, 3, 64, 64)  # value = x in (0, 1)
    seen = Views(count=50, crop=(0.25, 0.25))(ramp, generators(1))
    width = seen[:, 0, 32, 48] - seen[:, 0, 32, 16]  # half of the window: side 0.5
    torch.testing.assert_close(width, torch.full((50,), 0.25), atol=1e-3, rtol=0)
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    assert float(seen[:, 0, 32, 0].std()) > 0.05  # the windows are spread


def test_flip_mirrors_about_half() -> None:
    x = images(1)
    seen = Views(count=64, flip=True)(x, generators(3))
    mirrored = [torch.allclose(view, x[0].flip(-1), atol=1e-5) for view in seen]
    same = [torch.allclose(view, x[0], atol=1e-5) for view in seen]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_noise_has_its_standard_deviation() -> None:
    x = images(1)
    noise = Views(count=40, noise=0.2)(x, generators(3)) - x
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    assert abs(float(noise.mean())) < 0.01


def test_the_reward_is_the_mean_over_views(scorer: Scorer) -> None:
    views, x = Views(count=4, crop=(0.5, 1.0)), images(2)
    reward = ClipReward(scorer, "a fox", views=views)
    seen = views(x, generators(1, 2))
    expected = smooth_cosines(scorer, seen, "a fox").view(2, 4).mean(1)
    torch.testing.assert_close(reward(x, generators=generators(1, 2)), expected)
    with pytest.raises(ValueError, match="got 0 generators for random views of 2 images"):
        reward(x)


@pytest.mark.parametrize(
    "settings", [{"count": 0}, {"crop": (0.0, 1.0)}, {"crop": (0.9, 0.5)}, {"noise": -1.0}]
)
def test_views_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got .*expected"):
        Views(**settings)  # type: ignore[arg-type]


def test_a_region_is_of_a_reward(scorer: Scorer) -> None:
    x, left = images(), (0, 0, 0.5, 1)
    found = RegionReward(lambda y: y.mean((1, 2, 3)), left)(x)
    torch.testing.assert_close(found, MEAN(x[..., :12]), atol=1e-6, rtol=0)
    for other in (None, "a fox", scorer):
        with pytest.raises(TypeError, match="expected a Reward or a callable"):
            RegionReward(other, left)  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------ probes


class _NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        lost = gradient.clone()
        lost[1] = float("nan")
        return lost


def _chain(spoil: str, how: str) -> tuple[Tensor, Probes]:
    """decoder -> preprocess -> CLIP -> reward on two samples; sample 1 is lost in one of them."""
    bad = torch.tensor([1.0, float("nan")]).view(2, 1)
    x = torch.ones(2, 3, requires_grad=True)
    probes, value = Probes(2), x
    with watching(probes):
        for name in ("decoder", "preprocess", "CLIP", "reward"):
            value = value * 2
            if name == spoil:
                value = value * bad if how == "forward" else _NanBackward.apply(value)
            probe(name, value)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return gradient, probes


@pytest.mark.parametrize("how", ["forward", "backward"])
@pytest.mark.parametrize("component", ["decoder", "preprocess", "CLIP", "reward"])
def test_the_component_that_made_it_non_finite_is_named(component: str, how: str) -> None:
    gradient, probes = _chain(component, how)
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().all()
    assert probes.nonfinite_source(1) == component


def one_by_one(of: Reward) -> FunctionReward:
    """As a user may write it: nobody is told which image it is."""
    return FunctionReward(lambda x: torch.cat([of(image[None]) for image in x]))


@pytest.mark.parametrize("kind", ["per prompt", "parts", "one by one"])
def test_a_reward_may_ask_about_parts_of_its_batch(scorer: Scorer, kind: str) -> None:
    """Each image's gradient is its own, and of a lost one its own component is named."""
    prompts, halves = ["a fox", "a dog", "a cat"], [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
    singles: list[Reward] = [ClipReward(scorer, prompt) for prompt in prompts]
    reward: Reward = PerPrompt(singles)
    if kind == "parts":
        places = [[halves[0]], [halves[1]], [halves[0]]]
        reward = PartsReward(scorer, prompts, [[text] for text in prompts], places)
        singles = [
            PartsReward(scorer, text, [text], own)
            for text, own in zip(prompts, places, strict=True)
        ]
    elif kind == "one by one":
        reward, singles = one_by_one(singles[0]), [singles[0]] * 3
    x = images(3)
    found = evaluate(x, lambda seen: seen, reward, generators(0, 1, 2))
    for i, own in enumerate(singles):
        alone = evaluate(x[i : i + 1], lambda seen: seen, own, generators(i))
        torch.testing.assert_close(found.gradient[i], alone.gradient[0], atol=1e-6, rtol=1e-4)
    x[1] = float("nan")
    lost = evaluate(x, lambda seen: seen.clone(), reward, generators(0, 1, 2))
    assert lost.usable.tolist() == [True, False, True]
    assert lost.nonfinite_sources == {1: "denoiser"}


def test_samples_of_samples() -> None:
    """A reward for each prompt, each of which looks at regions of its own images."""
    x, probes = torch.ones(3, 2, requires_grad=True), Probes(3)
    with watching(probes), of_samples([0, 2]), of_samples([1]):
        probe("CLIP", x[2:] * float("nan")).sum().backward()
    assert [probes.nonfinite_source(i) for i in (2,)] == ["CLIP"]
    with watching(probes):
        probe("reward", x * torch.tensor([[1.0], [float("nan")], [1.0]]))
    assert [probes.nonfinite_source(i) for i in (1, 2)] == ["reward", "CLIP"]


def test_probing_outside_guidance_does_nothing() -> None:
    x = torch.ones(2, requires_grad=True)
    assert probe("CLIP", x) is x
    assert x._backward_hooks is None
