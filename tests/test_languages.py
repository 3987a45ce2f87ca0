"""Text towers of other languages: German by rules, what is taught, saved, loaded and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import Outcome
from tiny_backbones import tiny_backbones
from torch import Tensor

import clipguide
from clipguide.clip.loading import load_scorer
from clipguide.data.scene_captions import ObjectSpec, SceneSpec, phrasings, spec_of
from clipguide.data.scene_captions_german import german_object, german_phrasings
from clipguide.data.scenes import COLORS, FILLS, RELATIONS, SHAPES, SIZES, sample_scene
from clipguide.data.text_pairs import read_text_pairs
from clipguide.images import load_image
from clipguide.retrieval import ImageFolder, embed_query, open_index, parse_query, update_index
from clipguide.training.language_config import LanguageConfig
from clipguide.training.language_run import LanguageRun
from clipguide.training.run_config import read_run_config
from training.languages import german

Cli = Callable[..., Outcome]
RECIPES = Path(__file__).parents[1] / "training" / "languages"
PAIRS = [("a red ball", "the ball is red"), ("a blue box", "the box is blue"),
         ("a green bar", "there is a green bar"), ("a white dog", "the white dog"),
         ("the table", "a table"), ("a black box", "the black box is there")]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "nominative", "dative"),
    [
        (("red", "star"), "ein roter Stern", "einem roten Stern"),
        (("green", "square", "large"), "ein großes grünes Quadrat", "einem großen grünen Quadrat"),
        (
            ("cyan", "circle", "small", "striped"),
            "ein kleiner gestreifter türkisfarbener Kreis",
            "einem kleinen gestreiften türkisfarbenen Kreis",
        ),
        (("pink", "cross", None, "plain"), "ein einfarbiges rosafarbenes Kreuz",
         "einem einfarbigen rosafarbenen Kreuz"),
    ],
)  # fmt: skip
def test_endings_follow_gender_and_case(
    item: tuple[str, ...], nominative: str, dative: str
) -> None:
    spec = ObjectSpec(*item)
    assert german_object(spec) == nominative
    assert german_object(spec, "dative") == dative


def test_every_phrase_has_its_german_and_no_two_scenes_share_one() -> None:
    star, ring = ObjectSpec("red", "star"), ObjectSpec("blue", "ring", "small")
    cross = ObjectSpec("green", "cross")
    seen: dict[str, SceneSpec] = {}
    for relation in (*RELATIONS, None):
        for objects in ((star, ring), (ring, star), (star, ring, cross)):
            spec = SceneSpec(objects, relation)
            assert len(german_phrasings(spec)) == len(phrasings(spec))
            for text in german_phrasings(spec):
                assert seen.setdefault(text, spec) == spec
    assert "ein roter Stern links von einem kleinen blauen Ring" in seen
    assert "ein kleiner blauer Ring mit einem roten Stern links davon, und ein grünes Kreuz" in seen
    assert "ein roter Stern, ein kleiner blauer Ring und ein grünes Kreuz" in seen
    for seed in range(40):  # every word of the grammar is known
        assert german_phrasings(spec_of(sample_scene(seed), Random(seed), detail=1.0))
    known = {ObjectSpec(c, s, z, f) for c in COLORS for s in SHAPES for z in SIZES for f in FILLS}
    assert len({german_object(item) for item in known}) == len(known)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs and a tiny encoder."""
    folder = tmp_path_factory.mktemp("pairs")
    tiny_backbones(folder)
    for split in ("train", "dev"):
        lines = ["source\ttranslation", *("\t".join(pair) for pair in PAIRS)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def run_of(data: Path, teacher: Path, output: Path, **train: object) -> LanguageRun:
    settings = {"epochs": 6, "batch": 2, "save_every": 4, "learning_rate": 0.01, "warmup": 0}
    changes = [f"train.{key}={json.dumps(value)}" for key, value in {**settings, **train}.items()]
    given = [f"root={data}", f"output={output}", f"language.text={data / 'text'}",
             f"language.teacher={teacher}", 'device="cpu"']  # fmt: skip
    return LanguageRun(
        read_run_config(RECIPES / "multilingual.toml", [*given, *changes], LanguageConfig)
    )


@pytest.fixture(scope="module")
def trained(data: Path, clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    run_of(data, clip_dir, output).train()
    return output


def squared(found: Tensor, wanted: Tensor) -> float:
    """Mean over texts of the squared error of unit vectors."""
    errors = [float(((a - b) ** 2).sum()) for a, b in zip(found, wanted, strict=True)]
    return sum(errors) / len(errors)


def test_both_languages_are_brought_to_the_teachers_vector_of_the_source(
    data: Path, clip_dir: Path, tmp_path: Path
) -> None:
    run = run_of(data, clip_dir, tmp_path / "out", batch=len(PAIRS))
    run.tower.eval()  # without dropout a step is what its vectors say
    losses = run.loss(0, torch.Generator().manual_seed(0))
    sources, translations = zip(*PAIRS, strict=True)
    wanted = load_scorer(clip_dir).encode_text(list(sources))
    with torch.no_grad():
        own, other = (run.tower(**run.tower.tokenize(texts)) for texts in (sources, translations))
    assert losses["sources"].item() == pytest.approx(squared(own, wanted), rel=1e-4)
    assert losses["translations"].item() == pytest.approx(squared(other, wanted), rel=1e-4)
    whole = losses["sources"] + losses["translations"]
    assert losses["loss"].item() == pytest.approx(whole.item())
    assert run.steps_of_epoch == 1


def test_it_learns_and_is_a_scorer_by_name(trained: Path, clip_dir: Path, tmp_path: Path) -> None:
    history = json.loads((trained / "history.json").read_text())
    assert history["6"]["loss"] < 0.5 * history["1"]["loss"]
    scorer, teacher = load_scorer(trained), load_scorer(clip_dir)
    sources, translations = map(list, zip(*PAIRS, strict=True))
    near = (scorer.encode_text(translations) * teacher.encode_text(sources)).sum(dim=1)
    assert float(near.mean()) == pytest.approx(history["6"]["cosine translation"], abs=1e-5)
    photo = load_image(sample_picture(tmp_path))
    assert torch.equal(scorer.encode_image([photo]), teacher.encode_image([photo]))
    assert scorer.logit_scale == teacher.logit_scale
    assert scorer.settings_hash
    assert scorer.settings_hash != teacher.settings_hash
    assert scorer.content_hash != teacher.content_hash


def sample_picture(folder: Path) -> Path:
    from PIL import Image

    file = folder / "picture.png"
    Image.effect_noise((24, 24), 90).convert("RGB").save(file)
    return file


def test_it_guides_and_searches(trained: Path, tmp_path: Path) -> None:
    scorer = load_scorer(trained)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    clipguide.ClipReward(scorer, "the ball is red")(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    sample_picture(tmp_path)
    update_index(tmp_path / "index", ImageFolder(tmp_path), scorer)
    query = embed_query(parse_query("the ball is red"), scorer)
    hit = open_index(tmp_path / "index").search(query, scorer=scorer)[0][0]
    wanted = scorer.score([tmp_path / "picture.png"], "the ball is red")
    assert hit.cosine == pytest.approx(float(wanted), abs=1e-3)


def test_a_killed_run_goes_on_to_the_bit(
    data: Path, clip_dir: Path, trained: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 7:  # three steps after a checkpoint, in the middle of an epoch
            raise Killed

    with pytest.raises(Killed):
        run_of(data, clip_dir, tmp_path / "out").train(on_step=stop)
    run_of(data, clip_dir, tmp_path / "out").train(resume=True)
    same = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert same == (trained / "model.safetensors").read_bytes()


def test_another_teacher_than_the_one_that_taught_is_refused(
    data: Path, trained: Path, clip_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    settings = json.loads((copy / "language_clip.json").read_text())
    for change, told in {
        "name": "got no folder|got scorer", "weights": "with weights", "settings": "changed since"
    }.items():  # fmt: skip
        other = {**settings, "teacher": {**settings["teacher"], change: "0" * 64}}
        (copy / "language_clip.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match=told):
            load_scorer(copy)
    with pytest.raises(ValueError, match=r"which reads latents, expected images"):
        run_of(data, Path("starter:latent"), tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source\ttranslation\n", "no pairs in it"),
        ("source\tother\na\tb\n", "got columns source, other, expected source and translation"),
        ("source\ttranslation\na\t \n", "got an empty translation"),
        ("source\ttranslation\na\n", "line 2"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "x.tsv"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"x\.tsv: .*{told}"):
        read_text_pairs(file)
    with pytest.raises(ValueError, match=r"expected .tsv or .csv"):
        read_text_pairs(tmp_path / "x.txt")


def test_the_german_recipe_runs_from_the_command_line(
    cli: Cli, tmp_path: Path, starter_assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(german, "COUNTS", {"train": 8, "dev": 4, "test": 4})
    german.main(tmp_path)
    first = (tmp_path / "train.tsv").read_text().splitlines()[1].split("\t")
    assert phrasings(clipguide_spec(first[0]))  # a caption of the grammar
    assert first[1].startswith("ein ")
    changes = [f"root={tmp_path}", f"language.text={tmp_path / 'encoder'}", "train.epochs=1",
               f"output={tmp_path / 'out'}", "train.batch=4"]  # fmt: skip
    options = [part for change in changes for part in ("--set", change)]
    done = cli("train", RECIPES / "german.toml", *options, "--json")
    assert done.code == 0, done.err
    assert set(done.data["test"]) == {"cosine source", "cosine translation", "found %"}
    assert load_scorer(tmp_path / "out").embed_dim == load_scorer("starter").embed_dim


def clipguide_spec(text: str) -> SceneSpec:
    from clipguide.data.scene_captions import parse_caption

    return parse_caption(text)
