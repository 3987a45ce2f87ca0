"""Scenes with their captions, and with questions and answers, as `clipguide train` reads them.

python -m training.captioners.scenes FOLDER [COUNT]

writes FOLDER/images, captions.csv, questions.csv and the splits train.txt, dev.txt, test.txt, for
starter_captioner.toml and starter_questions.toml. A question with its answer is a caption like any
other: what is taught is p(question answer | picture), of which an answerer compares the answers.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

from clipguide.data.scene_captions import (
    SWAPS,
    ObjectSpec,
    SceneSpec,
    replace_attribute,
    spec_of,
    swap,
    write_caption,
)
from clipguide.data.scenes import COLORS, INVERSE, SHAPES, Scene, pick, render, sample_scene
from clipguide.files import write_text

FIRST_SEED = 4_000_000
"""Scene i has this seed + i; none of the starter's own training or measurements."""
COUNT, HELD = 12_000, 300
"""Scenes in all, and how many of them are dev, and as many test."""
NUMBERS = ("zero", "one", "two", "three")
CAPTIONS = 5  # of each scene

Question = tuple[str, str, str]  # its kind, the question, the answer


def questions(scene: Scene, rng: Random) -> list[Question]:
    """Every kind of question about a scene once, or twice with either answer."""
    spec = spec_of(scene, rng, detail=0.3, relation=1.0)
    found: list[Question] = [("how many", "how many shapes are there?", NUMBERS[len(spec.objects)])]
    item = pick(rng, spec.objects)
    if [other.shape for other in spec.objects].count(item.shape) == 1:
        found.append(("colour", f"which colour is the {item.shape}?", item.color))
    if [other.color for other in spec.objects].count(item.color) == 1:
        found.append(("shape", f"which shape is the {item.color} one?", item.shape))
    other = absent(spec, rng)
    for thing, answer in ((item, "yes"), (other, "no")):
        found.append(("is there", f"is there {thing} in this picture?", answer))
    if spec.relation is not None:
        a, b = spec.objects[:2]
        back = INVERSE[spec.relation]
        for one, two, relation in ((a, b, spec.relation), (b, a, back)):
            found.append(("where", f"where is {one} from {two}?", relation.removesuffix(" of")))
    for shown, answer in ((spec, "yes"), (_otherwise(spec, rng), "no")):
        found.append(("shows", f"does this picture show {write_caption(shown, rng)}?", answer))
    return found


def _otherwise(spec: SceneSpec, rng: Random) -> SceneSpec:
    """The scene with the same words in other places, or another colour or shape of one object."""
    swapped = (swap(spec, kind) for kind in SWAPS)
    changed = (replace_attribute(spec, name, rng) for name in ("color", "shape"))
    return pick(rng, [other for other in (*swapped, *changed) if other is not None])


def absent(spec: SceneSpec, rng: Random) -> ObjectSpec:
    """An object that is not there; half of the time its colour or its shape is."""
    there = {(item.color, item.shape) for item in spec.objects}
    while True:
        item = pick(rng, spec.objects)
        color = item.color if rng.random() < 0.5 else pick(rng, tuple(COLORS))
        shape = item.shape if rng.random() < 0.5 else pick(rng, tuple(SHAPES))
        if (color, shape) not in there:
            return replace(item, color=color, shape=shape)


def main(folder: Path, count: int = COUNT) -> None:
    """All of it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    captions: list[tuple[str, str]] = []
    asked: list[tuple[str, str]] = []
    names = [f"{place:05}.png" for place in range(count)]
    for place, name in enumerate(names):
        scene = sample_scene(FIRST_SEED + place)
        rng = Random(FIRST_SEED + place)
        render(scene).save(folder / "images" / name)
        captions += [(name, write_caption(spec_of(scene, rng), rng)) for _ in range(CAPTIONS)]
        asked += [(name, f"{question} {answer}") for _, question, answer in questions(scene, rng)]
    for file, rows in (("captions", captions), ("questions", asked)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("image", "caption"), *rows])
        write_text(folder / f"{file}.csv", text.getvalue())
    held = min(HELD, count // 4)
    splits = {"test": names[:held], "dev": names[held : 2 * held], "train": names[2 * held :]}
    for split, some in splits.items():
        write_text(folder / f"{split}.txt", "\n".join(some) + "\n")
    print(f"wrote {folder}: {', '.join(f'{len(s)} {n}' for n, s in splits.items())} scenes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
