"""Damage a model's folder in every way there is, and load it: the same scores, a named error, or
another model that says so.

By hand: `python tests/model_mutations.py 1000` (some minutes); the suite runs a few of them. The
truth are the scores before the folder was touched. A folder has no checksums, so a weight that
was changed to another finite number is another model: `Scorer.content_hash`, which indexes, caches
and records keep, says so ("other weights"). So does `Scorer.settings_hash` of a setting or a
tokenizer changed to another valid one ("other settings"). Other scores under the same two hashes
are a silent wrong answer.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_backbones import tiny_image, tiny_text
from tiny_backbones import tiny_tokenizer as backbone_tokenizer
from tiny_clip import tiny_clip_dir, tiny_tokenizer

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import BUNDLED, load_scorer
from clipguide.clip.preprocess import Preprocess

Mutation = Callable[[Path, random.Random], str]
SECONDS = 30
"""A load and a score of a tiny model that take longer hang."""
PROMPTS = ["a dog", "x"]
OTHERS: tuple[object, ...] = (
    0, 1, -1, 3, 10**6, 10**9, 10**30, 0.5, None, "", "gelu", [], {}, True, "/tmp", [1, 2],
)  # fmt: skip


def dual_encoder(folder: Path) -> None:
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(32, 32), crop=(32, 32), mean=half, std=half)
    config = DualEncoderConfig(preprocess, embed_dim=8)
    DualEncoder(tiny_text(), tiny_image(), backbone_tokenizer(), config).save_pretrained(folder)


def of_open_clip(folder: Path) -> None:
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {
            "context_length": 12, "vocab_size": 514, "width": 32, "heads": 2, "layers": 1,
            "hf_tokenizer_name": "here",
        },
    }  # fmt: skip
    tiny_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": config, "preprocess_cfg": {"size": 32, "mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))


def of_latents(folder: Path) -> None:
    for file in BUNDLED["starter:latent"].iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    settings = json.loads((folder / "latent_clip.json").read_text())
    settings["teacher"] = "starter"
    (folder / "latent_clip.json").write_text(json.dumps(settings))


KINDS: dict[str, Callable[[Path], object]] = {
    "transformers": tiny_clip_dir,
    "open_clip": of_open_clip,
    "dual": dual_encoder,
    "latent": of_latents,
}


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def flip(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files(folder))
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice((1, 1, 8))):
        data[draw.randrange(min(len(data), draw.choice((300, 10**9))))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return file.name


def truncate(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files(folder))
    data = file.read_bytes()
    file.write_bytes(data[: draw.choice((0, len(data) // 2, max(0, len(data) - 1)))])
    return file.name


def delete(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files(folder))
    file.unlink()
    return file.name


def rename(folder: Path, draw: random.Random) -> str:
    file = draw.choice(files(folder))
    file.rename(file.with_name(f"old-{file.name}"))
    return file.name


def exchange(folder: Path, draw: random.Random) -> str:
    one, two = draw.sample(files(folder), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"{one.name} and {two.name}"


def field(folder: Path, draw: random.Random) -> str:
    """A setting at any depth changed to another value, of its type or not, or gone."""
    file = draw.choice([one for one in files(folder) if one.suffix == ".json"])
    value = place = json.loads(file.read_text())
    while True:
        name = draw.choice(sorted(place))
        inner = place[name]
        if not (isinstance(inner, dict) and inner) or draw.random() < 0.1:
            break
        place = inner
    if draw.random() < 0.2:
        del place[name]
    else:
        place[name] = draw.choice([one for one in OTHERS if one != place[name]])
    file.write_text(json.dumps(value))
    return f"{file.name}: {name} {json.dumps(place.get(name, 'gone'))[:20]}"


def weight(folder: Path, draw: random.Random) -> str:
    """A weight that is NaN or infinite, of another shape or type, gone, or too many."""
    file = draw.choice([one for one in files(folder) if one.suffix == ".safetensors"])
    weights = load_file(file)
    name = draw.choice(sorted(weights))
    kind = draw.choice(("nan", "inf", "shape", "type", "gone", "more"))
    value = weights[name]
    if kind in ("nan", "inf") and value.is_floating_point() and value.numel():
        value.view(-1)[draw.randrange(value.numel())] = float(kind)
    elif kind == "shape":
        weights[name] = torch.cat([value.reshape(-1)] * 2)
    elif kind == "type":
        weights[name] = value.to(torch.int64)
    elif kind == "gone":
        del weights[name]
    else:
        weights["another.weight"] = torch.zeros(3)
    save_file(weights, file, metadata={"format": "pt"})
    return f"{name} {kind}"


def tokenizer(folder: Path, draw: random.Random) -> str:
    """The tokenizer of another model in the place of this one's."""
    places = [one.parent for one in files(folder) if one.name == "tokenizer.json"]
    if not places:
        return flip(folder, draw)
    other = draw.choice((tiny_tokenizer(16), backbone_tokenizer()))
    other.save_pretrained(places[0])
    return type(other).__name__


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, truncate, delete, rename, exchange, field, field, field, field, weight, tokenizer,
)  # fmt: skip


