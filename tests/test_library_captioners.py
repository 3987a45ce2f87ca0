"""Captioners of transformers, tiny and random, against the library's own calls (Must show 9)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_captioners import (
    CAPTION_WORDS,
    CLS,
    PATCH_WORDS,
    SEP,
    tiny_blip_captioner,
    tiny_encoder_decoder,
    tiny_git,
    tiny_qwen,
    tiny_talking,
)
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from clipguide.language.captioner import DoubtfulCaption
from clipguide.language.library_captioner import ASK
from clipguide.language.loading import load_captioner

pytestmark = pytest.mark.filterwarnings("ignore::clipguide.language.captioner.DoubtfulCaption")
SPECIAL = ("[CLS]", "[SEP]", "<pad>", "<unk>", "<image>")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "blip": tiny_blip_captioner,
    "git": tiny_git,
    "encoder-decoder": tiny_encoder_decoder,
    "talking": tiny_talking,
}


@pytest.fixture(scope="module", params=[*MAKERS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    source = np.random.default_rng(0)
    return [
        Image.fromarray(source.integers(256, size=(40, 32, 3), dtype=np.uint8)) for _ in range(2)
    ]


def own_inputs(folder: Path, image: Image.Image) -> dict[str, torch.Tensor]:
    """What the model's own processor makes of one image."""
    if folder.name != "talking":
        return dict(AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt"))
    said = [{"type": "image", "image": image}, {"type": "text", "text": ASK}]
    return dict(
        AutoProcessor.from_pretrained(folder).apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt",
        )
    )  # fmt: skip


def own_options(folder: Path) -> dict[str, Any]:
    """What its own generate needs: before transformers 5.18 GIT's runs out of positions where it
    remembers what it read."""
    old = tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 18)
    return {"use_cache": False} if folder.name == "git" and old else {}


def own_model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"method": "greedy"}, {"num_beams": 1}),
        ({"method": "beam", "beams": 3}, {"num_beams": 3}),
        ({"method": "beam", "count": 2}, {"num_beams": 3, "num_return_sequences": 2}),
    ],
)
def test_captions_are_those_of_the_librarys_generate(
    folder: Path, images: list[Image.Image], options: dict[str, Any], own: dict[str, Any]
) -> None:
    found = load_captioner(f"hf:{folder}").caption(images, **options)
    model = own_model(folder)
    if folder.name == "talking":  # it is not to write the token that stands for a picture
        own = {**own, "suppress_tokens": [2]}
    for image, written in zip(images, found, strict=True):
        inputs = own_inputs(folder, image)
        own = {**own, **own_options(folder)}
        rows = model.generate(**inputs, **own, do_sample=False, max_new_tokens=30).tolist()
        begin = inputs["input_ids"].shape[1] if folder.name == "talking" else 1
        end = 2 if folder.name == "talking" else SEP  # Llama's </s>
        special = {"<pad>", "<unk>", "<image>"} | ({"[CLS]", "[SEP]"} if begin == 1 else set())
        texts = []
        for row in rows:
            tokens = row[begin:]
            tokens = tokens[: tokens.index(end)] if end in tokens else tokens
            names = [CAPTION_WORDS[token] for token in tokens]
            texts.append([name for name in names if name not in special])
        assert sorted(one.text.split() for one in written) == sorted(texts)


def test_log_probabilities_are_the_models_own_step_by_step(
    folder: Path, images: list[Image.Image]
) -> None:
    captioner = load_captioner(folder)
    text = "a red star"
    found = captioner.log_prob(images, text)
    model = own_model(folder)
    words = [CAPTION_WORDS.index(word) for word in text.split()]
    for place, image in enumerate(images):
        inputs = own_inputs(folder, image)
        talked = folder.name == "talking"
        row = inputs["input_ids"][0].tolist() if talked else [CLS]
        total = 0.0
        for token in [*words, 2 if talked else SEP]:  # a token at a time, nothing kept between
            ids = torch.tensor([row])
            key = "decoder_input_ids" if folder.name == "encoder-decoder" else "input_ids"
            with torch.no_grad():
                logits = model(**{key: ids}, pixel_values=inputs["pixel_values"]).logits
            total += float(logits[0, -1].double().log_softmax(dim=-1)[token])
            row.append(token)
        assert float(found.sentence[place]) == pytest.approx(total, abs=1e-4)
        assert float(found.token[place]) == pytest.approx(total / 4, abs=1e-4)


def test_a_written_caption_has_the_log_probability_of_its_tokens(
    folder: Path, images: list[Image.Image]
) -> None:
    if folder.name == "talking":
        pytest.skip("the library computes no transition scores of beams there")
    written = load_captioner(folder).caption(images[:1], method="greedy")[0][0]
    model = own_model(folder)
    inputs = own_inputs(folder, images[0])
    output = model.generate(
        **inputs, num_beams=1, do_sample=False, max_new_tokens=30,
        return_dict_in_generate=True, output_logits=True, **own_options(folder),
    )  # fmt: skip
    steps = torch.stack([logits[0].log_softmax(dim=-1) for logits in output.logits])
    tokens = output.sequences[0, 1:][: written.tokens]
    total = steps[: written.tokens].gather(1, tokens[:, None]).sum()
    assert written.log_prob == pytest.approx(float(total), abs=1e-3)


