from collections.abc import Callable
from typing import Any

class WrappersMP:
    SAMPLER_SAMPLE: str

def add_wrapper_with_key(
    wrapper_type: str,
    key: str,
    wrapper: Callable[..., Any],
    transformer_options: dict[str, Any],
    is_model_options: bool = ...,
) -> None: ...
