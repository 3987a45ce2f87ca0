"""The pack's nodes, each run as ComfyUI runs it, against the functions that they call."""

from __future__ import annotations

import pytest
import torch
from comfy_models import TinyVae, condition, images, need_comfyui, pack, run, tiny_model
from tiny_pipelines import tiny_scorer

from clipguide import ClipReward

need_comfyui()


def test_pictures_that_are_none_are_refused() -> None:
    values = pack("values")
    for bad in (torch.rand(4, 4), torch.rand(1, 4, 4, 2), torch.zeros(0, 4, 4, 3), "a picture"):
        with pytest.raises(ValueError, match="expected a ComfyUI IMAGE"):
            values.pictures(bad)
    with pytest.raises(ValueError, match="NaN or infinite"):
        values.pictures(torch.full((1, 4, 4, 3), torch.nan))
    alpha = values.pictures(torch.full((1, 4, 5, 4), 1.5))
    assert alpha.shape == (1, 3, 4, 5)
    assert float(alpha.max()) == 1


def test_scores_and_ranking_are_those_of_the_package() -> None:
    scorer, given = tiny_scorer(), images()
    expected = scorer.score(given.permute(0, 3, 1, 2), "a fox")
    scores, report = run("scoring", "ScoreImages", scorer, given, "a fox")
    assert scores == expected.tolist()
    assert report.count("picture ") == 3
    chosen, places, ranked, _ = run("choosing", "PickBest", scorer, given, "a fox", 2, 0.0)
    order = expected.argsort(descending=True).tolist()
    assert places == order[:2]
    assert ranked == [scores[i] for i in order[:2]]
    torch.testing.assert_close(chosen, given[order[:2]])


def test_rewards_are_those_of_the_package() -> None:
    scorer, given = tiny_scorer(), images().permute(0, 3, 1, 2)
    (clip,) = run("rewards", "MakeClipReward", scorer, "a\n---\nb\n---\nc", "d", 0.3, 1, 1.0)
    expected = ClipReward(scorer, ["a", "b", "c"], negative="d", negative_weight=0.3)
    assert torch.equal(clip(given), expected(given))
    (total,) = run("rewards", "AddRewards", clip, 2.0, -1.0, clip)
    torch.testing.assert_close(total(given), expected(given))
    (half,) = run("regions", "MakeRegion", 0.0, 0.0, 0.5, 1.0)
    (both,) = run("regions", "MakeRegion", 0.5, 0.0, 1.0, 1.0, after=half)
    (left,) = run("rewards", "MakeClipReward", scorer, "a", "", 0.5, 1, 1.0, region=half)
    torch.testing.assert_close(left(given), ClipReward(scorer, "a")(given[..., :10]))
    with pytest.raises(ValueError, match="got 2 regions, expected one"):
        run("rewards", "MakeClipReward", scorer, "a", "", 0.5, 1, 1.0, region=both)
    (parts,) = run("rewards_of_parts", "MakePartsReward", scorer, "a and b", "a\nb", "mean", 1, 1.0,
                   regions=both)  # fmt: skip
    right = ClipReward(scorer, "b")(given[..., 10:])
    torch.testing.assert_close(parts(given), (left(given) + right) / 2)


def test_a_mask_made_in_inference_mode_is_climbed() -> None:
    with torch.inference_mode():
        mask = torch.zeros(1, 24, 20)
        mask[:, :, :10] = 1
    (region,) = run("regions", "MakeRegion", 0.0, 0.0, 1.0, 1.0, mask=mask)
    (reward,) = run("rewards", "MakeClipReward", tiny_scorer(), "a", "", 0.5, 1, 1.0, region=region)
    leaf = images(1).permute(0, 3, 1, 2).requires_grad_()
    reward(leaf).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad[..., :10].any())
    assert not bool(leaf.grad[..., 10:].any())


def test_pruned_seeds_that_are_finished_are_the_samplers_own_pictures() -> None:
    import comfy.sample

    model, empty = tiny_model(), torch.zeros(1, 4, 8, 8)
    reward, vae = ClipReward(tiny_scorer(), "a fox"), TinyVae()
    positive, negative = condition(1), condition(9)
    latent, seeds, report = run(
        "pruning", "PruneSeeds", model, reward, positive, negative, {"samples": empty}, 5, 4, 0.5,
        0.5, vae=vae, steps=4, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    assert report.startswith("5 seeds begun, 3 finished")
    assert set(seeds) <= set(range(5, 10))
    assert len(set(seeds)) == 3
    scores = []
    decode = pack("decoding").find_decoder(model.model.latent_format, vae)
    for seed, found in zip(seeds, latent["samples"], strict=True):
        with torch.inference_mode():
            noise = comfy.sample.prepare_noise(empty, seed)
            whole = comfy.sample.sample(
                model, noise, 4, 3.0, "euler", "normal", positive, negative, empty, seed=seed,
                disable_pbar=True,
            )  # fmt: skip
        torch.testing.assert_close(found, whole[0], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            scores.append(float(reward(decode(whole.clone() * 0.18215))))
    assert scores == sorted(scores, reverse=True)
