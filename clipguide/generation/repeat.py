"""Make a picture again from its own metadata, and count the pixels that differ."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipguide.clip.settings_hash import same_settings
from clipguide.generation.models import load_models
from clipguide.generation.record import Recipe, read_recipe, versions
from clipguide.generation.sampling import ImageGenerator
from clipguide.images import load_image, pixel_hash
from clipguide.report.metadata import MetadataError, read_metadata


@dataclass(frozen=True)
class Repetition:
    """How a picture made again compares with the file.

    Attributes:
        image: the picture as made now.
        largest_difference: of any channel of any pixel, 0 to 255; 0 is the same picture.
        differing_pixels: how many pixels are not the same.
        changed_versions: package -> (then, now); a reason why pictures may differ.
        edited: whether the file's pixels are no longer those that were written.
    """

    image: Image.Image
    largest_difference: int
    differing_pixels: int
    changed_versions: Mapping[str, tuple[str, str]]
    edited: bool


ALWAYS = {"pipeline": "weights", "init": "pixels", "mask": "pixels"}
"""Roles of what unguided pictures are made of too -> what is compared."""


class ModelMismatch(ValueError):
    """The models at hand are not those that made the picture."""


def reproduce(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> Repetition:
    """Runs the batch that made the picture at `path` again, with the same number of threads.

    Args:
        path: a PNG written by `clipguide generate`, with its metadata.
        overrides: settings to change, for models that have moved: `model`, `scorer`, `decoder`,
            `device`.

    Cost: one run of the batch (of the whole search, if it came from one).
    Raises: MetadataError without a readable record; ModelMismatch before anything is run when a
    model's weights are not the recorded ones; ImageError for damaged pixels.
    """
    record = read_metadata(path).record
    if record is None:
        raise MetadataError(
            f"{os.fspath(path)}: no clipguide record (by another program, or with --no-metadata)"
        )
    try:
        recipe = read_recipe(record)
    except ValueError as error:
        raise MetadataError(f"{os.fspath(path)}: {error}") from error
    original = load_image(path)
    image = _run_again(replace(recipe, settings=replace(recipe.settings, **(overrides or {}))))
    return _compare(original, image, recipe)


def _run_again(recipe: Recipe) -> Image.Image:
    # the judge only looks at finished pictures
    settings = replace(recipe.settings, judge=None)
    models = load_models(settings)
    here = models.identities(settings)
    guided = recipe.batch.role == "guided"
    needed = [role for role in here if role in ALWAYS or guided]
    for role in needed:
        then, now = recipe.hashes.get(role), here[role]["sha256"]
        if then != now:
            what = ALWAYS.get(role, "weights")
            raise ModelMismatch(
                f"the {role} {here[role]['name']!r} has other {what} than the one that made the "
                f"picture: sha256 {now[:12]} here, {str(then)[:12]} recorded"
            )
    if guided and not same_settings(recipe.scorer_settings, models.scorer.settings_hash):
        raise ModelMismatch(
            f"the scorer {settings.scorer!r} has another configuration or tokenizer than the one "
            f"that made the picture: sha256 {models.scorer.settings_hash[:12]} here, "
            f"{recipe.scorer_settings[:12]} recorded"
        )
    models.pipe.set_progress_bar_config(desc="sampling", leave=False)
    with _threads(recipe.threads):
        samples = ImageGenerator(models, settings).sample_batch(recipe.batch)
    return samples[recipe.index].image


def _compare(original: Image.Image, image: Image.Image, recipe: Recipe) -> Repetition:
    if original.size != image.size:
        raise MetadataError(f"the file is {original.size} pixels, made again it is {image.size}")
    before, after = (np.asarray(i.convert("RGB"), dtype=np.int16) for i in (original, image))
    difference = np.abs(before - after)  # (H, W, 3)
    now = versions()
    changed = {
        name: (then, now.get(name, "absent"))
        for name, then in recipe.versions.items()
        if then != now.get(name)
    }
    return Repetition(
        image=image,
        largest_difference=int(difference.max()),
        differing_pixels=int(difference.any(axis=-1).sum()),
        changed_versions=changed,
        edited=pixel_hash(original) != recipe.pixels,
    )


@contextmanager
def _threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
