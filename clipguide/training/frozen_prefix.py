"""The frozen blocks of a backbone run once an input; its live tail runs from what they returned.

When only the last blocks of a backbone train, what the blocks before them return never changes. It
is kept (`clipguide.training.features`), and the backbone's own forward runs from it: its frozen
blocks hand on the kept state in place of computing it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.clip.backbones import LEVELS
from clipguide.clip.weights import hash_weights
from clipguide.training.unfreeze import blocks

# pooling -> blocks before the last whose output it reads as well
_LAYERS_READ = {"last4": 3, "levels": LEVELS - 1}
_CLOSE = 1e-3  # relative; float32 kernels differ by far less, a skipped part by far more


class FrozenPrefix:
    """The frozen blocks of a tower.

    Args:
        tower: an encoder with `model`, the backbone, and `pooling`.
        live: how many blocks of it train; more of them are run where the pooling reads more.
        inputs: some inputs of the tower, on which the tail is held against the whole.

    Attributes:
        depth: blocks whose work is kept; 0 means there is nothing to keep.
        mark: how many they are, and the hash of their weights.

    Raises:
        ValueError: the backbone does not run its blocks one after the other.
    """

    def __init__(self, tower: nn.Module, live: int, inputs: tuple[Tensor, ...]) -> None:
        self._tower = tower
        parts = blocks(cast(nn.Module, tower.model))
        live = max(live, _LAYERS_READ.get(str(tower.pooling), 0))
        self._parts, self._frozen = parts, parts[: max(0, len(parts) - live)]
        self.depth = len(self._frozen)
        self._kinds: list[object] = []
        if self.depth:
            self.mark = f"{self.depth} {hash_weights(nn.ModuleList(self._frozen))}"
            self._check(inputs)

    @property
    def device(self) -> torch.device:
        return next(self._tower.parameters()).device

    @torch.no_grad()
    def run(self, *inputs: Tensor) -> Tensor:
        """The state that the frozen blocks hand to the live ones, (B, ...).

        **Cost**: one pass of the tower.
        """
        return _state(self._seen(self._frozen[-1:], inputs)[-1][1])

    def _seen(
        self, parts: list[nn.Module], inputs: tuple[Tensor, ...]
    ) -> list[tuple[nn.Module, object]]:
        """Each of the parts with what it returns while the tower runs, as they are run."""
        seen: list[tuple[nn.Module, object]] = []
        handles: list[Any] = [
            part.register_forward_hook(
                lambda module, _inputs, output: seen.append((module, output))
            )
            for part in parts
        ]
        was = self._tower.training
        try:
            self._tower.eval()(*inputs)
        finally:
            self._tower.train(was)
            for handle in handles:
                handle.remove()
        return seen

    def tail(self, state: Tensor, *inputs: Tensor) -> Tensor:
        """What the tower returns, from the state on, with gradient.

        Args:
            state: of `run`.
            inputs: the tower's, of which only what the live blocks read counts (a mask).
        """
        with self._handing_on(state):
            features: Tensor = self._tower(*inputs)
        return features

    @contextmanager
    def _handing_on(self, state: Tensor) -> Generator[None]:
        """Inside the block no frozen block computes anything."""
        for part, kind in zip(self._frozen, self._kinds, strict=True):
            part.forward = _constant(_like(kind, state, self._shape))
        try:
            yield
        finally:
            for part in self._frozen:
                del part.forward  # the instance's attribute; the class's own applies again

    @torch.no_grad()
    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        """Compare the tail with the whole on the inputs; keeps the form of each block's output."""
        whole: Tensor = self._tower.eval()(*inputs)
        seen, found = self._seen(self._parts, inputs), None
        if [part for part, _ in seen] == self._parts:  # each once, in this order
            outputs = [output for _, output in seen[: self.depth]]
            state = _state(outputs[-1])
            self._shape, self._kinds = state.shape, [_empty(output) for output in outputs]
            found = self.tail(state, *(inputs if len(inputs) > 1 else (state,)))
        scale = _CLOSE * float(whole.abs().max())
        if found is None or not torch.allclose(found, whole, rtol=0, atol=scale):
            kind = type(self._tower.model).__name__
            raise ValueError(
                f"got a {kind} that does not run its blocks one after the other, expected "
                'train.prefix_cache "" with it'
            )


def _state(output: object) -> Tensor:
    """The hidden state among what a block returns."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def _like(output: object, state: Tensor, shape: torch.Size) -> object:
    """What a block returned, with the state in it; something of its own form where that differs
    from the state's `shape`, so that what lies between frozen blocks can be computed."""
    own = _state(output)
    fill = state
    if own.shape != shape:
        fill = state.new_zeros(()).expand(len(state), *own.shape[1:])
    return (fill, *cast("tuple[object, ...]", output)[1:]) if isinstance(output, tuple) else fill


def _empty(output: object) -> object:
    """What a block returned, by shape alone."""
    own = torch.empty(_state(output).shape, device="meta")
    return (own, *cast("tuple[object, ...]", output)[1:]) if isinstance(output, tuple) else own


def _constant(value: object) -> Callable[..., object]:
    return lambda *_args, **_kwargs: value
