"""Make the starter: two CLIPs, an autoencoder, a preview decoder and a latent diffusion model.

Command:  python -m training.starter.train --work WORK --out clipguide/assets/starter
Hardware: two CPU cores, 8 GB of memory. Minutes: about 125 in all; every stage resumes.
Expected: swap accuracy of both CLIPs above 95 % on clean scenes; the table of the model card.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from clipguide.data.scene_captions import vocabulary
from clipguide.data.scenes import Scene, sample_scene
from clipguide.files import atomic_path

from . import assemble, clip, diffusion, doubles, models, previews, towers, vae
from .data import TRAIN_SEED, rendered

SCENES = 24_000
PREVIEWS = 4_000


def main() -> None:
    """Every stage in order; what is already in WORK is not made again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and caches")
    parser.add_argument("--out", type=Path, required=True, help="where the models go")
    given = parser.parse_args()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    scenes = rendered(SCENES, work)
    tokenizer = models.build_tokenizer(vocabulary(), work / "tokenizer")
    encoder = _autoencoder(scenes, work)
    latents = latents_of(encoder, scenes, work)
    encoder = _finished(encoder, latents, scenes, work)
    guiding = _clip("guide", clip.GUIDE, scenes, tokenizer, work)
    unet = _unet(latents * encoder.config["scaling_factor"], guiding, tokenizer, work)
    decoder = _preview_decoder(latents, scenes, work)
    seen = _previews(latents, encoder, decoder, unet, guiding, tokenizer, work)
    guiding = _finish_clip("guide", guiding, scenes, seen, tokenizer, work)
    guiding = _guide_of_doubles(guiding, scenes, seen, (encoder, decoder, unet), tokenizer, work)
    judging = _clip("judge", clip.JUDGE, scenes, tokenizer, work)
    judging = _finish_clip("judge", judging, scenes, seen, tokenizer, work)
    scheduler = models.build_scheduler("v_prediction")
    assemble.save_pipeline(encoder, guiding, tokenizer, unet, scheduler, given.out / "pipeline")
    assemble.save_decoder(decoder, given.out / "preview")
    guiding.config.noise_aware = True  # it has seen previews: a search may trust it early
    assemble.save_clip(guiding, tokenizer, given.out / "clip")
    assemble.save_clip(judging, tokenizer, given.out / "judge")
    for name, model in (("guide", guiding), ("judge", judging)):
        print(f"{name}: swap accuracy on clean scenes {clip.measure_swaps(model, tokenizer)}")
    print("now: python -m training.starter.measure")


def log_of(stage: str) -> Callable[[str], None]:
    """Prints lines with the stage and its seconds."""
    started = time.perf_counter()
    return lambda line: print(
        f"[{stage} {time.perf_counter() - started:6.0f} s] {line}", flush=True
    )


def _autoencoder(scenes: Tensor, work: Path) -> AutoencoderTiny:
    folder = work / "vae_model"
    if not (folder / "config.json").exists():
        vae.train_vae(scenes, work / "vae", log_of("autoencoder")).save_pretrained(folder)
    return AutoencoderTiny.from_pretrained(folder).eval().requires_grad_(False)


def latents_of(encoder: AutoencoderTiny, scenes: Tensor, work: Path) -> Tensor:
    """The unscaled latents of ``scenes``, kept in WORK."""
    path = work / "latents.safetensors"
    if not path.exists():
        latents = vae.encode(encoder, scenes)
        with atomic_path(path) as temporary:
            save_file({"latents": latents}, temporary)
    return load_file(path)["latents"]


def _finished(
    encoder: AutoencoderTiny, latents: Tensor, scenes: Tensor, work: Path
) -> AutoencoderTiny:
    """The autoencoder with its decoder trained on; what it encodes stays the same."""
    folder = work / "vae_final_model"
    if not (folder / "config.json").exists():
        vae.finish_decoder(
            encoder, latents, scenes, work / "vae_final", log_of("decoder")
        ).save_pretrained(folder)
    return AutoencoderTiny.from_pretrained(folder).eval().requires_grad_(False)


def _preview_decoder(latents: Tensor, scenes: Tensor, work: Path) -> AutoencoderTiny:
    folder = work / "preview_model"
    if not (folder / "config.json").exists():
        decoder = vae.train_preview(latents, scenes, work / "preview", log_of("preview decoder"))
        decoder.save_pretrained(folder)
    return AutoencoderTiny.from_pretrained(folder).eval().requires_grad_(False)


