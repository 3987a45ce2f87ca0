from typing import Any

from torch import Tensor

SAMPLER_NAMES: list[str]
SCHEDULER_NAMES: list[str]

class KSampler:
    sigmas: Tensor
    def __init__(
        self,
        model: Any,
        steps: int,
        device: Any,
        sampler: str | None = ...,
        scheduler: str | None = ...,
        denoise: float | None = ...,
        model_options: dict[str, Any] = ...,
    ) -> None: ...