def test_a_picture_of_patches_and_a_caption_of_two_ends(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    captioner = load_captioner(place := tiny_qwen(tmp_path / "talking"))
    model, inputs = own_model(place), own_inputs(place, images[0])

    def slow(words: list[str], *, ended: bool) -> float:
        tokens = torch.tensor([[PATCH_WORDS.index(word) for word in words]])
        begin = inputs["input_ids"].shape[1]
        given = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], dim=1)}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        kinds = inputs["mm_token_type_ids"]
        given["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(tokens)], dim=1)
        with torch.no_grad():
            chances = model(**given).logits[0, begin - 1 :].double().softmax(dim=-1)
        total = chances[:-1].gather(1, tokens.T).log().sum()
        return float(total + (chances[-1, [SEP, 1]].sum().log() if ended else 0.0))

    found = captioner.log_prob(images[:1], "a red star").sentence
    assert float(found) == pytest.approx(slow(["a", "red", "star"], ended=True), abs=1e-3)
    drawn = captioner.caption(images[:1], 8, "sample", torch.Generator().manual_seed(0))[0]
    ended = [one for one in drawn if 30 > one.tokens == len(one.text.split()) + 1]
    assert len(ended) > 1
    for one in ended:
        assert one.log_prob == pytest.approx(slow(one.text.split(), ended=True), abs=1e-3)
    written = captioner.caption(images[:1], method="greedy")[0][0]
    output = model.generate(
        **inputs, do_sample=False, max_new_tokens=30, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    steps = torch.stack([logits[0].log_softmax(dim=-1) for logits in output.logits])
    tokens = output.sequences[0, inputs["input_ids"].shape[1] :]
    assert written.tokens == len(tokens)
    steps[:, SEP] = steps[:, [SEP, 1]].logsumexp(dim=-1)
    total = float(steps.gather(1, tokens[:, None]).sum())
    assert written.log_prob == pytest.approx(total, abs=0.01)


def test_a_text_beyond_the_context_is_refused(folder: Path, images: list[Image.Image]) -> None:
    captioner = load_captioner(folder)
    text = captioner.model.config.get_text_config(decoder=True)  # type: ignore[attr-defined]
    text.max_position_embeddings = most = 48
    first = len(captioner.start(captioner.inputs(images[:1])))  # type: ignore[attr-defined]
    assert captioner.log_prob(images[:1], "a " * (most - first)).sentence.isfinite()
    told = f"got a text of {most - first + 1} tokens, expected at most {most - first} after"
    with pytest.raises(ValueError, match=told):
        captioner.log_prob(images[:1], "a " * (most - first + 1))


def test_samples_are_the_seeds(folder: Path, images: list[Image.Image]) -> None:
    captioner = load_captioner(folder)

    def drawn(seed: int) -> list[str]:
        source = torch.Generator().manual_seed(seed)
        found = captioner.caption(images, 3, "sample", source)
        return [one.text for several in found for one in several]

    before = torch.random.get_rng_state()
    first = drawn(0)
    assert torch.equal(before, torch.random.get_rng_state())  # torch's own generator is left alone
    assert first == drawn(0)
    assert first != drawn(1)
    with pytest.raises(ValueError, match="without a generator"):
        captioner.caption(images, 3, "sample")


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match=r"got captioner 'nothing', expected starter, hf:"):
        load_captioner("nothing")
    path = tiny_git(tmp_path / "git")
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected model\.safetensors"):
        load_captioner(path)
    blip = load_captioner(tiny_blip_captioner(tmp_path / "blip"))
    with pytest.raises(ValueError, match="expected one of"):
        blip.caption(images, method="best")
    with pytest.raises(ValueError, match="of method greedy"):
        blip.caption(images, 2, "greedy")
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        blip.log_prob(images, ["a"])
    with pytest.raises(ValueError, match="more than text"):
        blip.log_prob(images, "a [SEP] red")


def test_an_empty_caption_is_warned_of(tmp_path: Path, images: list[Image.Image]) -> None:
    path = tiny_git(tmp_path / "git")
    captioner = load_captioner(path)
    with torch.no_grad():
        captioner.module.output.bias[SEP] = 1e4  # type: ignore[union-attr]
    with pytest.warns(DoubtfulCaption, match="without words"):
        assert captioner.caption(images[:1])[0][0].text == ""
    with torch.no_grad():
        captioner.module.output.bias[CAPTION_WORDS.index("star")] = 2e4  # type: ignore[union-attr]
    with pytest.warns(DoubtfulCaption, match="repeats 'star'"):
        captioner.caption(images[:1])
