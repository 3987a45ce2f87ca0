"""Rewards as text: what is parsed, what is refused, what they are, and that pictures come again."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from safetensors.torch import save_file
from tiny_rewards import generators, images

from clipguide.clip.scorer import Scorer
from clipguide.images import to_pil
from clipguide.report.metadata import read_metadata
from clipguide.rewards import (
    AestheticReward,
    ClipReward,
    ContrastReward,
    PartsReward,
    PreferenceReward,
    SaturationPenalty,
    ScorerReward,
    StyleReward,
    TotalVariationPenalty,
    Views,
)
from clipguide.rewards.expression import Term, parse_reward
from clipguide.rewards.named import NAMES, check_reward, load_reward
from clipguide.rewards.preference import PREFERENCES

Cli = Callable[..., Outcome]
PROMPT = "a red cube left of a blue ball"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("contrast", [(1, "contrast")]),
        ("contrast + 0.3*aesthetic:laion-l14 - 0.1*tv",
         [(1, "contrast"), (0.3, "aesthetic:laion-l14"), (-0.1, "tv")]),
        ("-(cosine - 2*(tv + range)/4)*.5", [(-0.5, "cosine"), (0.25, "tv"), (0.25, "range")]),
        ("hpsv2.1*1e1+pickscore/2", [(10, "hpsv2.1"), (0.5, "pickscore")]),
        ('style:"my photos/a b.png" - -tv', [(1, "style:my photos/a b.png"), (1, "tv")]),
        ("aesthetic:/a-b/c_d.safetensors*2", [(2, "aesthetic:/a-b/c_d.safetensors")]),
        ("(1 + 2) * tv / (4 - 1)", [(1, "tv")]),
        ("  + tv  ", [(1, "tv")]),
    ],
)  # fmt: skip
def test_what_a_text_says(text: str, terms: list[tuple[float, str]]) -> None:
    found = parse_reward(text)
    assert [term.label for term in found] == [name for _, name in terms]
    for term, (weight, _) in zip(found, terms, strict=True):
        assert math.isclose(term.weight, weight)


def test_random_sums_have_python_values() -> None:
    """Names are numbers for Python's own parser: the weights must give its value."""
    names = {"tv": 3.7, "cosine": -1.3, "range": 0.21}

    def made(rng: random.Random, depth: int) -> str:
        if depth == 0:
            return rng.choice([*names])
        left, right = made(rng, depth - 1), made(rng, depth - 1)
        number = rng.choice(["2", "0.5", ".25", "3e-1"])
        return rng.choice(
            [f"({left} + {right})", f"{number}*({left} - {right})", f"-{left}/{number}",
             f"{left} - {number} * {right}", f"({left})"]
        )  # fmt: skip

    def value(node: Any) -> float:
        if isinstance(node, ast.BinOp):
            a, b = value(node.left), value(node.right)
            kinds = {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}
            return a / b if isinstance(node.op, ast.Div) else kinds[type(node.op)]
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        return names[node.id] if isinstance(node, ast.Name) else float(node.value)

    for seed in range(200):
        text = made(random.Random(seed), 3)
        found = sum(term.weight * names[term.name] for term in parse_reward(text))
        assert math.isclose(found, value(ast.parse(text, mode="eval").body), abs_tol=1e-9), text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contrast + 1", "got the number 1.0 added to or subtracted from a reward"),
        ("1 - tv", "did you mean"),
        ("(tv) + (2*3)", "the number 6.0 added"),
        ("tv * cosine", "got a reward times a reward"),
        ("2 / tv", "got 2 divided by a reward"),
        ("tv / 0", "a division by 0"),
        ("1e999 * tv", "a factor of inf"),
        ("3", "got the number 3 in reward '3', expected a reward"),
        ("", "got the end in reward ''"),
        ("tv +", "got the end"),
        ("(tv", r"expected a bracket \)"),
        ("tv)", r"got '\)'"),
        ("tv cosine", "got 'cosine' in reward 'tv cosine', expected"),
        ("tv ** 2", r"got '\*'"),
        ("__import__('os')", 'got "__import__'),
        ("tv; cosine", "got ';'"),
        ("2x*tv", "got '2x"),
        ("(" * 50 + "tv" + ")" * 50, "at most 20 within one another"),
        ("-" * 50 + "tv", "at most 20"),
        (
            "clip",
            "expected one of cosine, contrast, teacher.cosine, teacher.contrast, parts, aesthetic",
        ),
        ("tv:2", "got reward tv:2, expected tv without an argument"),
        ("style", "got reward style, expected style: and a picture's file"),
        ('contrast:"a cat||a dog"', r"got contrast:'a cat\|\|a dog', expected texts with"),
        ("parts:max", "got parts:max, expected one of mean, product, softmin"),
        ("aesthetic:laion", "got aesthetic:laion, expected one of laion-l14, laion-b32, sac-l14"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_reward(text)


def test_each_name_is_its_reward(tiny_scorer: Scorer, tmp_path: Path) -> None:
    x, prompts, views = images(2, 32), [PROMPT, "a fox"], Views(count=2, crop=(0.5, 1.0))
    torch.manual_seed(0)
    save_file({"weight": torch.randn(1, 16), "bias": torch.ones(1)}, tmp_path / "h.safetensors")
    picture = to_pil(images(1, 32, seed=9))[0]
    picture.save(tmp_path / "s.png")
    expected = {
        "cosine": ClipReward(tiny_scorer, prompts, views=views),
        "contrast": ContrastReward(tiny_scorer, prompts, views=views),
        "teacher.cosine": ClipReward(tiny_scorer, prompts, views=views),
        "teacher.contrast": ContrastReward(tiny_scorer, prompts, views=views),
        'contrast:"two foxes| a dog "': ContrastReward(
            tiny_scorer, prompts, [["two foxes", "a dog"]] * 2, views=views
        ),
        "parts": PartsReward(tiny_scorer, prompts, join="softmin", views=views),
        "parts:mean": PartsReward(tiny_scorer, prompts, join="mean", views=views),
        f"aesthetic:{tmp_path / 'h.safetensors'}": AestheticReward(
            tiny_scorer, tmp_path / "h.safetensors", views
        ),
        f"style:{tmp_path / 's.png'}": StyleReward(tiny_scorer, picture, views=views),
        "scorer:starter": ScorerReward("starter", prompts),
        "saturation": SaturationPenalty(),
        "tv": TotalVariationPenalty(),
    }
    for text, reward in expected.items():
        found = load_reward(text, tiny_scorer)(prompts, views)
        assert type(found) is type(reward)
        a, b = (r(x, generators=generators(1, 2)) for r in (found, reward))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=text)
    assert {term.name for text in expected for term in parse_reward(text)} | {
        *PREFERENCES, "range", "directional"} == {*NAMES}  # fmt: skip


