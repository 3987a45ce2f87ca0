"""The parts of the starter's recipe: tokenizer, networks, data, previews, each against a truth."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from clipguide.data.scene_captions import (
    ObjectSpec,
    SceneSpec,
    parse_caption,
    phrasings,
    spec_of,
    vocabulary,
)
from clipguide.data.scenes import (
    COLORS,
    RELATIONS,
    Background,
    Scene,
    SceneObject,
    render,
    render_array,
    sample_scene,
)
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.images import to_tensor
from training.starter import clip, data, diffusion, doubles, models, previews, vae

# --- the tokenizer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return models.build_tokenizer(vocabulary(), tmp_path_factory.mktemp("tokenizer"))


def test_each_word_of_the_grammar_is_one_token_of_its_own(tokenizer: CLIPTokenizer) -> None:
    tokens = [tokenizer(word, add_special_tokens=False).input_ids for word in vocabulary()]
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == len(vocabulary())


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "M"]), max_size=20))
def test_any_other_text_encodes_and_decodes(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, truncation=False).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.unk_token_id not in ids[1:-1]
    heard = tokenizer.decode(ids[1:-1])
    told = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert "".join(heard.split()) == "".join(told.split())


def test_the_longest_caption_of_the_grammar_fits(tokenizer: CLIPTokenizer) -> None:
    thing = ObjectSpec("purple", "triangle", "small", "striped")
    specs = [SceneSpec((thing,) * 3, relation) for relation in (None, *RELATIONS)]
    captions = [caption for spec in specs for caption in phrasings(spec)]
    longest = max(len(ids) for ids in tokenizer(captions, truncation=False).input_ids)
    assert longest <= models.CONTEXT_LENGTH == tokenizer.model_max_length


# --- networks and data ---------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [clip.GUIDE, clip.JUDGE])
def test_places_are_as_loud_as_words_from_the_start(
    tokenizer: CLIPTokenizer, recipe: clip.ClipRecipe
) -> None:
    torch.manual_seed(recipe.seed)
    model = models.build_clip(tokenizer, **recipe.shape)
    embeddings = model.text_model.embeddings
    words, places = embeddings.token_embedding.weight, embeddings.position_embedding.weight
    assert words.std().item() == pytest.approx(0.05, rel=0.05)
    assert places.std().item() == pytest.approx(0.05, rel=0.05)
    patches = model.vision_model.embeddings.position_embedding.weight
    assert patches.std().item() == pytest.approx(0.2, rel=0.1)
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id


def test_training_sees_what_the_saved_image_processor_gives(tokenizer: CLIPTokenizer) -> None:
    model = models.build_clip(tokenizer, **clip.JUDGE.shape)
    image = render(sample_scene(4))
    processor = models.build_image_processor(clip.JUDGE.shape["image_size"])
    expected = processor(image, return_tensors="pt").pixel_values
    difference = (clip.normalise(model, to_tensor(image)) - expected).abs() * models.STD[0] * 255
    assert difference.max() <= 2  # of 255: the processor rounds to whole pixel values
    assert difference.mean() < 0.3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_network_previews_the_clean_latents(prediction: str) -> None:
    scheduler = models.build_scheduler(prediction)
    x0, noise = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    times = torch.tensor([200, 500, 899])
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    noisy, output = diffusion.noised(scheduler, x0, noise, times)
    assert torch.equal(noisy, scheduler.add_noise(x0, noise, times))
    assert torch.allclose(previews._clean(scheduler, noisy, output, times), x0, atol=1e-9)


def test_flow_is_what_the_scheduler_takes_it_for() -> None:
    scheduler = models.build_scheduler("flow_prediction")
    x0, noise = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    scheduler.set_timesteps(25)
    for timestep in scheduler.timesteps:
        scheduler._step_index = None
        scheduler._init_step_index(timestep)
        sigma = float(scheduler.sigmas[scheduler.step_index])
        assert abs(sigma - timestep / 1000) < 1e-3  # its timesteps are whole, its levels are not
        sample, output = diffusion.noised(scheduler, x0, noise, torch.tensor([1000 * sigma]))
        clean = scheduler.convert_model_output(output, sample=sample)
        torch.testing.assert_close(clean, x0, atol=1e-6, rtol=0)


def test_a_double_is_the_scene_with_an_object_too_many() -> None:
    scenes = [sample_scene(seed) for seed in range(60)]
    numbers, pictures = doubles.draw_doubles(scenes)
    assert len(numbers) > 40
    assert all(len(scenes[i].objects) < 3 for i in numbers)
    for i, picture in zip(numbers, pictures, strict=True):
        own = spec_of(scenes[i], Random(i), relation=1.0)
        assert oracle_verdict(render(scenes[i]), own).ok
        verdict = oracle_verdict(picture.permute(1, 2, 0).numpy(), own)
        assert "extra" in [answer.kind for answer in verdict.failed]
        assert len(verdict.detected) == len(scenes[i].objects) + 1


def test_the_loss_of_doubles_falls_as_the_wrong_picture_moves_away(
    tokenizer: CLIPTokenizer,
) -> None:
    model = models.build_clip(tokenizer, **clip.GUIDE.shape)
    texts = torch.eye(12)
    right = texts[:4]
    losses = [
        doubles.doubles_loss(model, right, near * right + far * texts[4:8], texts).item()
        for near, far in ((1.0, 0.0), (0.9, 0.44), (0.5, 0.87))
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[1] > 0.1


def test_timesteps_cover_all_and_dwell_where_the_layout_is_decided() -> None:
    times = diffusion.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert 0 <= times.min() <= 5
    assert 994 <= times.max() <= 999
    share = ((times >= 400) & (times < 800)).double().mean().item()
    # half uniform: 0.4; half sigmoid(N(0.9, 1)): Phi(logit .8 - .9) - Phi(logit .4 - .9)
    inside = [0.5 * (1 + math.erf((math.log(p / (1 - p)) - 0.9) / 2**0.5)) for p in (0.4, 0.8)]
    assert share == pytest.approx((0.4 + inside[1] - inside[0]) / 2, abs=0.015)


def test_wrong_descriptions_are_wrong_and_say_as_much() -> None:
    for seed in range(200):
        own, *wrong = data.with_negatives(sample_scene(seed), Random(seed))
        assert len(wrong) == 2
        for spec in wrong:
            assert spec != own
            assert len(spec.objects) == len(own.objects)
        meant = spec_of(sample_scene(seed), Random(seed))
        assert own == meant


def test_a_layout_says_the_same_of_a_scene_and_of_its_description() -> None:
    star = SceneObject("red", "star", "small", "plain", 32.0, 64.0, 15.0)
    ring = SceneObject("blue", "ring", "large", "striped", 96.0, 64.0, 24.0)
    plain = Background((246, 246, 246), (246, 246, 246))
    seen = data.layout_of_scene(Scene((star, ring), plain, "left of"))
    told = parse_caption("a small plain red star left of a large striped blue ring")
    assert seen == data.layout_of_spec(told)
    assert len(seen) == data.LAYOUT_SIZE
    block = 3 + len(data.WORDS)
    red, blue = (list(COLORS).index(color) * block for color in ("red", "blue"))
    assert seen[red : red + 3] == [1.0, -1.0, 0.0]
    assert seen[blue : blue + 3] == [1.0, 1.0, 0.0]
    assert [w for w, said in zip(data.WORDS, seen[red + 3 :], strict=False) if said] == [
        "star", "small", "plain",
    ]  # fmt: skip
    assert [seen[i] for i in data.PLACES if seen[i]] == [-1.0, 1.0]
    assert sum(value != 0 for value in seen[len(COLORS) * block :]) == 4  # two shapes, there and x


def test_scenes_are_rendered_once_and_then_read(tmp_path: Path) -> None:
    scenes = data.rendered(3, tmp_path)
    assert np.array_equal(
        scenes[2], render_array(sample_scene(data.TRAIN_SEED + 2)).transpose(2, 0, 1)
    )
    (cache,) = tmp_path.iterdir()
    np.save(cache, np.zeros((3, 3, 128, 128), dtype=np.uint8))
    assert not data.rendered(3, tmp_path).any()


def test_crops_grow_and_show_an_object_on_the_stripes_grid() -> None:
    steps = vae.SETTINGS.steps
    assert [vae.crop_size(step) for step in (0, int(0.63 * steps), steps - 1)] == [32, 64, 128]
    scenes = [sample_scene(seed) for seed in range(6)]
    images = torch.stack([torch.from_numpy(render_array(s)).permute(2, 0, 1) for s in scenes])
    for crop, image in zip(vae.object_crops(images, scenes, 32, seed=1), images, strict=True):
        crop = (crop * 127.5 + 127.5).round().to(torch.uint8)
        corners = [(y, x) for y in range(0, 97, 8) for x in range(0, 97, 8)]
        assert any(torch.equal(image[:, y : y + 32, x : x + 32], crop) for y, x in corners)
        assert crop.float().std(dim=(1, 2)).max() > 10  # not bare background


def test_half_of_the_images_stay_as_they_are() -> None:
    images = to_tensor([render(sample_scene(i), 64) for i in range(8)]).repeat(50, 1, 1, 1)
    seen = clip.degrade(images, torch.Generator().manual_seed(0))
    same = (seen == images).flatten(1).all(dim=1).double().mean().item()
    assert same == pytest.approx(0.5, abs=0.08)
    assert 0 <= seen.min() <= seen.max() <= 1
