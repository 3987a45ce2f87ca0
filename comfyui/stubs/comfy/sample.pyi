from typing import Any

from torch import Tensor

def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Any = ...) -> Tensor: ...
def fix_empty_latent_channels(
    model: Any,
    latent_image: Tensor,
    downscale_ratio_spacial: Any = ...,
    downscale_ratio_temporal: Any = ...,
) -> Tensor: ...
def sample(model: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...
