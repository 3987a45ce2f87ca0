"""Runs of `clipguide train` that make captioners: what they leave, resumed, loaded, asked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_captioner_runs import toy_captioner

from clipguide import load_scorer
from clipguide.data.captions import read_captions
from clipguide.language.captioner_files import KINDS, RECURRENT, save_captioner
from clipguide.language.clip_prefix import ClipPrefix
from clipguide.language.loading import load_captioner
from clipguide.language.show_and_tell import ShowAndTell
from clipguide.language.trained_captioner import TrainedCaptioner, UnknownWord
from clipguide.training.caption_config import CaptionerSettings
from clipguide.training.caption_run import WORD_PENALTIES


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, toys: Path, tmp_path_factory: pytest.TempPathFactory,
    clip_dir: Path,
) -> tuple[str, Path]:  # fmt: skip
    output = tmp_path_factory.mktemp("runs") / request.param
    toy_captioner(toys, request.param, output, clip_dir, epochs=2, batch=4).train()
    return request.param, output


def test_a_run_makes_a_captioner_that_loads(trained: tuple[str, Path], toys: Path) -> None:
    kind, output = trained
    captioner = load_captioner(output)
    assert isinstance(captioner, TrainedCaptioner)
    assert RECURRENT.get(kind, ClipPrefix) is type(captioner.decoder)
    photo = next((toys / "images").iterdir())
    written = captioner.caption([photo], 2)[0]
    assert len(written) == 2
    known = {
        word
        for caption in read_captions(toys / "captions.tsv")
        for word in caption.text.lower().split()
    }
    assert {word for one in written for word in one.text.split()} <= known
    for one in written:
        if one.text and one.tokens <= 30:  # it has words and an end
            again = captioner.log_prob([photo], one.text)
            assert float(again.sentence[0]) == pytest.approx(one.log_prob, abs=1e-3)
    with pytest.warns(UnknownWord, match="does not know 'zebra'"):
        captioner.log_prob([photo], "a zebra")
    results = json.loads((output / "results.json").read_text())
    assert {"bleu_1", "bleu_4", "rouge_l", "cider"} <= set(results["dev"]["beam 3"])
    assert captioner.word_penalty == results["word_penalty"]


def test_a_killed_run_goes_on_to_the_bit(
    trained: tuple[str, Path], toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    kind, whole = trained
    given = {"epochs": 2, "batch": 4, "save_every": 1}

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        toy_captioner(toys, kind, tmp_path, clip_dir, **given).train(on_step=kill)
    resumed = toy_captioner(toys, kind, tmp_path, clip_dir, **given)
    results = resumed.train(resume=True)
    before = json.loads((whole / "results.json").read_text())
    assert results["dev"] == before["dev"]
    files = [place / "model.safetensors" for place in (whole, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def bleus_of(figures: dict[str, Any]) -> float:
    return sum(figures["beam 3"][f"bleu_{n}"] for n in range(1, 5))


def test_the_word_penalty_of_the_best_captions_of_dev_is_kept(
    toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    run = toy_captioner(toys, "show_and_tell", tmp_path / "run", clip_dir, epochs=1, batch=4)
    results = run.train()
    found: dict[float, float] = {}
    for penalty in WORD_PENALTIES:
        run.captioner.word_penalty = penalty
        found[penalty] = bleus_of(run.evaluate("dev"))
    assert found[results["word_penalty"]] == max(found.values())
    assert bleus_of(results["dev"]) == max(found.values())
    run.captioner.word_penalty = 0.45
    save_captioner(run.captioner, tmp_path / "saved")
    loaded = load_captioner(tmp_path / "saved")
    assert isinstance(loaded, TrainedCaptioner)
    assert loaded.word_penalty == 0.45
    file = tmp_path / "saved" / "captioner.json"
    settings = json.loads(file.read_text())
    for wrong in (-1, True, "a", None, float("inf")):
        file.write_text(json.dumps({**settings, "word_penalty": wrong}))
        with pytest.raises(ValueError, match=r"word_penalty .*expected a number of at least 0"):
            load_captioner(tmp_path / "saved")
    del settings["word_penalty"]  # a folder of before
    file.write_text(json.dumps(settings))
    before = load_captioner(tmp_path / "saved")
    assert isinstance(before, TrainedCaptioner)
    assert before.word_penalty == 0.0


def test_a_run_of_views_learns_from_all_of_them(
    toys: Path, tmp_path: Path, clip_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_captioner(
        toys, "show_and_tell", tmp_path, clip_dir, epochs=1, batch=4, views=3, flip=False
    )
    told: list[torch.Tensor] = []
    losses = run.decoder.losses

    def noted(seen: torch.Tensor, *rest: Any) -> dict[str, torch.Tensor]:
        told.append(seen)
        return losses(seen, *rest)

    monkeypatch.setattr(run.decoder, "losses", noted)
    for step in range(12):
        run.loss(step, torch.Generator().manual_seed(step))
    pairs, views = run._splits["train"]  # pyright: ignore[reportPrivateUsage]
    assert [len(rows) for rows in views] == [len(pairs.pictures)] * 3
    rows = {view: torch.stack(several).flatten(1).float() for view, several in enumerate(views)}
    found = {
        view
        for one in torch.cat(told).flatten(1)
        for view, several in rows.items()
        if bool((several == one).all(dim=1).any())
    }
    assert found == {0, 1, 2}
    # what is evaluated is the photo itself
    assert len(run._splits["dev"][1]) == 1  # pyright: ignore[reportPrivateUsage]


def test_a_captioner_with_attention_says_where_it_looked(
    trained: tuple[str, Path], toys: Path
) -> None:
    kind, output = trained
    captioner = load_captioner(output)
    assert isinstance(captioner, TrainedCaptioner)
    image = Image.open(next((toys / "images").iterdir()))
    if kind not in ("soft_attention", "hard_attention"):
        with pytest.raises(ValueError, match="expected a captioner with attention"):
            captioner.look(image)
        return
    looked = captioner.look(image)
    assert looked.places.shape[0] == len(looked.words)
    sums = looked.places.flatten(1).sum(dim=1)
    assert torch.allclose(sums, torch.ones(len(sums)), atol=1e-5)


def test_bad_settings_are_named(toys: Path, tmp_path: Path, clip_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"captioner\.kind 'lstm', expected one of"):
        CaptionerSettings(kind="lstm", image="a")
    with pytest.raises(ValueError, match="both or none"):
        CaptionerSettings(kind="show_and_tell")
    with pytest.raises(ValueError, match=r"train\.epochs 0"):
        toy_captioner(toys, "show_and_tell", tmp_path, clip_dir, epochs=0)
    assert ShowAndTell(3, 5, 4).logits.out_features == 5


def test_a_picture_asked_about_again_is_seen_once(
    trained: tuple[str, Path], toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = load_scorer(f"log-prob:{trained[1]}")
    photos = sorted((toys / "images").iterdir())[:2]
    texts = ["a dog", "a cat", "a dog a cat"]
    looked: list[int] = []
    whole = TrainedCaptioner._see  # pyright: ignore[reportPrivateUsage]

    def counted(self: TrainedCaptioner, images: Any) -> Any:
        looked.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(TrainedCaptioner, "_see", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWord)
        found = judge.similarity(photos, texts)
        assert sorted(looked) == [1, 1, 3]  # each photo, and the three of noise for log p(text)
        monkeypatch.setattr(TrainedCaptioner, "see", counted)
        assert torch.equal(load_scorer(f"log-prob:{trained[1]}").similarity(photos, texts), found)
