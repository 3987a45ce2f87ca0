"""Stage 7: the guide's latent tower, which reads noisy latents instead of previews.

Command:  python -m training.starter.latent --work WORK --out clipguide/assets/starter/latent
Hardware: one CPU core with bfloat16, 4 GB of memory. Minutes: 4 of encoding, 37 of training.
          Resumes.
Expected: the caption beats both its swaps in 100 / 100 / 100 / 99 / 70 % of unseen two-object
          scenes, by fifths of the noise angle (chance 33 %).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from clipguide.attach.starter import load_starter
from clipguide.clip.latent_clip import LatentClip, LatentClipConfig
from clipguide.clip.latent_files import save_latent_clip
from clipguide.clip.latent_space import hashes_of
from clipguide.clip.latent_vit import LatentVit, LatentVitShape
from clipguide.clip.loading import load_scorer
from clipguide.clip.noise_level import NoiseScale, sigma_of_angle
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import SceneSpec, spec_of, swap, write_caption
from clipguide.data.scenes import Scene, pick, render_array, sample_scene
from clipguide.files import atomic_path
from clipguide.training.loop import LoopSettings, train

from .data import TRAIN_SEED, replaced
from .doubles import doubled
from .train import log_of

SCENES, DOUBLES, TESTS = 20_000, 6_000, 400
CAPTIONS = 4
"""Descriptions of each scene, each with three that are wrong."""
BATCH, WRONG = 128, 24
"""Scenes of a step; the first WRONG of them are also shown with an object too many."""
SETTINGS = LoopSettings(
    steps=5500, learning_rate=1e-3, warmup=250, weight_decay=0.05, ema_decay=0.998, seed=71,
    log_every=100,
)  # fmt: skip
UNSEEN_SEED = 900_000
GUIDANCE: dict[str, Any] = {"strength": 32.0, "normalize": "raw", "window": [0.6, 1.0]}
"""The best strength of 20, 32 and 50 on 150 prompts that are none of the fixed ones; the steps
below half of the noise gained nothing, those from there to .6 a point for a tenth of the cost
(figures in the starter's model card)."""
ALTERNATIVES = ("swaps", "doubles")
"""With an object named twice among them, 69 of 100 pictures are right where 64 were without."""


def main() -> None:
    """Encode once, train, save; what is already in WORK is not made again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and caches")
    parser.add_argument("--out", type=Path, required=True, help="where the model goes")
    given = parser.parse_args()
    pipe: Any = load_starter()
    teacher = load_scorer("starter")
    rows = kept(given.work / "latent_scenes.safetensors", lambda: encoded(pipe.vae, teacher))
    texts = kept(given.work / "latent_captions.safetensors", lambda: described(teacher))
    tower, scale = train_tower({**rows, **texts}, given.work / "latent", log_of("latent"))
    found = measured(tower, scale, {**rows, **texts})
    hashes = {"name": "starter", **hashes_of(pipe.vae)}
    made = {
        "data": f"{SCENES:,} scenes, {DOUBLES:,} of them once more with an object too many",
        "steps": f"{SETTINGS.steps:,} of {BATCH} scenes, by training/starter/latent.py",
        "noise": "half of the levels uniform in the noise angle, half around 0.8 of it",
    }
    config = LatentClipConfig(
        "starter", teacher.content_hash, hashes, GUIDANCE, made, found, teacher.settings_hash,
        ALTERNATIVES,
    )  # fmt: skip
    model = LatentClip("starter:latent", tower, scale, teacher, config)
    save_latent_clip(model, given.out, torch.float16)
    print(found)


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of a file, made when it is not there."""
    if not path.exists():
        tensors = {name: value.contiguous() for name, value in make().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    return load_file(path)


# --- data ----------------------------------------------------------------------------------------


def encoded(vae: Any, teacher: Scorer) -> dict[str, Tensor]:
    """Scaled latents and the teacher's embeddings of training, doubled and unseen scenes."""
    scenes = [sample_scene(TRAIN_SEED + i) for i in range(SCENES)]
    wrong = [(i, doubled(scene, Random(f"extra {i}"))) for i, scene in enumerate(scenes)]
    pairs = [(i, scene) for i, scene in wrong if scene is not None][:DOUBLES]
    unseen = [sample_scene(UNSEEN_SEED + i, count=2) for i in range(TESTS)]
    latents, seen = _read(scenes, vae, teacher)
    test_latents, test_seen = _read(unseen, vae, teacher)
    return {
        "latents": latents,
        "seen": seen,
        "doubles": _read([scene for _, scene in pairs], vae, teacher)[0],
        "doubles_of": torch.tensor([i for i, _ in pairs]),
        "test_latents": test_latents,
        "test_seen": test_seen,
    }


@torch.no_grad()
def _read(scenes: Sequence[Scene], vae: Any, teacher: Scorer) -> tuple[Tensor, Tensor]:
    """(N, 4, 16, 16) and (N, D); bfloat16 on channels-last pictures takes a third of the time."""
    factor = float(vae.config.scaling_factor)
    vae = vae.to(memory_format=torch.channels_last)
    latents, seen = list[Tensor](), list[Tensor]()
    for start in range(0, len(scenes), 64):
        pictures = np.stack([render_array(scene) for scene in scenes[start : start + 64]])
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            shown = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
            latents.append(vae.encode(shown).latents.float().contiguous() * factor)
            seen.append(teacher.encode_image(images.contiguous(), match="smooth").float())
    return torch.cat(latents), torch.cat(seen)


def described(teacher: Scorer) -> dict[str, Tensor]:
    """Embeddings of captions (SCENES, CAPTIONS, 4, D), the true one first; and of unseen scenes'
    captions with their two swaps (TESTS, 3, D)."""
    texts: list[str] = []
    for i in range(SCENES):
        scene = sample_scene(TRAIN_SEED + i)
        for k in range(CAPTIONS):
            rng = Random(f"captions {i} {k}")
            texts += [write_caption(spec, rng) for spec in with_three_negatives(scene, rng)]
    rng = Random(5)
    asked: list[str] = []
    for i in range(TESTS):
        spec = spec_of(sample_scene(UNSEEN_SEED + i, count=2), rng, relation=1.0)
        wrong = (swap(spec, kind) or spec for kind in ("relation", "binding"))
        asked += [write_caption(one, Random(f"t{i}")) for one in (spec, *wrong)]
    return {
        "captions": _embedded(texts, teacher).half().view(SCENES, CAPTIONS, 4, -1),
        "test_captions": _embedded(asked, teacher).view(TESTS, 3, -1),
    }


def with_three_negatives(scene: Scene, rng: Random) -> list[SceneSpec]:
    """A description, then three wrong ones: turned round, colours exchanged, a word replaced."""
    spec = spec_of(scene, rng)
    order = swap(spec, pick(rng, ("relation", "order"))) or replaced(spec, rng)
    binding = swap(spec, "binding") or replaced(spec, rng)
    return [spec, order, binding, replaced(spec, rng)]


@torch.no_grad()
def _embedded(texts: Sequence[str], teacher: Scorer) -> Tensor:
    """(N, D), texts of like length together."""
    found = torch.empty(len(texts), teacher.embed_dim)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), 512):
        places = order[start : start + 512]
        found[places] = teacher.model.encode_text([texts[place] for place in places])
    return found


