"""Pictures that were made elsewhere, paired with an experiment's prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clipguide.data.prompt_files import Prompt
from clipguide.generation.experiment import Experiment
from clipguide.generation.experiment_arms import Picture
from clipguide.images import list_images, load_image
from clipguide.report.generated import describe
from clipguide.report.metadata import is_composite


def foreign_pictures(experiment: Experiment, folder: Path) -> list[Picture]:
    """The pictures of a folder in the order of the prompts, `experiment.num` of each.

    A picture belongs to the prompt that its own metadata says; where none says any, the pictures
    sorted by name belong to the prompts in order.

    Raises:
        ValueError: no pictures; more or fewer of a prompt than there should be; metadata in some
            of them only; `ImageError` where a file cannot be read.
    """
    files = pictures_in(folder)
    said = [describe(file).get("prompt") for file in files]
    if any(said) and not all(said):
        silent = files[said.index(None)]
        load_image(silent)  # one that cannot be read says nothing either
        raise ValueError(f"{silent}: says no prompt, expected one as in the others of {folder}")
    texts = [prompt.text for prompt in experiment.prompts]
    if not any(said):
        expected = len(texts) * experiment.num
        if len(files) != expected:
            raise ValueError(f"{folder}: got {len(files)} pictures, expected {expected}")
        return [Picture(n // experiment.num, n % experiment.num, f) for n, f in enumerate(files)]
    return _by_prompt(files, [str(text) for text in said], texts, experiment.num)


def pictures_in(folder: Path) -> list[Path]:
    """Its pictures by name, those made of others left out. ValueError for none."""
    files = [file for file in list_images([folder]) if not is_composite(file)]
    if not files:
        raise ValueError(f"{folder}: got no pictures, expected some")
    return files


def _by_prompt(
    files: Sequence[Path], said: Sequence[str], texts: Sequence[str], num: int
) -> list[Picture]:
    waiting: dict[str, list[Path]] = {}
    for file, text in zip(files, said, strict=True):
        waiting.setdefault(text, []).append(file)
    found: list[Picture] = []
    for place, text in enumerate(texts):
        own = waiting.get(text, [])
        if len(own) < num:
            raise ValueError(f"got {len(own)} pictures of {text!r}, expected {num}")
        found += [Picture(place, seed, file) for seed, file in enumerate(own[:num])]
        waiting[text] = own[num:]
    left = [file for own in waiting.values() for file in own]
    if left:
        raise ValueError(
            f"{left[0]}: is of no prompt of the experiment, or one too many of its own"
        )
    return found


def prompts_said(folder: Path) -> tuple[list[Prompt], int]:
    """The different prompts that a folder's pictures say, in the order of their names, and how many
    pictures there are of each.

    Raises:
        ValueError: a picture says none, or cannot be read; more pictures of one prompt than of
            another.
    """
    counts: Counter[str] = Counter()
    for file in pictures_in(folder):
        text = describe(file).get("prompt")
        if not isinstance(text, str):
            load_image(file)
            raise ValueError(f"{file}: says no prompt, expected --prompts FILE with one for each")
        counts[text] += 1
    (most, num), (least, few) = counts.most_common(1)[0], counts.most_common()[-1]
    if num != few:
        got = f"{num} pictures of {most!r} and {few} of {least!r}"
        raise ValueError(f"{folder}: got {got}, expected as many of each")
    return [Prompt(text) for text in counts], num
