"""The pack's other nodes, each run as ComfyUI runs it, and what of the pack needs no ComfyUI."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfy_models import CHECKOUT, REASON, TinyVae, condition, missing, pack, start, tiny_model
from PIL import Image
from test_latent_scorer import latent_clip
from tiny_pipelines import tiny_scorer, tiny_taesd
from torch import Tensor

from clipguide import ClipReward, load_scorer
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.generation.record import read_recipe
from clipguide.guidance.trace import Trace, TraceStep
from clipguide.report.metadata import read_metadata
from clipguide.report.trace_picture import trace_picture

PACK = CHECKOUT / "comfyui"
comfy = pytest.mark.skipif(missing(), reason=REASON)
if not missing():
    start()


def run(module: str, node: str, *args: Any, **inputs: Any) -> Any:
    """What a node's `execute` gives, in inference mode."""
    with torch.inference_mode():
        return getattr(pack(module), node).execute(*args, **inputs).args


def images(count: int = 3, seed: int = 0) -> Tensor:
    """A ComfyUI IMAGE."""
    return torch.rand(count, 24, 20, 3, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------- without ComfyUI


def test_without_comfyui_the_pack_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("comfyui")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="put this folder into the custom_nodes"):
        asyncio.run(module.comfy_entrypoint())


def nodes_of(workflow: Path) -> dict[str, Any]:
    return json.loads(workflow.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(p.stem for p in (PACK / "api_workflows").glob("*.json")))
def test_both_forms_of_a_workflow_are_one_graph_and_it_has_a_thumbnail(name: str) -> None:
    api = nodes_of(PACK / "api_workflows" / f"{name}.json")
    page = nodes_of(PACK / "example_workflows" / f"{name}.json")
    by_id = {str(node["id"]): node for node in page["nodes"]}
    assert {i: node["class_type"] for i, node in api.items()} == {
        i: node["type"] for i, node in by_id.items()
    }
    wanted = {
        (source, slot, i, name)
        for i, node in api.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
        for source, slot in [value]
    }
    found = {
        (str(source), slot, str(i), by_id[str(i)]["inputs"][place]["name"])
        for _, source, slot, i, place, _ in page["links"]
    }
    assert found == wanted
    with Image.open(PACK / "example_workflows" / f"{name}.jpg") as thumbnail:
        assert thumbnail.format == "JPEG"


def test_every_node_has_its_help_in_the_place_of_every_language() -> None:
    docs = PACK / "web" / "docs"
    source = "".join(path.read_text(encoding="utf-8") for path in PACK.glob("*.py"))
    names = sorted(folder.name for folder in docs.iterdir() if folder.is_dir())
    assert len(names) == source.count('node_id="Clipguide') == 13
    for name in names:
        assert f'node_id="{name}"' in source
        help_page = (docs / name / "en.md").read_text(encoding="utf-8")
        assert help_page == (docs / f"{name}.md").read_text(encoding="utf-8")


def test_a_trace_is_drawn_and_an_empty_one_refused() -> None:
    steps = [
        TraceStep(i, 0.0, 1 - i / 4, torch.tensor([0.1 * i, 0.3, torch.nan]), torch.ones(3))
        for i in range(4)
    ]
    drawn = np.asarray(trace_picture(Trace(steps), 320, 200))
    assert drawn.shape == (200, 320, 3)
    for color in ((0x1F, 0x6F, 0xEB), (0xD1, 0x57, 0x0F)):  # two lines, the third is NaN
        where = (drawn == color).all(-1)
        assert where.sum() > 200
    rows = np.nonzero((drawn == (0x1F, 0x6F, 0xEB)).all(-1))[0]
    assert rows.max() - rows.min() > 100  # it rises over most of the height
    with pytest.raises(ValueError, match="without a guided step"):
        trace_picture(Trace())
    with pytest.raises(ValueError, match="got a picture of 20x20"):
        trace_picture(Trace(steps), 20, 20)


def test_a_picture_of_comfyui_is_not_reproduced_but_named() -> None:
    with pytest.raises(ValueError, match="got a picture made in ComfyUI, expected one of"):
        read_recipe({"schema": 1, "made_in": "ComfyUI"})


# ---------------------------------------------------------------------------------- with ComfyUI


@comfy
def test_the_nodes_of_the_pack_are_those_of_its_entry_point() -> None:
    extension = asyncio.run(importlib.import_module("comfyui").comfy_entrypoint())
    names = [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]
    assert sorted(names) == sorted(f.name for f in (PACK / "web" / "docs").iterdir() if f.is_dir())


