"""Masks from a phrase on scenes: intersection over union with the object that it names.

Command: python -m training.captioners.masks [--scenes 50] [--grow 0 2 4 8] [--model starter]
Hardware: one CPU core. Seconds: 30.
Columns:  pixels that the mask is grown by, mean and median intersection over union, objects of
          which at least 98 % lie under the mask; then phrases that are found nowhere, and those
          whose likeliest place is of the object.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from itertools import count, islice
from statistics import fmean, median

import numpy as np
from torch.nn import functional

from clipguide.data.scenes import Scene, render, sample_scene
from clipguide.language.segments import PhraseNotFound, load_segmenter, mask_picture

FIRST_SEED = 5_200_000
SEEN = 24
"""By how much, of 765, a pixel must differ where the object is taken away."""


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--grow", type=int, nargs="+", default=[0, 2, 4, 8])
    parser.add_argument("--model", default="starter", help="what load_segmenter takes")
    given = parser.parse_args()
    warnings.simplefilter("ignore", PhraseNotFound)
    segmenter = load_segmenter(given.model)
    shared = {grow: list[float]() for grow in given.grow}
    covered = dict.fromkeys(given.grow, 0)
    nowhere = inside = 0
    drawn = (sample_scene(FIRST_SEED + place, count=2) for place in count())
    told = (scene for scene in drawn if scene.objects[0].color != scene.objects[1].color)
    for scene in islice(told, given.scenes):
        picture, there = render(scene), place_of(scene)
        item = scene.objects[0]
        mask = segmenter.segment([picture], f"a {item.color} {item.shape}")[0]
        whole = functional.interpolate(mask[None], there.shape, mode="bilinear")[0, 0].numpy()
        nowhere += not mask.any()
        inside += bool(mask.any()) and bool(there.flat[whole.argmax()])
        for grow in given.grow:
            white = np.asarray(mask_picture(mask, picture.size, grow)) == 255
            shared[grow].append(float((white & there).sum() / (white | there).sum()))
            covered[grow] += bool((white & there).sum() >= 0.98 * there.sum())
    for grow, values in shared.items():
        print(f"{grow} {fmean(values):.3f} {median(values):.3f} {covered[grow]}")
    print(f"nowhere {nowhere}, likeliest place inside {inside}, of {given.scenes}")


def place_of(scene: Scene) -> np.ndarray:
    """(H, W) where the first object is: what changes when it is taken away."""
    pair = [np.asarray(render(one)).astype(int) for one in (
        scene, replace(scene, objects=scene.objects[1:]))]  # fmt: skip
    return np.abs(pair[0] - pair[1]).sum(axis=-1) > SEEN


if __name__ == "__main__":
    main()