def _clip(
    name: str, recipe: clip.ClipRecipe, scenes: Tensor, tokenizer: CLIPTokenizer, work: Path
) -> CLIPModel:  # fmt: skip
    """Text tower, image tower, then both matched."""
    folder = work / f"{name}_match_model"
    if not (folder / "config.json").exists():
        torch.manual_seed(recipe.seed)
        model = models.build_clip(tokenizer, **recipe.shape)
        towers.train_text_tower(model, tokenizer, work / f"{name}_text", log_of(f"{name} text"))
        towers.train_image_tower(model, scenes, work / f"{name}_image", log_of(f"{name} image"))
        clip.match_towers(
            model, scenes, tokenizer, clip.MATCH_SETTINGS, work / f"{name}_match",
            log_of(f"{name} contrast"),
        )  # fmt: skip
        model.save_pretrained(folder)
    return CLIPModel.from_pretrained(folder).eval().requires_grad_(False)


def _unet(
    latents: Tensor, guiding: CLIPModel, tokenizer: CLIPTokenizer, work: Path
) -> UNet2DConditionModel:
    folder = work / "unet_model"
    if not (folder / "config.json").exists():
        diffusion.train_unet(
            latents, assemble.text_encoder_of(guiding), tokenizer,
            models.build_scheduler("v_prediction"), work / "unet", log_of("diffusion"),
        ).save_pretrained(folder)  # fmt: skip
    return UNet2DConditionModel.from_pretrained(folder).eval().requires_grad_(False)


def _previews(
    latents: Tensor, encoder: AutoencoderTiny, decoder: AutoencoderTiny,
    unet: UNet2DConditionModel, guiding: CLIPModel, tokenizer: CLIPTokenizer, work: Path,
) -> Tensor:  # fmt: skip
    path = work / "previews.safetensors"
    if not path.exists():
        shown = [sample_scene(TRAIN_SEED + i) for i in range(PREVIEWS)]
        made = previews_of(
            shown, latents[:PREVIEWS], (encoder, decoder, unet),
            assemble.text_encoder_of(guiding), tokenizer, 51,
        )  # fmt: skip
        with atomic_path(path) as temporary:
            save_file({"previews": made}, temporary)
    return load_file(path)["previews"]


def previews_of(
    scenes: Sequence[Scene], latents: Tensor,
    parts: tuple[AutoencoderTiny, AutoencoderTiny, UNet2DConditionModel],
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int,
) -> Tensor:  # fmt: skip
    """x0 previews from unscaled latents; ``parts``: autoencoder, preview decoder, UNet."""
    encoder, decoder, unet = parts
    scale = float(encoder.config["scaling_factor"])
    return previews.make_previews(
        scenes, latents * scale, unet, decoder, text_encoder, tokenizer,
        models.build_scheduler("v_prediction"), scale, torch.Generator().manual_seed(seed),
    )  # fmt: skip


def _guide_of_doubles(
    guiding: CLIPModel, scenes: Tensor, seen: Tensor,
    parts: tuple[AutoencoderTiny, AutoencoderTiny, UNet2DConditionModel],
    tokenizer: CLIPTokenizer, work: Path,
) -> CLIPModel:  # fmt: skip
    """The guide once more, on pictures with an object too many."""
    folder = work / "guide_doubles_model"
    if not (folder / "config.json").exists():
        drawn = [sample_scene(TRAIN_SEED + i) for i in range(len(seen))]
        wrong = doubles.draw_doubles(drawn)
        seen_wrong = previews_of(
            [drawn[i] for i in wrong[0]], vae.encode(parts[0], wrong[1]), parts,
            assemble.text_encoder_of(guiding), tokenizer, 52,
        )  # fmt: skip
        doubles.tell_doubles(
            guiding, drawn, scenes[: len(seen)], seen, wrong, seen_wrong, tokenizer,
            work / "guide_doubles", log_of("guide doubles"),
        ).save_pretrained(folder)  # fmt: skip
    return CLIPModel.from_pretrained(folder).eval().requires_grad_(False)


def _finish_clip(
    name: str, model: CLIPModel, scenes: Tensor, seen: Tensor, tokenizer: CLIPTokenizer, work: Path
) -> CLIPModel:
    """A CLIP once more, on previews; its text tower stays as it is (the UNet knows the guide's)."""
    folder = work / f"{name}_final_model"
    if not (folder / "config.json").exists():
        model.requires_grad_(True)
        clip.match_towers(
            model, scenes, tokenizer, clip.PREVIEW_SETTINGS, work / f"{name}_final",
            log_of(f"{name} previews"), seen,
        ).save_pretrained(folder)  # fmt: skip
    return CLIPModel.from_pretrained(folder).eval().requires_grad_(False)


if __name__ == "__main__":
    main()
