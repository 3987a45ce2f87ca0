"""The bundled starter model as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import clipguide
from clipguide.clip.inference_mode import ordinary_tensors

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

ASSETS = Path(clipguide.__file__).parent / "assets" / "starter"
FOLDER = ASSETS / "pipeline"
DECODER_FOLDER = ASSETS / "preview"


@ordinary_tensors()
def load_starter(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """The bundled StableDiffusionPipeline: scenes of coloured shapes, 128x128, no download.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        >>> pipe = load_starter()
        >>> image = pipe("a red star left of a blue ring", num_inference_steps=25).images[0]
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    if not (FOLDER / "model_index.json").is_file():
        raise FileNotFoundError(
            f"the starter's weights are not at {FOLDER}; reinstall clipguide, or make them with "
            "training/starter"
        )
    pipe: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        FOLDER, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return pipe.to(device)


@ordinary_tensors()
def load_starter_decoder(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderTiny:
    """The starter's preview decoder: its latents straight to 64 px, what its CLIP looks at.

    As ``decoder=`` of :func:`clipguide.guide` it makes a guided step of the starter several times
    cheaper than the full autoencoder. Only its decoder half is trained.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    if not (DECODER_FOLDER / "config.json").is_file():
        raise FileNotFoundError(f"the starter's preview decoder is not at {DECODER_FOLDER}")
    decoder: Any = AutoencoderTiny.from_pretrained(
        DECODER_FOLDER, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return decoder.to(device).eval()