@comfy
def test_without_clipguide_the_pack_has_no_nodes_and_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = importlib.import_module("comfyui")
    found = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda n: None if n == "clipguide" else found(n))
    extension = asyncio.run(module.comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == []
    assert "-m pip install clipguide" in caplog.text


@comfy
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


@comfy
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


@comfy
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


@comfy
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


@comfy
def test_a_latent_reward_is_refused_latents_of_another_vae() -> None:
    with pytest.raises(ValueError, match="a scorer of pictures, expected one that reads latents"):
        run("rewards", "MakeLatentReward", tiny_scorer(), "a fox", "contrast")
    scorer = load_scorer("starter:latent")
    (reward,) = run("rewards", "MakeLatentReward", scorer, "a red star", "cosine")
    check = pack("autoencoders").check_latents
    with pytest.raises(ValueError, match="without a VAE, expected the model's own VAE connected"):
        check(reward, None)
    with pytest.raises(ValueError, match="got latents of another autoencoder"):
        check(reward, TinyVae())


@comfy
def test_a_vae_of_comfyui_is_known_by_the_hash_that_diffusers_gives_it() -> None:
    """Its weights are ComfyUI's own conversion of a diffusers VAE's, the other way round."""
    from comfy.diffusers_convert import convert_vae_state_dict
    from comfy.latent_formats import SD15
    from comfy.ldm.models.autoencoder import AutoencoderKL as Comfy
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    theirs = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    ).eval()  # fmt: skip
    config = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 2, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    with torch.inference_mode():
        ours = Comfy(ddconfig=config, embed_dim=4).eval()
        state = {name: weight.clone() for name, weight in theirs.state_dict().items()}
        ours.load_state_dict(convert_vae_state_dict(state))

    class Vae:
        first_stage_model, latent_channels = ours, 4

    reward = ClipReward(LatentScorer(latent_clip(theirs)), "a red star")
    pack("autoencoders").check_latents(reward, Vae())
    decode = pack("decoding").find_decoder(SD15(), Vae())
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = (theirs.decode(z / 0.18215).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(decode(z), expected, rtol=1e-4, atol=1e-5)


@comfy
def test_a_tiny_vae_of_comfyui_is_known_too() -> None:
    from comfy.taesd.taesd import TAESD
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    theirs = AutoencoderTiny().eval()
    ours = TAESD()
    parts = {"encoder": ours.taesd_encoder, "decoder": ours.taesd_decoder}
    for name, part in parts.items():
        own = theirs.get_submodule(name).get_submodule("layers").state_dict()
        shift = int(name == "decoder")
        part.load_state_dict(
            {f"{int(k.split('.')[0]) + shift}.{k.partition('.')[2]}": v for k, v in own.items()}
        )

    class Vae:
        first_stage_model = ours

    check = pack("autoencoders").check_latents
    check(ClipReward(LatentScorer(latent_clip(theirs)), "a red star"), Vae())
    with pytest.raises(ValueError, match="another autoencoder"):
        check(ClipReward(LatentScorer(latent_clip(tiny_taesd())), "a red star"), Vae())


@comfy
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


@comfy
def test_saved_pictures_say_how_they_were_made(tmp_path: Path) -> None:
    import folder_paths

    folder_paths.set_output_directory(str(tmp_path))
    records = pack("records")
    guidance = pack("guidance").GuideModel.execute
    settings = {
        "strength": 0.2, "mode": "x0", "normalize": "rms", "window_low": 0.0, "window_high": 1.0,
        "every": 1, "damping": 0.0, "own_settings": False,
    }  # fmt: skip
    _, runs = guidance(tiny_model(), ClipReward(tiny_scorer(), "a"), TinyVae(), **settings).args
    with pytest.raises(ValueError, match="expected `after` connected to a sampler"):
        records.TracePicture.execute(runs, {}, 320, 200)

    class Held(records.SaveImages):
        hidden = SimpleNamespace(
            prompt={"1": {"class_type": "A"}}, extra_pnginfo={"workflow": {"nodes": []}}
        )

    Held.execute(images(2), "fox", "a red fox", "a cat", 7, tiny_scorer(), runs)
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == ["fox_00001_.png", "fox_00002_.png"]
    metadata = read_metadata(files[1])
    assert metadata.record is not None
    assert metadata.record["made_in"] == "ComfyUI"
    assert metadata.record["guidance"]["strength"] == 0.2
    score = tiny_scorer().score(images(2).permute(0, 3, 1, 2), "a red fox")[1]
    assert metadata.record["scores"][0]["value"] == pytest.approx(float(score))
    assert metadata.parameters is not None
    assert (metadata.parameters.prompt, metadata.parameters.negative) == ("a red fox", "a cat")
    with Image.open(files[0]) as picture:
        assert json.loads(picture.info["prompt"]) == {"1": {"class_type": "A"}}
        assert json.loads(picture.info["workflow"]) == {"nodes": []}
    with pytest.raises(Exception, match="outside the output folder"):
        Held.execute(images(1), "../fox", "a", "", 7)