# --- training ------------------------------------------------------------------------------------


def draw_levels(count: int, generator: torch.Generator) -> Tensor:
    """(count,) sigma_bar: half uniform in the noise angle, half around where layout is decided."""
    even = torch.rand(count, generator=generator)
    middle = torch.sigmoid(1.5 + torch.randn(count, generator=generator))
    angle = torch.where(torch.arange(count) % 2 == 0, even, middle)
    return sigma_of_angle(angle)[torch.randperm(count, generator=generator)]


def noisy(latents: Tensor, sigma_bar: Tensor, noise: Tensor) -> Tensor:
    """The normal form α·x0 + σ·ε with α² + σ² = 1."""
    level = sigma_bar.view(-1, 1, 1, 1)
    return (1 - level**2).clamp(min=0).sqrt() * latents + level * noise


def encode(tower: LatentVit, latents: Tensor, sigma_bar: Tensor) -> Tensor:
    """(B, D) unit vectors, computed in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        features = tower(latents, sigma_bar)
    return functional.normalize(features.float(), dim=-1)


def train_tower(
    rows: Mapping[str, Tensor], folder: Path, log: Callable[[str], None],
    settings: LoopSettings = SETTINGS,
) -> tuple[LatentVit, NoiseScale]:  # fmt: skip
    """The averaged tower and factor on cosines; `rows` are of `encoded` and `described`."""
    torch.manual_seed(settings.seed)
    tower, scale = LatentVit(LatentVitShape()), NoiseScale()

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = torch.randint(len(rows["doubles"]), (WRONG,), generator=generator)
        others = torch.randint(len(rows["latents"]), (BATCH - WRONG,), generator=generator)
        chosen = torch.cat([rows["doubles_of"][drawn], others])
        which = torch.randint(CAPTIONS, (BATCH,), generator=generator)
        texts = rows["captions"][chosen, which].float()  # (B, 4, D)
        level = draw_levels(BATCH, generator)
        noise = torch.randn((BATCH, *rows["latents"].shape[1:]), generator=generator)
        x = torch.cat([
            noisy(rows["latents"][chosen], level, noise),
            noisy(rows["doubles"][drawn], level[:WRONG], noise[:WRONG]),
        ])  # fmt: skip
        found = encode(tower, x, torch.cat([level, level[:WRONG]]))
        return losses(found, texts, scale(level), rows["seen"][chosen])

    average = train({"tower": tower, "scale": scale}, step, settings, folder, log)
    for name, module in (("tower", tower), ("scale", scale)):
        own = {key: average[f"{name}.{key}"] for key in module.state_dict()}
        module.load_state_dict(own)
    return tower, scale


def losses(found: Tensor, texts: Tensor, scale: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Of a step, all from the same unit vectors.

    Args:
        found: (BATCH + WRONG, D), the pictures with an object too many last, each at the noise and
            the level of the right one.
        texts: (BATCH, 4, D), the true caption first.
        scale: (BATCH,) factors on cosines.
        seen: (BATCH, D) the teacher's embedding of the clean picture.
    """
    right, wrong = found[:BATCH], found[BATCH:]
    own, place = texts[:, 0], torch.arange(BATCH)
    candidates = torch.cat([own, texts[:, 1:].flatten(0, 1)])
    to_text = scale[:, None] * (right @ candidates.T)
    to_picture = torch.cat([scale, scale[:WRONG]]) * (own @ found.T)
    contrast = functional.cross_entropy(to_text, place)
    contrast = (contrast + functional.cross_entropy(to_picture, place)) / 2
    among = scale[:, None] * torch.einsum("bd,bkd->bk", right, texts)
    swaps = functional.cross_entropy(among, torch.zeros_like(place))
    gap = scale[:WRONG] * ((right[:WRONG] - wrong) * own[:WRONG]).sum(dim=-1)
    doubles = functional.softplus(-gap).mean()
    distilled = (1 - (right * seen).sum(dim=-1)).mean()
    parts = {"contrast": contrast, "swaps": swaps, "doubles": doubles, "distilled": distilled}
    return {"loss": contrast + swaps + 0.5 * doubles + distilled, **parts}


