"""ComfyUI where COMFYUI_PATH names a checkout: its modules, the pack, and tiny models."""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_pipelines import SIZE
from torch import Tensor

CHECKOUT = Path(__file__).resolve().parent.parent
PATH = os.environ.get("COMFYUI_PATH", "")
REASON = "COMFYUI_PATH names no checkout of ComfyUI"


def missing() -> bool:
    """Whether there is none."""
    return not (Path(PATH) / "comfy" / "samplers.py").is_file()


only_with_comfyui = pytest.mark.skipif(missing(), reason=REASON)
"""Of a test whose file has others that want no ComfyUI."""


def need_comfyui() -> None:
    """Skips the module without it; else imports it, for the CPU."""
    if missing():
        pytest.skip(REASON, allow_module_level=True)
    start()


@cache
def start() -> None:
    sys.path.insert(0, PATH)
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--disable-api-nodes"]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.samplers")
        importlib.import_module("nodes")
    finally:
        sys.argv = arguments


def pack(module: str) -> ModuleType:
    """A module of the pack."""
    return importlib.import_module(f"comfyui.{module}")


def run(module: str, node: str, *args: Any, **inputs: Any) -> Any:
    """What a node's `execute` gives, in inference mode."""
    with torch.inference_mode():
        return getattr(pack(module), node).execute(*args, **inputs).args


def images(count: int = 3, seed: int = 0) -> Tensor:
    """A ComfyUI IMAGE."""
    return torch.rand(count, 24, 20, 3, generator=torch.Generator().manual_seed(seed))


@cache
def tiny_model(kind: str = "sd1", prediction: str = "EPS") -> Any:
    """A random model of ComfyUI under a real ModelPatcher: "sd1" or "flux"."""
    import comfy.model_base as base
    import comfy.supported_models as known
    from comfy.model_patcher import ModelPatcher

    torch.manual_seed(0)
    if kind == "sd1":
        config = known.SD15(UNET)
        config.unet_config["num_heads"] = 4
        model = base.BaseModel(config, base.ModelType[prediction])
    else:
        config = known.Flux(FLUX)
        model = base.Flux(config)
    randomised(model)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def randomised(module: Any) -> Any:
    """Weights of a usual size: ComfyUI's layers begin with whatever was in memory."""
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(weight, float("norm" in name and name.endswith("weight")))
    return module


UNET: dict[str, Any] = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": (1, 2), "num_heads": 4, "context_dim": 16,
    "use_spatial_transformer": True, "transformer_depth": [1, 0], "transformer_depth_output":
    [1, 1, 0, 0], "transformer_depth_middle": 1, "use_linear_in_transformer": False,
    "adm_in_channels": None, "use_temporal_attention": False, "dtype": torch.float32,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8,
    "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
    "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [], "dtype": torch.float32,
}  # fmt: skip


def condition(*seeds: int, tokens: int = 7) -> list[Any]:
    """A ComfyUI CONDITIONING of as many prompts."""
    rows = [torch.randn(tokens, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
    pooled = torch.stack([row[0, :8] for row in rows])
    return [[torch.stack(rows), {"pooled_output": pooled}]]


def empty_latent(kind: str = "sd1", batch: int = 1) -> Tensor:
    return torch.zeros(batch, 4 if kind == "sd1" else 16, 8, 8)


def sampled(
    model: Any, *, sampler: str = "euler", steps: int = 3, cfg: float = 5.0, batch: int = 1,
    kind: str = "sd1", seed: int = 3, prompts: tuple[int, ...] = (1,), **more: Any,
) -> Tensor:  # fmt: skip
    """Latents as KSampler makes them, in inference mode as ComfyUI runs its nodes."""
    import comfy.sample

    with torch.inference_mode():
        latent = empty_latent(kind, batch)
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "normal", condition(*prompts), condition(9), latent,
            seed=seed, disable_pbar=True, **more,
        )  # fmt: skip


class TinyVae:
    """What the pack asks of a ComfyUI VAE, around ComfyUI's own autoencoder made small."""

    def __init__(self, channels: int = 4) -> None:
        from comfy.ldm.models.autoencoder import AutoencoderKL

        torch.manual_seed(1)
        config = {
            "double_z": True, "z_channels": channels, "resolution": SIZE, "in_channels": 3,
            "out_ch": 3, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1,
            "attn_resolutions": [], "dropout": 0.0,
        }  # fmt: skip
        with torch.inference_mode():  # as a loader's node makes it
            module = AutoencoderKL(ddconfig=config, embed_dim=channels).eval()
            self.first_stage_model = randomised(module)
        self.latent_channels = channels
