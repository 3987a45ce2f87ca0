"""Caption metrics against the COCO code's own, where it is installed, and values by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from clipguide.data.caption_sets import paired, read_caption_set
from clipguide.data.captions import CaptionError
from clipguide.evaluation.caption_metrics import bleu, caption_report, cider_d, rouge_l
from clipguide.evaluation.ptb import ptb_tokens

# what Stanford's PTBTokenizer 3.4.1 (-preserveLines -lowerCase) makes of them, punctuation dropped
# by the COCO code's list; noted down from a run of the Java program
PTB = {
    "A man can't jump, won't run; he'd \"rather\" sleep (on a bed).": (
        "a man ca n't jump wo n't run he 'd rather sleep -lrb- on a bed -rrb-"
    ),
    "Dr. Smith meets Mr. Jones at St. James St.": "dr. smith meets mr. jones at st. james st.",
    "Cannot gonna gotta wanna go": "can not gon na got ta wan na go",
    "The U.S. flag is up. He lives in the U.K.": "the u.s. flag is up he lives in the u.k.",
    "It costs $5.99 or 3,000 euros & 50% off": "it costs $ 5.99 or 3,000 euros & 50 % off",
    "the boys' toys 'n' children's toys o'clock": "the boys toys 'n' children 's toys o'clock",
    "a state-of-the-art black/white t-shirt": "a state-of-the-art black/white t-shirt",
    "wait... what?! no! -- yes": "wait what ?! no yes",
    "an AT&T sign of avrovulcan.com, letter P.": "an at&t sign of avrovulcan.com letter p.",
    "an at&t sign": "an at & t sign",
    "don’t it’s “quoted” ‘single’ …": "do n't it 's quoted single",
}


@pytest.mark.parametrize(("caption", "words"), PTB.items())
def test_words_are_those_of_the_java_tokeniser(caption: str, words: str) -> None:
    assert " ".join(ptb_tokens(caption)) == words


def _set(images: int, seed: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    source = random.Random(seed)
    words = ["a", "dog", "cat", "runs", "on", "the", "beach", "red", "ball"]

    def text() -> list[str]:
        return [source.choice(words) for _ in range(source.randint(1, 12))]

    return [text() for _ in range(images)], [[text() for _ in range(5)] for _ in range(images)]


@pytest.mark.parametrize("images", [1, 2, 40])
def test_equal_to_the_coco_code(images: int) -> None:
    bleu_code = pytest.importorskip("pycocoevalcap.bleu.bleu")
    rouge_code = pytest.importorskip("pycocoevalcap.rouge.rouge")
    cider_code = pytest.importorskip("pycocoevalcap.cider.cider")
    mine, theirs = _set(images, seed=images)
    results = {n: [" ".join(one)] for n, one in enumerate(mine)}
    truths = {n: [" ".join(one) for one in own] for n, own in enumerate(theirs)}
    found, _ = bleu_code.Bleu(4).compute_score(truths, results, verbose=0)
    assert bleu(mine, theirs) == pytest.approx(found, abs=1e-9)
    assert rouge_l(mine, theirs) == pytest.approx(
        rouge_code.Rouge().compute_score(truths, results)[0]
    )
    scores = cider_d(mine, theirs)
    mean, each = cider_code.Cider().compute_score(truths, results)
    assert scores == pytest.approx(list(each), abs=1e-9)
    assert sum(scores) / images == pytest.approx(mean, abs=1e-9)


def test_bleu_by_hand() -> None:
    # "the the the" against "the cat": one of three words is right after clipping, no bigram
    found = bleu([["the"] * 3, ["a"]], [[["the", "cat", "sat"]], [["a"]]])
    assert found[0] == pytest.approx(2 / 4, abs=1e-6)
    assert found[1] == pytest.approx(0, abs=1e-6)
    short = bleu([["a"], ["b"]], [[["a", "c"]], [["b", "c"]]])
    assert short[0] == pytest.approx(math.exp(1 - 2), abs=1e-6)  # brevity: 2 words for 4


def test_rouge_by_hand() -> None:
    # the subsequence "a b" of 3 and of 4 words
    precision, recall, square = 2 / 3, 2 / 4, 1.2**2
    value = (1 + square) * precision * recall / (recall + square * precision)
    assert rouge_l([["a", "x", "b"]], [[["a", "b", "y", "z"]]]) == pytest.approx(value)


def test_cider_of_the_reference_itself_is_ten_and_of_another_none() -> None:
    one, two = ["a", "red", "dog", "runs"], ["two", "blue", "cats", "sit"]
    assert cider_d([one, one], [[one], [two]]) == pytest.approx([10, 0])


def test_a_set_without_references_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no reference caption of 'b\.jpg'"):
        caption_report({"b.jpg": "a dog"}, {"a.jpg": ["a dog"]})


# --- files ---------------------------------------------------------------------------------------


def _write(folder: Path, name: str, value: object) -> Path:
    (folder / name).write_text(json.dumps(value))
    return folder / name


def test_cocos_files_and_plain_ones_give_the_same(
    tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    plain = _write(tmp_path, "c.json", {"a.jpg": "A dog runs.", "b.jpg": "A cat."})
    texts = {"a.jpg": ["a dog is running", "a dog runs"], "b.jpg": ["the cat sits"]}
    references = _write(tmp_path, "r.json", texts)
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}]
    notes = [
        {"image_id": 7 if name == "a.jpg" else 9, "caption": text}
        for name, own in texts.items()
        for text in own
    ]
    coco = _write(tmp_path, "coco.json", {"images": images, "annotations": notes})
    results = _write(
        tmp_path, "results.json",
        [{"image_id": 7, "caption": "A dog runs."}, {"image_id": 9, "caption": "A cat."}],
    )  # fmt: skip
    found = []
    for mine, theirs in ((plain, references), (results, coco), (plain, coco)):
        options = ["--candidates", str(mine), "--references", str(theirs), "--json"]
        data = cli("eval", "captions", *options).data
        found.append([data[name] for name in ("bleu_1", "bleu_4", "rouge_l", "cider")])
        assert (data["images"], data["references"]) == (2, 3)
    assert found[0] == found[1] == found[2]
    assert found[0] == [
        caption_report({"a.jpg": "A dog runs.", "b.jpg": "A cat."}, texts)[name]
        for name in ("bleu_1", "bleu_4", "rouge_l", "cider")
    ]


def test_bad_files_are_one_line(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    references = _write(tmp_path, "r.json", {"a.jpg": ["a dog"]})
    twice = _write(tmp_path, "two.json", {"a.jpg": ["a dog", "a cat"]})
    other = _write(tmp_path, "other.json", {"b.jpg": "a dog"})
    broken = _write(tmp_path, "broken.json", [{"image_id": 1}])
    for file, words in (
        (twice, "2 candidates of 'a.jpg'"),
        (other, "no reference caption of 'b.jpg'"),
        (broken, "expected image_id and caption"),
        (tmp_path / "none.json", "no such file"),
    ):
        options = ["--candidates", str(file), "--references", str(references)]
        outcome = cli("eval", "captions", *options)
        assert outcome.code == 2
        assert words in outcome.err
        assert outcome.err.count("\n") == 1
    with pytest.raises(CaptionError):
        read_caption_set(broken)
    mine, _ = paired(read_caption_set(references), read_caption_set(references))
    assert mine == {"a.jpg": "a dog"}
