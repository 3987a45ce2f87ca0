"""`clipguide score`, `rerank` and `classify` against the libraries' own forward passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.data.captions import Caption, CaptionError, read_captions
from clipguide.data.matching import match_captions
from clipguide.evaluation.reference_scores import clip_scores

Cli = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six square pictures of noise, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.jpg", "d.png", "e.webp", "more/f.png"):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(folder / name, quality=95)
    return folder


def hf_cosine(folder: Path, images: list[Path], text: str) -> list[float]:
    """By transformers alone, one picture at a time.

    With its Pillow processor, the one CLIP was trained with: the torchvision one of transformers 5
    differs from it by 1/255 in half a percent of the pixels.
    """
    from tiny_clip import CLIPImageProcessorPil
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)([text], padding=True, return_tensors="pt")
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    values: list[float] = []
    for path in images:
        with Image.open(path) as image, torch.no_grad():
            pixels = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
            out = model(pixel_values=pixels, **tokens)
        values.append(float((out.image_embeds * out.text_embeds).sum()))
    return values


def test_hf_scores_equal_transformers(cli: Cli, photos: Path, tiny_models: Path) -> None:
    name = f"hf:{tiny_models / 'clip'}"
    done = cli("score", photos, "--prompt", "a red fox", "--scorer", name, "--json")
    rows = done.data["results"]
    assert len(rows) == 6
    expected = hf_cosine(tiny_models / "clip", [Path(row["image"]) for row in rows], "a red fox")
    assert [row["value"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert {(row["convention"], row["scorer"]) for row in rows} == {("cosine", name)}
    assert done.data["mean"] == pytest.approx(sum(expected) / 6, abs=1e-5)


def test_real_photos_equal_transformers(cli: Cli, shared_data: Path, tiny_models: Path) -> None:
    photos = sorted((shared_data / "flickr8k").rglob("*.jpg"))[:12]
    assert len(photos) == 12
    name = f"hf:{tiny_models / 'clip'}"
    rows = cli("score", *photos, "--prompt", "a dog", "--scorer", name, "--json").data["results"]
    expected = hf_cosine(tiny_models / "clip", photos, "a dog")
    worst = max(abs(row["value"] - value) for row, value in zip(rows, expected, strict=True))
    assert worst <= 1e-5


def test_real_photos_equal_open_clip(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    photos = sorted((shared_data / "flickr8k").rglob("*.jpg"))[:6]
    torch.manual_seed(1)
    model, _, transform = open_clip.create_model_and_transforms("ViT-S-32")
    model.eval()
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer("ViT-S-32")(["a dog"]), normalize=True)
        pixels = torch.stack([transform(Image.open(path)) for path in photos])
        expected = (model.encode_image(pixels, normalize=True) @ text.T)[:, 0]
    name = f"open_clip:ViT-S-32/{tmp_path / 'w.safetensors'}"
    rows = cli("score", *photos, "--prompt", "a dog", "--scorer", name, "--json").data["results"]
    worst = max(abs(row["value"] - float(e)) for row, e in zip(rows, expected, strict=True))
    assert worst <= 1e-5


def test_conventions_are_their_formulas(cli: Cli, photos: Path, tiny_models: Path) -> None:
    values: dict[str, list[float]] = {}
    for name in ("cosine", "clipscore", "torchmetrics", "logit"):
        base = ["--scorer", tiny_models / "clip", "--json", "--convention", name, "--prefix", ""]
        values[name] = [
            row["value"]
            for prompt in ("x", "a red fox", "42", "two dogs")  # some above 0 and some below
            for row in cli("score", photos, "--prompt", prompt, *base).data["results"]
        ]
    scale = load_scorer(tiny_models / "clip").logit_scale
    cosines = values["cosine"]
    assert min(cosines) < 0 < max(cosines)
    assert values["clipscore"] == pytest.approx([2.5 * max(c, 0) for c in cosines], abs=1e-6)
    assert values["torchmetrics"] == pytest.approx([100 * max(c, 0) for c in cosines], abs=1e-4)
    assert values["logit"] == pytest.approx([c * scale for c in cosines], abs=1e-4)


def test_a_prefix_is_part_of_the_text(cli: Cli, photos: Path, tiny_models: Path) -> None:
    base = ["score", photos, "--scorer", tiny_models / "clip", "--json"]
    prefixed = cli(*base, "--prompt", "a dog", "--prefix", "A photo depicts").data
    whole = cli(*base, "--prompt", "A photo depicts a dog").data
    assert [r["value"] for r in prefixed["results"]] == [r["value"] for r in whole["results"]]
    assert prefixed["prefix"] == "A photo depicts"


def test_clipscore_is_the_published_one(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path
) -> None:
    """2.5 max(cos, 0) of "A photo depicts " and the text, by hand; each command's way."""
    scorer, files = load_scorer(tiny_models / "clip"), sorted(photos.rglob("*.*"))
    texts = ["x", "a red fox", "42", "two dogs"]
    by_hand = [
        2.5 * max(0.0, float(scorer.score(file, f"A photo depicts {text}")))
        for file in files for text in texts
    ]  # fmt: skip
    assert max(by_hand) > 0
    base = ["score", *files, "--scorer", tiny_models / "clip", "--convention", "clipscore"]
    found = [cli(*base, "--prompt", text, "--json").data for text in texts]
    values = {(r["image"], r["text"]): r["value"] for one in found for r in one["results"]}
    keys = [(str(file), f"A photo depicts {text}") for file in files for text in texts]
    assert [values[key] for key in keys] == pytest.approx(by_hand, abs=1e-6)
    assert {one["prefix"] for one in found} == {"A photo depicts"}
    library = [float(clip_scores(scorer, file, [text])) for file in files for text in texts]
    assert library == pytest.approx(by_hand, abs=1e-6)
    bare = cli(*base, "--prompt", "a red fox", "--prefix", "", "--json").data
    cosines = [float(scorer.score(Path(row["image"]), "a red fox")) for row in bare["results"]]
    expected = [2.5 * max(0.0, cosine) for cosine in cosines]
    assert [row["value"] for row in bare["results"]] == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(by_hand[1 :: len(texts)], abs=1e-3)  # the prefix matters
    assert bare["prefix"] == ""


