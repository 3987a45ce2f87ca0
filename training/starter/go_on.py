"""Train the bundled diffusion model on: the same autoencoder and text tower, more steps.

Command:  python -m training.starter.go_on --work WORK --steps 6000 [--prediction epsilon]
Hardware: two CPU cores, 8 GB of memory; about a second a step on one core. Resumes.
Expected: WORK/unet_model, the averaged weights; measure them with
          python -m training.starter.measure --unet WORK/unet_model --prompts 300
          with --prediction as here, when it learned to predict something else.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipguide.attach.starter import load_starter

from . import diffusion, models
from .data import rendered
from .train import SCENES, latents_of, log_of


def main() -> None:
    """One schedule of its own, from the bundled weights on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and caches")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=6e-4, help="highest learning rate")
    parser.add_argument("--prediction", choices=models.PREDICTIONS, default="v_prediction")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pipe: Any = load_starter()
    latents = latents_of(pipe.vae, rendered(SCENES, given.work), given.work)
    settings = replace(diffusion.SETTINGS, steps=given.steps, learning_rate=given.rate, seed=131)
    diffusion.train_unet(
        latents * pipe.vae.config.scaling_factor, pipe.text_encoder, pipe.tokenizer,
        models.build_scheduler(given.prediction), given.work / "unet", log_of("diffusion"),
        settings, pipe.unet.requires_grad_(True),
    ).save_pretrained(given.work / "unet_model")  # fmt: skip


if __name__ == "__main__":
    main()
