"""Benchmarks' files, and the report by skill against GenEval 2's own arithmetic written out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import gmean

from clipguide.data.geneval2 import (
    Question,
    TestPrompt,
    read_picture_map,
    read_test_prompts,
    write_picture_map,
    write_test_prompts,
)
from clipguide.data.prompt_files import Prompt, read_prompt_rows, read_prompts
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.data.scenes import render, sample_scene
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.evaluation.skills import oracle_scores, scene_prompt, skill_report
from clipguide.report.metadata import save_png

LINE = {  # the example of GenEval 2's README
    "prompt": "four white bicycles in front of three plastic cows",
    "atom_count": 7,
    "vqa_list": [
        ["How many bicycles are in the image?", "four"],
        ["Are the bicycles white?", "Yes"],
        ["Are there any bicycles in the image?", "Yes"],
        ["Are the bicycles in front of the cows?", "Yes"],
        ["How many cows are in the image?", "three"],
        ["Are the cows plastic?", "Yes"],
        ["Are there any cows in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object", "position", "count", "attribute", "object"],
}


def test_prompt_file_is_read_and_written_back(tmp_path: Path) -> None:
    file, copy = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n" + json.dumps(LINE | {"prompt": "ü, \u202e\n"}) + "\n")
    prompts = read_test_prompts(file)
    assert len(prompts) == 2
    assert prompts[0].atom_count == 7
    assert prompts[0].questions[3] == Question(
        "Are the bicycles in front of the cows?", "Yes", "position"
    )
    write_test_prompts(copy, prompts)
    assert [json.loads(line) for line in copy.read_text().splitlines()] == [
        LINE,
        LINE | {"prompt": "ü, \u202e\n"},
    ]
    assert read_prompt_rows(file)[0] == Prompt(LINE["prompt"], "7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"skills": ["count"]}, "got 7 questions and 1 skills"),
        ({"vqa_list": []}, "got 0 questions"),
        ({"vqa_list": [["Is it?"]] * 7}, "expected .question, answer."),
        ({"skills": ["colour"] * 7}, "got skill 'colour', expected one of object"),
        ({"atom_count": 0}, "got atom_count 0"),
        ({"prompt": " "}, "got prompt ' '"),
        ({"vqa_list": "none"}, "expected a list"),
    ],
)
def test_prompt_file_mistakes_name_the_line(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(ValueError, match=f"line 2: .*{reason}") as caught:
        read_test_prompts(file)
    assert "\n" not in str(caught.value)


def test_picture_map_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    pictures = {'a "red", <b>star</b>\n': "x.png", "שלום": "/elsewhere/y.png"}
    write_picture_map(tmp_path / "map.json", pictures)
    assert json.loads((tmp_path / "map.json").read_text()) == pictures
    assert read_picture_map(tmp_path / "map.json") == {
        'a "red", <b>star</b>\n': tmp_path / "x.png",
        "שלום": Path("/elsewhere/y.png"),
    }
    for text, reason in (
        ('{"a": "x", "a": "y"}', "got 'a' twice"),
        ('{"a": 3}', "got 3 for 'a'"),
        ('["a"]', "expected an object"),
        ("{}", "no pictures in it"),
    ):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_picture_map(tmp_path / "map.json")


def test_report_is_geneval2s_own_arithmetic() -> None:
    rng = random.Random(3)
    skills = ("object", "attribute", "count", "position", "verb")
    prompts = [
        TestPrompt(
            f"prompt {number}",
            rng.randint(3, 6),
            tuple(Question("?", "Yes", rng.choice(skills)) for _ in range(rng.randint(1, 9))),
        )
        for number in range(60)
    ]
    scores = [[rng.random() for _ in prompt.questions] for prompt in prompts]
    scores[5] = [0.0] * len(scores[5])
    report = skill_report(prompts, scores)
    for skill in skills:  # soft_tifa_analysis.py: sums and counts over all questions
        own = [
            score
            for prompt, some in zip(prompts, scores, strict=True)
            for question, score in zip(prompt.questions, some, strict=True)
            if question.skill == skill
        ]
        assert report.skills[skill].percent == pytest.approx(100 * sum(own) / len(own))
        assert report.skills[skill].total == len(own)
    for atoms in range(3, 7):
        some = [gmean(s) for p, s in zip(prompts, scores, strict=True) if p.atom_count == atoms]
        assert report.requirements[atoms].percent == pytest.approx(100 * sum(some) / len(some))
    assert report.arithmetic == pytest.approx(100 * sum(sum(s) / len(s) for s in scores) / 60)
    assert report.geometric == pytest.approx(100 * sum(gmean(s) for s in scores) / 60)
    assert report.prompts == 60


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, 1.5], [1.0, math.nan]])
def test_scores_that_do_not_fit_are_refused(wrong: list[float]) -> None:
    question = Question("?", "Yes", "object")
    with pytest.raises(ValueError, match="'a star'"):
        skill_report([TestPrompt("a star", 2, (question, question))], [wrong])


def test_oracle_answers_every_question_of_a_scene() -> None:
    for number in range(20):
        scene = sample_scene(number)
        caption = f"a {scene.objects[0].color} {scene.objects[0].shape}"
        if len(scene.objects) == 1:
            verdict = oracle_verdict(render(scene), caption)
            assert oracle_scores(caption, verdict) == [1.0, 1.0, 1.0]
    one = render(sample_scene(3, count=1))  # a small striped orange star
    asked = "a large striped red star left of a blue ring"
    assert [(q.skill, q.answer) for q in scene_prompt(asked).questions] == [
        ("count", "one"), ("attribute", "Yes"), ("attribute", "Yes"), ("attribute", "Yes"),
        ("object", "Yes"), ("count", "one"), ("attribute", "Yes"), ("object", "Yes"),
        ("position", "Yes"),
    ]  # fmt: skip
    assert scene_prompt(asked).atom_count == 7
    #      one star, large, striped, red, a star; no ring: count, blue, there, left of
    assert oracle_scores(asked, oracle_verdict(one, asked)) == [1, 0, 1, 0, 1, 0, 0, 0, 0]
    twice = "a red star and a blue star"
    assert scene_prompt(twice).questions[0].answer == "two"
    assert oracle_scores(twice, oracle_verdict(one, twice))[0] == 0


def test_report_of_a_map_from_the_command_line(tmp_path: Path, cli: Any) -> None:
    scenes = [sample_scene(number, count=1) for number in range(4)]
    pictures: dict[str, str] = {}
    for number, scene in enumerate(scenes):
        thing = scene.objects[0]
        caption = f"a {thing.color} {thing.shape}"
        render(scene).save(tmp_path / f"{number}.png")
        pictures[caption] = f"{number}.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures |= {"a red dog": "0.png", "a pink star": "broken.png"}
    write_picture_map(tmp_path / "map.json", pictures)
    found = cli(
        "eval", "oracle", tmp_path / "map.json", "--json",
        "--prompts-out", tmp_path / "p.jsonl", "--scores-out", tmp_path / "s.json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "skipped" in found.err
    report = found.data["groups"]["pictures"]
    assert report["right"] == report["arithmetic"] == report["geometric"] == 100
    assert {bad["image"] for bad in found.data["bad"]} == {
        str(tmp_path / "0.png"),
        str(tmp_path / "broken.png"),
    }
    prompts = read_test_prompts(tmp_path / "p.jsonl")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert skill_report(prompts, scores).arithmetic == 100
    table = cli("eval", "oracle", tmp_path / "map.json")
    assert "AM 100.0 %, GM 100.0 %, right 100.0 %" in table.out


def test_pictures_of_two_roles_are_refused_before_any_is_judged(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = sample_scene(3, count=1)
    thing = scene.objects[0]
    prompt = f"a {thing.color} {thing.shape}"
    for role in ("guided", "unguided"):
        record = {"prompt": prompt, "role": role}
        save_png(render(scene), tmp_path / f"{role}.png", record=record)
    assert set(cli("eval", "oracle", tmp_path, "--json").data["groups"]) == {"guided", "unguided"}
    monkeypatch.setattr("clipguide.evaluation.scene_oracle.oracle_verdict", None)
    found = cli("eval", "oracle", tmp_path, "--scores-out", tmp_path / "s.json")
    assert found.code == 2
    assert "got guided and unguided pictures, expected one kind for --prompts-out" in found.err
    assert not (tmp_path / "s.json").exists()


BENCHMARKS = {
    "PartiPrompts.tsv": ("Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tx\n",
                         Prompt("bond", "Abstract")),
    "DrawBench.csv": ('Prompts,Category\n"A red, red car.",Colors\n',
                      Prompt("A red, red car.", "Colors")),
    "DrawBench200.txt": ("A red colored car.\n", Prompt("A red colored car.")),
    "geneval.jsonl": ('{"tag": "counting", "include": [], "prompt": "a bench"}\n',
                      Prompt("a bench", "counting")),
    "coco.json": ('{"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": '
                  '[{"image_id": 7, "id": 1, "caption": "A cat."}]}', Prompt("A cat.")),
    "clipscore.json": ('{"image1": "an orange cat"}', Prompt("an orange cat")),
    "list.json": ('["a star"]', Prompt("a star")),
    "rows.json": ('[{"prompt": "a star", "category": "shape"}]', Prompt("a star", "shape")),
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_prompts(tmp_path: Path, name: str) -> None:
    text, expected = BENCHMARKS[name]
    (tmp_path / name).write_text(text)
    assert read_prompt_rows(tmp_path / name) == [expected]


def test_a_map_of_pictures_is_no_file_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"a star": "star.png"}')
    with pytest.raises(ValueError, match=r"got the picture star.png for a text"):
        read_prompts(tmp_path / "map.json")


def test_real_benchmarks(shared_data: Path) -> None:
    prompts = shared_data / "prompts"
    parti = read_prompt_rows(prompts / "PartiPrompts.tsv")
    assert len(parti) == 1632
    assert len({prompt.category for prompt in parti}) == 12
    geneval = read_prompt_rows(prompts / "geneval_metadata.jsonl")
    assert len(geneval) == 553
    assert {prompt.category for prompt in geneval} == {
        "single_object", "two_object", "counting", "colors", "position", "color_attr"
    }  # fmt: skip
    assert len(read_prompts(prompts / "DrawBench200.txt")) == 200
    for file in (prompts / "t2i_compbench").glob("*.txt"):
        assert len(read_prompts(file)) == 300
    if (file := prompts / "geneval2_data.jsonl").is_file():
        assert len(read_test_prompts(file)) == 800


def test_fixed_prompts_have_questions() -> None:
    for caption in fixed_prompts(50):
        prompt = scene_prompt(caption)
        assert {"object", "attribute", "count", "position"} == {q.skill for q in prompt.questions}