CAPTIONS = {
    "c.tsv": 'image\ti\tcaption\na.png\t0\ta "red\nmore/f.png\t0\tb\na.png\t1\tc\nz.png\t0\td\n',
    "c.csv": 'caption,image\n"a ""red",a.png\nb,more/f.png\nc,a.png\nd,z.png\n',
    "c.json": json.dumps({"a.png": ['a "red', "c"], "more/f.png": "b", "z.png": ["d"]}),
    "list.json": json.dumps(
        [{"image": i, "caption": c} for i, c in [("a.png", 'a "red'), ("a.png", "c")]]
        + [{"image": "f.png", "caption": "b"}, {"image": "z.png", "caption": "d"}]
    ),
    "c.jsonl": '{"image": "a.png", "caption": "a \\"red"}\n{"image": "a.png", "caption": "c"}\n\n'
    '{"image": "more/f.png", "caption": "b"}\n{"image": "z.png", "caption": "d"}\n',
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_every_format(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(CAPTIONS[name], encoding="utf-8")
    base = ["score", photos, "--scorer", tiny_models / "clip", "--json"]
    done = cli(*base, "--captions", tmp_path / name)
    rows = {(Path(r["image"]).name, r["text"]): r["value"] for r in done.data["results"]}
    assert sorted(rows) == [("a.png", 'a "red'), ("a.png", "c"), ("f.png", "b")]
    single = cli("score", photos / "a.png", "--prompt", "c", *base[2:]).data["results"][0]["value"]
    assert rows["a.png", "c"] == pytest.approx(single, abs=1e-6)
    assert "z.png" in done.err
    assert "4 images have no caption" in done.err
    assert done.data["counts"] == {"images": 2, "good": 2, "bad": 0}


@pytest.mark.parametrize(
    ("text", "suffix", "word"),
    [
        ("image\tcaption\na.png\t \n", ".tsv", "line 2: got caption"),
        ("image,caption\na.png\n", ".csv", "line 2: got caption None"),
        ("", ".csv", "got columns none"),
        ("image,caption\n", ".csv", "no captions"),
        ("{", ".json", "Expecting"),
        ("3", ".json", "expected a list"),
        ("[" * 100_000, ".json", "recursion"),
        ('[{"image": 3, "caption": "x"}]', ".json", "entry 1: got image 3"),
        ("[4]", ".json", "entry 1: expected an object"),
    ],
)
def test_captions_that_cannot_be_read(tmp_path: Path, text: str, suffix: str, word: str) -> None:
    file = tmp_path / f"c{suffix}"
    file.write_text(text)
    with pytest.raises(CaptionError, match=word) as caught:
        read_captions(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_bare_name_of_two_files_matches_neither() -> None:
    files = [Path("x/a.png"), Path("x/y/a.png")]
    captions = [Caption("y/a.png", "1"), Caption("a.png", "2")]
    found = match_captions(captions, files, [Path("x/y"), Path("x")])
    assert found.texts == {files[1]: ["1"]}
    assert found.absent == ["a.png"]
    assert found.ambiguous == {"a.png": [files[1], files[0]]}


def test_rerank_orders_and_copies_the_best(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path
) -> None:
    base = ["rerank", photos, "--prompt", "a fox", "--scorer", tiny_models / "clip"]
    done = cli(*base, "--top-k", 3, "--out", tmp_path / "best", "--json")
    files = sorted(photos.rglob("*.*"))
    cosines = hf_cosine(tiny_models / "clip", files, "a fox")
    best = [path for _, path in sorted(zip(cosines, files, strict=True), reverse=True)][:3]
    assert [Path(row["image"]) for row in done.data["results"]] == best
    assert [row["rank"] for row in done.data["results"]] == [1, 2, 3]
    copies = sorted((tmp_path / "best").iterdir())
    assert [copy.name for copy in copies] == [f"{i + 1:04d}-{p.name}" for i, p in enumerate(best)]
    assert [c.read_bytes() for c in copies] == [p.read_bytes() for p in best]
    shown = cli(*base)
    assert shown.out.splitlines()[2].split()[2] == str(best[0]), shown


def test_classify_gives_softmax_probabilities(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nred fox\n")
    base = ["classify", photos, "--scorer", tiny_models / "clip", "--json", "--templates"]
    by_file = cli(*base, "a {}.", "--labels", tmp_path / "labels.txt").data
    assert by_file["labels"] == ["cat", "dog", "red fox"]
    assert cli(*base, "a {}.", "--labels", "cat,dog,red fox").data["results"] == by_file["results"]
    texts = ["a cat.", "a dog.", "a red fox."]
    for row in by_file["results"]:
        columns = [hf_cosine(tiny_models / "clip", [Path(row["image"])], text)[0] for text in texts]
        scale = load_scorer(tiny_models / "clip").logit_scale
        logits = np.array(columns) * scale
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        order = np.argsort(-expected)
        shown = row["predictions"]
        assert [p["label"] for p in shown] == [by_file["labels"][i] for i in order]
        assert [p["probability"] for p in shown] == pytest.approx(expected[order], abs=1e-4)
        break  # one picture: three passes of the slow reference
    assert len(cli(*base, "openai", "--labels", "cat,dog").data["templates"]) > 50


def test_classify_is_judged_by_the_folders(
    cli: Cli, tiny_models: Path, tiny_scorer: Scorer, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    files = []
    for label in ("cat", "dog", "fox"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(6):
            noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            files.append(tmp_path / "set" / label / f"{number}.png")
            Image.fromarray(noise).resize((32, 32)).save(files[-1])
    page = tmp_path / "failures.html"
    base = ["classify", tmp_path / "set", "--folders", "--scorer", tiny_models / "clip"]
    done = cli(*base, "--templates", "label", "--failures", page, "--json", "--top-k", 1)
    best = tiny_scorer.similarity(files, ["cat", "dog", "fox"]).argmax(dim=1).tolist()
    matrix = [[0] * 3 for _ in range(3)]
    for number, answer in enumerate(best):
        matrix[number // 6][answer] += 1
    verdict = done.data["verdict"]
    assert verdict["confusion"] == matrix
    right = sum(matrix[i][i] for i in range(3))
    assert verdict["accuracy"] == pytest.approx(right / 18)
    assert page.read_text(encoding="utf-8").count("<figure>") == 18 - right
    assert [len(row["predictions"]) for row in done.data["results"]] == [1] * 18
    assert f"accuracy {right / 18:.1%} of 18 images" in cli(*base, "--templates", "label").out
    wrong = cli(*base, "--labels", "cat,dog")
    assert (wrong.code, "'fox' is none of the labels" in wrong.err) == (2, True)
    none = cli("classify", tmp_path / "set", "--scorer", tiny_models / "clip")
    assert (none.code, "--labels" in none.err) == (2, True)
