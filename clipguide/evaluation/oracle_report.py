"""How right the oracle is: rendered scenes against their own captions, and against wrong ones.

python -m clipguide.evaluation.oracle_report --scenes 2000 [--pipeline starter|DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from clipguide.data.scene_captions import (
    ATTRIBUTES,
    SWAPS,
    SceneSpec,
    parse_caption,
    replace_attribute,
    spec_of,
    swap,
    write_caption,
)
from clipguide.data.scenes import Scene, SceneObject, render, sample_scene
from clipguide.evaluation.image_transforms import Transform, autoencoder, blur, jpeg, unchanged
from clipguide.evaluation.scene_oracle import verdict_on
from clipguide.evaluation.scene_vision import DetectedObject, detect_objects

TRANSFORMS: Mapping[str, Transform] = {
    "clean": unchanged,
    "jpeg 85": jpeg(85),
    "jpeg 60": jpeg(60),
    "blur 1": blur(1.0),
}
OWN = ("own caption", "own in full")
"""The caption as training data has it, and with every size, fill and the relation named."""
WRONG = tuple(f"{kind} swapped" for kind in (*SWAPS, *ATTRIBUTES))


@dataclass(frozen=True)
class Rate:
    """``right`` of ``total`` judgements were right: yes to an own caption, no to another."""

    transform: str
    kind: str
    right: int
    total: int

    @property
    def percent(self) -> float:
        """Right judgements in percent; 100 of none."""
        return 100.0 * self.right / self.total if self.total else 100.0


@dataclass(frozen=True)
class Confusion:
    """``count`` objects drawn with ``drawn`` were seen with ``seen`` (or "nothing": not at all)."""

    transform: str
    attribute: str
    drawn: str
    seen: str
    count: int


@dataclass(frozen=True)
class OracleReport:
    """All rates, and every confusion that happened, the commonest first."""

    scenes: int
    objects: int
    rates: tuple[Rate, ...]
    confusions: tuple[Confusion, ...]

    def overall(self, transform: str, *, wrong: bool) -> Rate:
        """The sum over own captions, or over wrong ones."""
        kinds, name = (WRONG, "all swapped") if wrong else (OWN, "all own")
        chosen = [rate for rate in self.rates if rate.transform == transform and rate.kind in kinds]
        return Rate(
            transform, name, sum(rate.right for rate in chosen), sum(rate.total for rate in chosen)
        )


def measure_oracle(
    scenes: int = 2000, seed: int = 0, transforms: Mapping[str, Transform] = TRANSFORMS
) -> OracleReport:
    """Asks the oracle about rendered scenes, held-out ones among them, after each transform.

    Args:
        scenes: how many, of one to three objects.
        seed: of the first scene; scene i is ``sample_scene(seed + i, held_out=True)``.
        transforms: by name, what happens to each image before it is looked at.

    **Cost**: one look of about 2 ms per scene and transform, and the transform.

    Example:
        >>> report = measure_oracle(20, transforms={"clean": unchanged})
        >>> report.overall("clean", wrong=False).percent
        100.0
    """
    tally = _Tally()
    for number in range(seed, seed + scenes):
        scene = sample_scene(number, held_out=True)
        image = render(scene)
        questions = _questions(scene, Random(f"oracle {number}"))
        for name, transform in transforms.items():
            tally.add(name, scene, questions, detect_objects(transform(image)))
    return tally.report(scenes)


def _questions(scene: Scene, rng: Random) -> list[tuple[str, SceneSpec]]:
    """Own captions and wrong ones by kind, each written out and parsed again."""
    full = spec_of(scene, rng, detail=1.0, relation=1.0)
    asked: list[tuple[str, SceneSpec | None]] = [("own caption", spec_of(scene, rng))]
    asked += [("own in full", full)]
    asked += [(f"{kind} swapped", swap(full, kind)) for kind in SWAPS]
    asked += [(f"{kind} swapped", replace_attribute(full, kind, rng)) for kind in ATTRIBUTES]
    return [(kind, parse_caption(write_caption(spec, rng))) for kind, spec in asked if spec]


class _Tally:
    def __init__(self) -> None:
        self.right: Counter[tuple[str, str]] = Counter()
        self.total: Counter[tuple[str, str]] = Counter()
        self.confused: Counter[tuple[str, str, str, str]] = Counter()
        self.objects = 0

    def add(
        self,
        transform: str,
        scene: Scene,
        questions: Sequence[tuple[str, SceneSpec]],
        detected: Sequence[DetectedObject],
    ) -> None:
        for kind, spec in questions:
            self.total[transform, kind] += 1
            self.right[transform, kind] += verdict_on(detected, spec).ok == (kind in OWN)
        for item in scene.objects:
            self.objects += 1
            for attribute, drawn, got in _compare(item, detected):
                self.confused[transform, attribute, drawn, got] += drawn != got

    def report(self, scenes: int) -> OracleReport:
        rates = (Rate(*key, self.right[key], total) for key, total in self.total.items())
        found = (Confusion(*key, count) for key, count in self.confused.most_common() if count)
        return OracleReport(scenes, self.objects, tuple(rates), tuple(found))


def _compare(item: SceneObject, detected: Sequence[DetectedObject]) -> list[tuple[str, str, str]]:
    """(attribute, drawn, seen) of one object and the thing nearest to its centre."""
    near = [thing for thing in detected if _distance(item, thing) < item.radius]
    thing = min(near, key=lambda thing: _distance(item, thing), default=None)
    return [
        (attribute, getattr(item, attribute), str(getattr(thing, attribute, "nothing")))
        for attribute in ATTRIBUTES
    ]


def _distance(item: SceneObject, thing: DetectedObject) -> float:
    return ((item.x - thing.x) ** 2 + (item.y - thing.y) ** 2) ** 0.5


# --- printing -------------------------------------------------------------------------------------


def format_report(report: OracleReport) -> str:
    """The report as tables for a terminal: rates by kind and transform, then the confusions."""
    names = list(dict.fromkeys(rate.transform for rate in report.rates))
    rates = {(rate.transform, rate.kind): rate for rate in report.rates}
    for name in names:
        for wrong in (False, True):
            overall = report.overall(name, wrong=wrong)
            rates[name, overall.kind] = overall
    kinds = ["own caption", "own in full", "all own", *WRONG, "all swapped"]
    lines = [f"right judgements in percent (and wrong ones of all), {report.scenes} scenes"]
    lines += [" " * 18 + "".join(f"{name:>22}" for name in names)]
    for kind in kinds:
        cells = (_cell(rates[name, kind]) for name in names if (name, kind) in rates)
        lines.append(f"{kind:18}" + "".join(f"{cell:>22}" for cell in cells))
    lines += ["", f"attributes seen wrongly, of {report.objects // max(len(names), 1)} objects"]
    for name in names:
        for attribute in ATTRIBUTES:
            found = [
                c for c in report.confusions if (c.transform, c.attribute) == (name, attribute)
            ]
            detail = ", ".join(f"{c.drawn} as {c.seen} {c.count}" for c in found)
            lines.append(
                f"{name:12}{attribute:8}{sum(c.count for c in found):6}  {detail}".rstrip()
            )
    return "\n".join(lines)


def _cell(rate: Rate) -> str:
    return f"{rate.percent:.2f} ({rate.total - rate.right}/{rate.total})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description="How right the scene oracle is.")
    parser.add_argument("--scenes", type=int, default=2000, help="how many scenes to look at")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")
    parser.add_argument("--pipeline", help="also after a round trip through this one's autoencoder")
    options = parser.parse_args(arguments)
    transforms = dict(TRANSFORMS)
    if options.pipeline:
        from clipguide.attach.loading import load_pipeline

        transforms["autoencoder"] = autoencoder(load_pipeline(options.pipeline).vae)
    report = measure_oracle(options.scenes, options.seed, transforms)
    sys.stdout.write(format_report(report) + "\n")


if __name__ == "__main__":
    main()
