"""Whose latents they are: a ComfyUI VAE under diffusers' names, for scorers of latents to check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from diffusers.loaders import single_file_utils
from torch import Tensor, nn

from clipguide.rewards import Reward

from .values import ordinary

Weights = dict[str, Tensor]


def check_latents(reward: Reward, vae: Any) -> None:
    """Raises where a reward of latents was not made for those of this VAE.

    Cost: a copy and a hash of the VAE's weights, when the node runs.

    Raises:
        ValueError: none, another, or one of a kind that cannot be told.
    """
    if vae is None:
        raise ValueError(
            "got a reward of latents without a VAE, expected the model's own VAE connected: a "
            "scorer of latents reads those of one autoencoder alone"
        )
    reward.check_autoencoder(AsDiffusers(vae.first_stage_model))


class AsDiffusers(nn.Module):
    """The weights of an autoencoder of ComfyUI as diffusers' class for it names them.

    Raises:
        ValueError: a class that no scorer of latents can be made for.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        kind = type(module).__name__
        if kind not in NAMES:
            raise ValueError(f"got a VAE of class {kind}, expected one of {', '.join(NAMES)}")
        self._weights = NAMES[kind](
            {name: ordinary(weight) for name, weight in module.state_dict().items()}
        )

    def state_dict(self, *args: Any, **options: Any) -> Weights:  # type: ignore[override]
        """Name -> weight."""
        return self._weights

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """The weights."""
        yield from self._weights.values()


def _kl(weights: Weights) -> Weights:
    """By diffusers' own conversion."""
    blocks = {name.split(".")[2] for name in weights if name.startswith("encoder.down.")}
    config = {"down_block_types": [*blocks], "up_block_types": [*blocks]}
    convert: Callable[[Weights, Any], Weights] = single_file_utils.convert_ldm_vae_checkpoint
    return convert(weights, config)


def _tiny(weights: Weights) -> Weights:
    """TAESD: ComfyUI's decoder counts its clamp as a layer, diffusers' does not."""
    found: Weights = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"taesd_(encoder|decoder)\.(\d+)\.(.+)", name)
        if match is not None:
            part, layer, rest = match[1], int(match[2]), match[3]
            found[f"{part}.layers.{layer - (part == 'decoder')}.{rest}"] = weight
    return found


NAMES: dict[str, Callable[[Weights], Weights]] = {"AutoencoderKL": _kl, "TAESD": _tiny}
"""Class of ComfyUI -> its weights under diffusers' names."""
