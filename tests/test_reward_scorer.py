"""The reward by any scorer: its numbers are the scorer's, of one prompt and of many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from tiny_captioners import tiny_git
from tiny_rewards import images
from tiny_search import PROMPT, pipeline

from clipguide import load_scorer
from clipguide.report.metadata import read_metadata
from clipguide.rewards import ScorerReward
from clipguide.search import search

pytestmark = pytest.mark.filterwarnings("ignore::clipguide.language.captioner.DoubtfulCaption")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"log-prob:{tiny_git(tmp_path_factory.mktemp('git'))}@0"


def test_it_is_what_the_scorer_says_of_each_image(judge: str, clip_dir: Path) -> None:
    texts = ["a red star", "a blue ring"]
    for name in (judge, str(clip_dir)):
        shown = images(4, 32)
        found = ScorerReward(name, texts)(shown.requires_grad_())
        scorer = load_scorer(name)
        with torch.no_grad():
            wanted = scorer.score(shown, [texts[0], texts[0], texts[1], texts[1]])
        assert torch.allclose(found, wanted, atol=1e-6)
        assert not found.requires_grad
        one = ScorerReward(scorer, texts).for_entries([1, 1, 0])(shown[:3])
        with torch.no_grad():
            assert torch.allclose(one, scorer.score(shown[:3], [texts[1], texts[1], texts[0]]))
    with pytest.raises(ValueError, match="reads latents, expected a scorer of images"):
        ScorerReward("starter:latent", "a red star")


def test_a_search_by_a_judge_that_writes(judge: str) -> None:
    found = search(pipeline(), PROMPT, ScorerReward(judge, PROMPT), budget=3, num_inference_steps=2)
    scorer = load_scorer(judge)
    for candidate in found:
        wanted = float(scorer.score([candidate.image], PROMPT))
        assert candidate.score == pytest.approx(wanted, abs=0.02)  # it saw more than 8 bits
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    many = search(
        pipeline(), [PROMPT, "a cat"], ScorerReward(judge, [PROMPT, "a cat"]), budget=2,
        num_inference_steps=2,
    )  # fmt: skip
    assert [len(one) for one in many] == [2, 2]


def test_the_command_line_names_it_in_a_reward(
    judge: str, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    options: list[object] = ["--out", tmp_path / "out", "--steps", 2, "--budget", 2]
    options += ["--search", "best_of"]
    done = cli("generate", "a red star", *options, "--final-reward", f"scorer:{judge}", "--json")
    assert done.code == 0, done.err
    pruned = ["--out", tmp_path / "pruned", "--steps", 9, "--search", "prune"]
    done = cli("generate", "a red star", *pruned, "--preview-reward", f"scorer:{judge}")
    assert done.code == 0, done.err
    (made,) = (tmp_path / "pruned").glob("0*.png")
    parameters = read_metadata(made).parameters
    assert parameters is not None
    assert parameters.fields["CLIP preview reward"] == f"scorer:{judge}"
    assert cli("reproduce", made).code == 0
    bad = cli("generate", "a red star", *options, "--reward", "scorer:log-prob:nowhere")
    assert bad.code == 2
    assert "got captioner 'nowhere'" in bad.err.splitlines()[-1]
