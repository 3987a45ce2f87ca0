"""Where a pipeline makes its first latents: `prepare_latents`, wrapped for the time of a call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from clipguide.attach.layouts import Prepared, prepare_method
from clipguide.attach.preserve import replaced

OnBegin = Callable[[dict[str, Any]], None]
"""Told of the arguments, by name, before the latents are made."""
OnLatents = Callable[[Tensor, Prepared], Tensor]
"""The first latents of a call (B, ...) and what came with them; returns those to start from."""


@contextmanager
def first_latents(pipe: Any, changed: OnLatents, begins: OnBegin | None = None) -> Generator[None]:
    """`changed` may replace the latents that each call of the pipeline starts from.

    Nothing is done for pipelines that make them inline (`layouts.prepare_method`).
    """
    name = prepare_method(pipe)
    if name is None:
        yield
        return
    original = getattr(pipe, name)

    @functools.wraps(original)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        if begins is not None:
            begins(given)
        result = original(*args, **kwargs)
        # inpainting: latents, noise, image latents; Flux: latents, ids
        latents, *beside = result if isinstance(result, tuple) else (result,)
        if latents.ndim < 3:  # the embedding that a prior denoises with its own scheduler
            return result
        first = changed(latents, Prepared(given, (*beside,)))
        return (first, *beside) if isinstance(result, tuple) else first

    with replaced(pipe, name, prepare_latents):
        yield