Answer = tuple[list[float], str, str]


def answer(folder: Path) -> Answer:
    """Scores, and the hashes that name the weights and the settings."""
    scorer = load_scorer(folder)
    texts = scorer.encode_text(PROMPTS)
    if isinstance(scorer, LatentScorer):
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn((2, 4, 16, 16), generator=generator)
        vectors = scorer.encode_latents(latents, 0.5)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
        vectors = scorer.encode_image([Image.fromarray(one) for one in noise])
    return (vectors @ texts.T).flatten().tolist(), scorer.content_hash, scorer.settings_hash


def hang(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError("hangs")


def outcome(folder: Path, truth: Answer) -> str:
    """What a user gets: "right", "refused", "other ..." or what must not be."""
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        scores, content, settings = answer(folder)
    except (ValueError, OSError) as error:
        if "hangs" in str(error):
            return "HANGS"
        return "refused" if "\n" not in str(error) and str(error) else f"LINES {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
    if not np.isfinite(scores).all():
        return f"SCORES {scores}"
    if np.allclose(scores, truth[0], atol=1e-6, rtol=0):
        return "right"
    if content != truth[1]:
        return "other weights"
    return "other settings" if settings != truth[2] else "SILENT"


GOOD = ("right", "refused", "other weights", "other settings")


def run(count: int, folder: Path, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """`count` mutations, each of a fresh copy: (kind of model, mutation, outcome) -> how many."""
    draw = random.Random(seed)
    truths: dict[str, Answer] = {}
    for kind, make in KINDS.items():
        (folder / kind).mkdir()
        make(folder / kind)
        truths[kind] = answer(folder / kind)
    told: Counter[tuple[str, str, str]] = Counter()
    copy = folder / "copy"
    for number in range(count):
        kind = [*KINDS][number % len(KINDS)]
        shutil.copytree(folder / kind, copy)
        mutation = draw.choice(MUTATIONS)
        name = mutation(copy, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = outcome(copy, truths[kind])
        if result not in GOOD or "-v" in sys.argv:
            result = f"{result} ({name})"
        told[kind, mutation.__name__, result] += 1
        shutil.rmtree(copy)
    return told


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as place:
        table = run(int(sys.argv[1]), Path(place), seed)
    for (kind, mutation, result), number in sorted(table.items()):
        sys.stdout.write(f"{number:5} {kind:12} {mutation:10} {result}\n")
    bad = sum(number for (_, _, result), number in table.items() if not result.startswith(GOOD))
    sys.stdout.write(f"{sum(table.values())} mutations, {bad} wrong, undocumented or hanging\n")
    sys.exit(bad > 0)