@torch.no_grad()
def measured(tower: LatentVit, scale: NoiseScale, rows: Mapping[str, Tensor]) -> dict[str, float]:
    """Percent of unseen scenes, by fifths of the noise angle: the caption beats both its swaps, and
    its picture is among the ten nearest of all (text to image)."""
    latents, texts = rows["test_latents"], rows["test_captions"]
    swapped = (texts[:, 0] - texts[:, 2]).abs().amax(-1) > 1e-3  # colours that differ
    found: dict[str, float] = {}
    for fifth in range(5):
        generator = torch.Generator().manual_seed(fifth)
        level = sigma_of_angle((fifth + torch.rand(len(latents), generator=generator)) / 5)
        x = noisy(latents, level, torch.randn(latents.shape, generator=generator))
        vectors = encode(tower, x, level)
        among = torch.einsum("bd,bkd->bk", vectors, texts)
        best = (among[:, :1] > among[:, 1:]).all(dim=1)[swapped].float().mean()
        ranks = (texts[:, 0] @ vectors.T).topk(min(10, len(x)), dim=1).indices
        near = (ranks == torch.arange(len(x))[:, None]).any(dim=1).float().mean()
        name = f"noise angle {18 * fifth} to {18 * fifth + 18} degrees"
        found[f"caption above its swaps, {name}"] = round(100 * float(best), 1)
        found[f"R@10, {name}"] = round(100 * float(near), 1)
        found[f"factor on cosines, {name}"] = round(float(scale(level).mean()), 2)
    return found


if __name__ == "__main__":
    main()
