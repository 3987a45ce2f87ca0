"""What captioners see of pictures: states of an encoder, patches of a CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from tiny_backbones import tiny_image
from tiny_captioner_runs import toy_captioner
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.language.captioner_files import save_captioner
from clipguide.language.loading import load_captioner
from clipguide.language.show_and_tell import ShowAndTell
from clipguide.language.sight import BackboneSight, ClipSight
from clipguide.language.trained_captioner import TrainedCaptioner
from clipguide.language.vocabulary import Vocabulary
from clipguide.training.caption_config import CaptionerSettings

HALF = (0.5, 0.5, 0.5)


def test_what_sees_takes_pixels_to_where_it_is(clip_dir: Path) -> None:
    scorer = load_scorer(clip_dir)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        image_size=16, patch_size=8,
    )  # fmt: skip
    backbone = BackboneSight(ViTModel(config, add_pooling_layer=False), scorer.preprocess)
    for sight in (backbone, ClipSight(scorer, "patches"), ClipSight(scorer, "embedding")):
        sight.module.to("meta")  # a device that every machine has
        assert sight.encode(torch.zeros(1, 3, 16, 16)).device.type == "meta"


def test_levels_of_a_cnn_are_its_last_states_end_to_end() -> None:
    model = tiny_image()
    sight = BackboneSight(model, Preprocess((64, 64), (64, 64), HALF, HALF), levels=3)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = sight.encode(pixels)
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-3:]
    rows, columns = states[-1].shape[2:]
    assert sight.width == found.shape[-1] == sum(state.shape[1] for state in states)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        parts = []
        for state in states:
            tall, wide = state.shape[2] // rows, state.shape[3] // columns
            box = state[:, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            parts.append(box.mean(dim=(2, 3)))
        assert torch.allclose(found[:, place], torch.cat(parts, dim=1), atol=1e-5)


def test_levels_of_a_vit_are_the_tokens_of_its_last_layers() -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=1, intermediate_size=16,
        image_size=16, patch_size=8,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False).eval()
    sight = BackboneSight(model, Preprocess((16, 16), None, HALF, HALF), levels=2)
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True)
        told = torch.cat([output.hidden_states[-2], output.last_hidden_state], dim=-1)
        assert torch.equal(sight.encode(pixels), told)


def test_levels_that_an_encoder_has_not_are_refused() -> None:
    square = Preprocess((64, 64), None, HALF, HALF)
    for levels, told in ((0, "got 0 levels, expected at least 1"), (6, "at most the 5")):
        with pytest.raises(ValueError, match=told):
            BackboneSight(tiny_image(), square, levels=levels)
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2
    )
    swin = SwinModel(config, add_pooling_layer=False)
    small = Preprocess((16, 16), None, HALF, HALF)
    assert BackboneSight(swin, small).width == 16
    with pytest.raises(ValueError, match="expected as many tokens in each"):
        BackboneSight(swin, small, levels=3)


def test_levels_and_size_are_kept_with_a_captioner(tmp_path: Path) -> None:
    photo = Image.effect_noise((60, 30), 90).convert("RGB")
    square = Preprocess((64, 64), None, HALF, HALF, resize="squash")
    sight = BackboneSight(tiny_image(), square, levels=2)
    words = Vocabulary.of(["a dog"], least=1)
    decoder = ShowAndTell(sight.width, words.size, 8)
    save_captioner(TrainedCaptioner("x", sight, words, decoder), tmp_path / "model")
    captioner = load_captioner(tmp_path / "model")
    assert isinstance(captioner, TrainedCaptioner)
    assert torch.equal(
        captioner.see([photo]), TrainedCaptioner("y", sight, words, decoder).see([photo])
    )
    # the whole photo is seen: its edges count
    edge = photo.copy()
    edge.paste((255, 0, 0), (0, 0, 4, 30))
    assert not torch.equal(captioner.see([photo]), captioner.see([edge]))


def test_a_run_sees_the_levels_and_the_size_asked_for(
    toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    told = {}
    for levels, size in ((1, 0), (2, 64)):
        run = toy_captioner(
            toys, "show_and_tell", tmp_path / str(size), clip_dir, epochs=1, batch=4,
            captioner={"levels": levels, "size": size},
        )  # fmt: skip
        told[size] = run.captioner.sight
    plain, whole = told.values()
    assert isinstance(whole, BackboneSight)
    assert (whole.levels, whole.preprocess.size, whole.preprocess.crop) == (2, (64, 64), None)
    assert whole.preprocess.resize == "squash"
    assert (whole.width, plain.width) == (16 + 24, 24)
    assert whole.mark() != plain.mark()


def test_the_mirror_image_is_seen_behind_the_picture(tmp_path: Path) -> None:
    photo = Image.effect_noise((64, 64), 90).convert("RGB")
    sight = BackboneSight(tiny_image(), Preprocess((64, 64), None, HALF, HALF))
    words = Vocabulary.of(["a dog"], least=1)
    captioner = TrainedCaptioner("x", sight, words, ShowAndTell(sight.width, words.size, 8))
    alone = [captioner.see([one]) for one in (photo, ImageOps.mirror(photo))]
    marks = [sight.mark()]
    sight.mirrored = True
    marks.append(sight.mark())
    assert marks[0] != marks[1]
    save_captioner(captioner, tmp_path / "model")
    loaded = load_captioner(tmp_path / "model")
    assert isinstance(loaded, TrainedCaptioner)
    assert torch.equal(loaded.see([photo]), torch.cat(alone, dim=1))


def test_a_place_of_the_mirror_image_counts_for_the_pictures() -> None:
    sight = BackboneSight(tiny_image(), Preprocess((64, 64), None, HALF, HALF))
    looks = torch.arange(8.0)[None]
    with pytest.raises(ValueError, match="got 8 places, expected a square"):
        sight.grids(looks)
    sight.mirrored = True
    assert sight.grids(looks).tolist() == [[[0 + 5, 1 + 4], [2 + 7, 3 + 6]]]


def test_a_run_learns_from_photos_and_writes_from_their_mirror_images_too(
    toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    run = toy_captioner(
        toys, "soft_attention", tmp_path / "run", clip_dir, epochs=1, batch=4,
        captioner={"mirrored": True, "size": 64},
    )  # fmt: skip
    rows = {name: views[0][0] for name, (_, views) in run._splits.items()}  # pyright: ignore[reportPrivateUsage]
    assert rows["train"].shape == (4, 24)
    assert rows["dev"].shape == (8, 24)
    run.train()
    loaded = load_captioner(tmp_path / "run")
    assert isinstance(loaded, TrainedCaptioner)
    assert loaded.sight.mirrored
    looked = loaded.look(Image.open(next((toys / "images").iterdir())))
    assert looked.places.shape[1:] == (2, 2)
    sums = looked.places.sum(dim=(1, 2))
    assert torch.allclose(sums, torch.ones(len(sums)), atol=1e-5)


def test_settings_of_one_kind_are_refused_for_another(
    toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    with pytest.raises(ValueError, match=r"train\.weight_drop of clip_prefix"):
        toy_captioner(toys, "clip_prefix", tmp_path, clip_dir, weight_drop=0.2)
    for name in ("levels", "size"):
        with pytest.raises(ValueError, match=rf"captioner\.{name} beside captioner\.clip"):
            CaptionerSettings(kind="show_and_tell", clip="starter", **{name: 2})
    with pytest.raises(ValueError, match=r"captioner\.levels 0"):
        CaptionerSettings(kind="show_and_tell", image="a", levels=0)
    for name in ("mirrored", "tie_words"):
        with pytest.raises(ValueError, match=rf"captioner\.{name} of clip_prefix"):
            CaptionerSettings(kind="clip_prefix", image="a", **{name: True})