def test_preferences_load_once_and_are_named_in_the_record(
    tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tiny CLIP in the place of the published one, which tests cannot fetch."""
    from dataclasses import replace

    tiny = replace(PREFERENCES["pickscore"], load=lambda: tiny_scorer)
    monkeypatch.setitem(PREFERENCES, "pickscore", tiny)
    loaded = load_reward("0.1*pickscore", tiny_scorer)
    reward = PreferenceReward("pickscore", "a fox", tiny_scorer)
    torch.testing.assert_close(loaded(["a fox"])(images(2, 32)), 0.1 * reward(images(2, 32)))
    assert loaded.identities == {
        "reward pickscore": {"name": "pickscore", "sha256": tiny_scorer.content_hash}
    }


def test_weights_scale_and_add(tiny_scorer: Scorer) -> None:
    x = images(2, 32)
    found = load_reward("contrast - 0.1*tv + cosine/2", tiny_scorer)([PROMPT])(x)
    expected = (
        ContrastReward(tiny_scorer, PROMPT)
        - 0.1 * TotalVariationPenalty()
        + ClipReward(tiny_scorer, PROMPT) / 2
    )
    torch.testing.assert_close(found, expected(x))
    assert parse_reward("2*tv") == (Term(2.0, "tv"),)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    head, style = tmp_path / "head.safetensors", tmp_path / "style.png"
    save_file({"weight": torch.randn(1, 16), "bias": torch.ones(1)}, head)
    to_pil(images(1, 32, seed=9))[0].save(style)
    return {"head": head, "style": style}


@pytest.mark.parametrize(
    "text",
    [
        "contrast - 0.1*tv",
        "cosine + 0.01*aesthetic:{head} - 0.05*saturation",
        "parts:product + 0.2*style:{style}",
        "(parts + cosine)/2 - range",
        "-tv",
    ],
)
@pytest.mark.parametrize("how", [("--strength", "0.5"), ("--search", "best_of", "--budget", "2")])
def test_pictures_come_again_to_the_bit(
    cli: Cli, tiny_models: Path, tmp_path: Path, files: dict[str, Path], text: str, how: Any
) -> None:
    out = tmp_path / "out"
    text = text.format(**files)
    models = ["--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    done = cli(
        "generate", PROMPT, *models, "--steps", 3, "--out", out, "--json",
        "--reward", text, *how,
    )  # fmt: skip
    assert done.code == 0, done.err
    picture = out / done.data["results"][0]["file"]
    record = read_metadata(picture).record
    assert record is not None
    assert record["settings"]["reward"] == text
    again = cli("reproduce", picture, "--json")
    assert again.code == 0, again.err
    assert again.data["largest_difference"] == 0


def test_another_head_is_no_reproduction(
    cli: Cli, tiny_models: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    text = f"aesthetic:{files['head']}"
    models = ["--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    options = ["--steps", 2, "--strength", 0.5, "--out", tmp_path / "o", "--json"]
    done = cli("generate", "a fox", *models, *options, "--reward", text)
    save_file({"weight": torch.ones(1, 16), "bias": torch.ones(1)}, files["head"])
    again = cli("reproduce", tmp_path / "o" / done.data["results"][0]["file"])
    assert again.code == 2
    assert "the reward aesthetic:" in again.err


def test_a_wrong_reward_is_one_line(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    models = ["--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
    options = ["--strength", 1, "--reward", "contrast + 1", "--out", tmp_path]
    done = cli("generate", "a fox", *models, *options)
    assert done.code == 2
    assert "the number 1.0 added to or subtracted from a reward" in done.err
    assert len(done.err.strip().splitlines()) == 1
