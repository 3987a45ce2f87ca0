"""The unconditional half of a denoiser's last output, for guidance in units of CFG."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class CfgTap:
    """Remembers what the denoiser returned last.

    diffusers runs classifier-free guidance (Ho & Salimans 2022, Eq. 6,
    https://arxiv.org/abs/2207.12598) as one batch of 2B, the unconditional half first.
    """

    def __init__(self) -> None:
        self._output: Tensor | None = None

    @contextmanager
    def on(self, denoiser: nn.Module) -> Generator[None]:
        """Listens to `denoiser` while the context is open."""

        def remember(module: nn.Module, args: Any, output: Any) -> None:
            first: Any = output[0]
            self._output = first.detach() if isinstance(first, Tensor) else None

        handle = denoiser.register_forward_hook(remember)
        try:
            yield
        finally:
            handle.remove()
            self._output = None

    def displacement(self, out: Tensor) -> Tensor:
        """guided - unconditional model output, (B, ...).

        Raises:
            ValueError: the call has no classifier-free guidance.
        """
        batch = out.shape[0]
        if self._output is None or self._output.shape[0] != 2 * batch:
            got = 0 if self._output is None else self._output.shape[0]
            raise ValueError(
                f"got a denoiser batch of {got} for {batch} images with normalize='cfg', expected "
                f"{2 * batch}: classifier-free guidance in one batch (guidance_scale > 1)"
            )
        return out - self._output[:batch, : out.shape[1]].to(out)
