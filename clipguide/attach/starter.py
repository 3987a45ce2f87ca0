"""The bundled starter model as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

import clipguide

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

FOLDER = Path(clipguide.__file__).parent / "assets" / "starter" / "pipeline"


def load_starter(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """The bundled StableDiffusionPipeline: scenes of coloured shapes, 128x128, no download.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        >>> pipe = load_starter()
        >>> image = pipe("a red star left of a blue ring").images[0]
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
