"""Questions about scenes by kind, and what the starter's question head says of wrong pictures.

Command: python -m training.captioners.asked [--scenes 500] [--pictures 10] [--model starter]
Hardware: one CPU core. Minutes: 3.
"""

from __future__ import annotations

import argparse
from collections import Counter
from random import Random

from clipguide.data.scenes import COLORS, RELATIONS, SHAPES, render, sample_scene
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.generation.settings import settings_for
from clipguide.language.answers import YES_NO, Answerer, ask_prompt, load_answerer, sentence_of
from training.captioners.scenes import NUMBERS, questions
from training.starter.measure import Bench, open_bench
from training.starter.ways import sampled

FIRST_SEED = 6_000_000
"""Scene i has this seed + i; none that anything was trained on."""
CHOICES = {
    "how many": NUMBERS[1:], "colour": (*COLORS,), "shape": (*SHAPES,), "is there": YES_NO,
    "shows": YES_NO, "where": tuple(relation.removesuffix(" of") for relation in RELATIONS),
}  # fmt: skip


def by_kind(answerer: Answerer, count: int) -> None:
    """Right answers in per cent."""
    right, asked = Counter[str](), Counter[str]()
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = sample_scene(seed)
        picture = render(scene)
        for kind, question, answer in questions(scene, Random(seed)):
            (found,) = answerer.answer([picture], question, CHOICES[kind])
            asked[kind] += 1
            right[kind] += found.text == answer
    for kind, choices in CHOICES.items():
        rate = 100 * right[kind] / asked[kind]
        print(f"{kind:<10} {rate:5.1f} % of {asked[kind]} (chance {100 / len(choices):.0f})")


def sentences(answerer: Answerer, bench: Bench, count: int) -> None:
    """Of the first wrong unguided pictures, then of the first right ones: what is printed, and what
    the oracle says."""
    plain = settings_for("starter", {})
    plain = plain.unguided()
    images = sampled(bench, plain, 0, bench.batch).images
    verdicts = [oracle_verdict(*pair) for pair in zip(images, bench.prompts, strict=True)]
    for ok in (False, True):
        some = [i for i, verdict in enumerate(verdicts) if verdict.ok == ok][:count]
        print(f"{'right' if ok else 'wrong'} by the oracle:")
        for i in some:
            said = sentence_of(ask_prompt(answerer, images[i], bench.prompts[i]))
            failed = ", ".join(f"{one.kind} {one.asked}" for one in verdicts[i].failed)
            print(f"  {bench.prompts[i]}: {said}{f'  [oracle: {failed}]' if failed else ''}")


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--model", default="starter", help="what load_answerer takes")
    given = parser.parse_args()
    answerer = load_answerer(given.model)
    by_kind(answerer, given.scenes)
    sentences(answerer, open_bench(60, 25, 20), given.pictures)


if __name__ == "__main__":
    main()
