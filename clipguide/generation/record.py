"""What is written into a picture: enough to make it again, and to know by what it was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, cast

import torch

import clipguide
from clipguide.attach.samplers import sampler_label
from clipguide.generation.models import Models
from clipguide.generation.sampling import Batch, GeneratedImage, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.images import pixel_hash
from clipguide.report.metadata import Parameters
from clipguide.texts import printable

SCHEMA = 1
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "pillow")


@dataclass(frozen=True)
class Recipe:
    """The part of a record from which the picture is made again."""

    settings: Settings
    batch: Batch
    index: int
    hashes: Mapping[str, str]  # role of a model -> sha256 of its weights
    scorer_settings: str  # sha256; empty in a record of before there was one
    versions: Mapping[str, str]
    threads: int
    pixels: str


def record_of(models: Models, settings: Settings, made: GeneratedImage) -> dict[str, Any]:
    """The JSON object of the `clipguide` chunk, and of the picture's line of results.jsonl.

    It does not say how long it took, so that the same picture is the same file whoever makes it.
    """
    return {
        "schema": SCHEMA,
        "ai_generated": True,
        "prompt": made.prompt,
        "negative": settings.negative,
        "seed": made.seed,
        "role": made.batch.role,
        "scores": [vars(score) for score in made.scores],
        "models": models.identities(settings),
        "sampler": type(models.pipe.scheduler).__name__,
        "settings": settings.to_json(),
        "batch": {
            "prompts": [request.prompt for request in made.batch.requests],
            "seeds": [request.seed for request in made.batch.requests],
            "keep": made.batch.keep,
            "index": made.index,
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),  # the order of sums depends on it
        "pixels_sha256": pixel_hash(made.image),
    }


def sheet_record(files: Sequence[str]) -> dict[str, Any]:
    """The same for a picture made of others: which ones."""
    return {"schema": SCHEMA, "ai_generated": True, "pictures": list(files)}


def parameters_of(models: Models, settings: Settings, made: GeneratedImage) -> Parameters:
    """The same in the words of AUTOMATIC1111's web UI."""
    guidance = settings.guidance
    fields = {
        "Steps": "" if settings.steps is None else str(settings.steps),
        "Sampler": sampler_label(models.pipe),
        "CFG scale": "" if settings.cfg_scale is None else f"{settings.cfg_scale:g}",
        "Seed": str(made.seed),
        "Size": f"{made.image.width}x{made.image.height}",
        "Model hash": models.pipe_hash[:10],
        "Model": settings.model,
    }
    if made.batch.role == "guided":
        fields["CLIP reward"] = settings.reward
        if guidance.strength > 0:
            fields["CLIP guidance strength"] = f"{guidance.strength:g}"
            fields["CLIP guidance mode"] = guidance.mode
        if settings.search is not None:
            fields["CLIP search"] = f"{settings.search} of {settings.budget}"
            fields["CLIP preview reward"] = settings.preview or ""
            fields["CLIP final reward"] = settings.final or ""
    fields |= {f"CLIP score {s.scorer}": f"{s.value:.4f}" for s in made.scores}
    fields = {name: value for name, value in fields.items() if value}
    fields["Version"] = f"clipguide {clipguide.__version__}"
    return Parameters(made.prompt, settings.negative, fields)


OLD_PRUNING = (0.25, 0.25)
"""Of records without a setting for it."""


def read_recipe(record: Mapping[str, Any]) -> Recipe:
    """Takes a record apart. ValueError: another schema, or something missing or of a wrong type."""
    if record.get("schema") != SCHEMA:
        raise ValueError(f"got a record of schema {record.get('schema')}, expected {SCHEMA}")
    if "pictures" in record:
        files = ", ".join(map(str, record["pictures"]))
        raise ValueError(f"got a sheet of several pictures, expected one of them: {files}")
    if "made_in" in record:
        raise ValueError(
            f"got a picture made in {printable(str(record['made_in']))}, expected one of clipguide "
            "generate: the program that made it opens it again"
        )
    try:
        batch: dict[str, Any] = record["batch"]
        role = record["role"]
        requests = zip(batch["prompts"], batch["seeds"], strict=True)
        recipe = Recipe(
            settings=Settings.from_json(_in_present_names(record["settings"])),
            batch=Batch(
                tuple(ImageRequest(str(prompt), int(seed)) for prompt, seed in requests),
                cast("Literal['guided', 'unguided']", role),
                int(batch["keep"]),
            ),
            index=int(batch["index"]),
            hashes={role: str(model["sha256"]) for role, model in record["models"].items()},
            scorer_settings=str(record["models"].get("scorer", {}).get("settings_sha256", "")),
            versions=dict(record["versions"]),
            threads=int(record["threads"]),
            pixels=str(record["pixels_sha256"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"got a damaged record ({error!r}), expected a whole one") from error
    searched = role == "guided" and recipe.settings.search is not None
    pictures = len(recipe.batch.requests) * (recipe.batch.keep if searched else 1)
    if role not in ("guided", "unguided") or not 1 <= recipe.threads <= 1024:
        raise ValueError("got a damaged record, expected a whole one")
    if not (recipe.batch.requests and 0 <= recipe.index < pictures):
        raise ValueError(f"got picture {recipe.index} of a batch of {pictures}, expected one of it")
    return recipe


def _in_present_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an older record: mode tilt once called the width of its reward `damping`, and
    prune looked once for every scorer, after a quarter of the calls."""
    guidance: dict[str, Any] = dict(settings.get("guidance", {}))
    if guidance.get("mode") == "tilt" and guidance.get("damping") is not None:
        guidance["reward_width"] = guidance.pop("damping")
    older = {"pruning": OLD_PRUNING} if settings.get("search") == "prune" else {}
    return {**older, **settings, "guidance": guidance}


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of those that compute the pictures."""
    named = {"python": platform.python_version(), "clipguide": clipguide.__version__}
    named |= {package: version(package) for package in PACKAGES}
    return named | {"torch": str(torch.__version__)}  # with its build: +cpu, +cu128
