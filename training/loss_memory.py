"""Memory and equality of the chunked losses and of gradient caching, against the dense loss.

Command:  python -m training.loss_memory [--batch 8192] [--dim 256] [--chunk 256]
Hardware: one CPU core and 6 GB of memory; Linux for the column of resident memory.
Minutes:  3
Expected: see EXPECTED below, which a run prints beside what it finds.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.chunked_losses import chunked_infonce, chunked_sigmoid, chunked_soft
from clipguide.clip.losses import infonce, sigmoid, soft
from clipguide.evaluation.cost.measuring import LiveBytes
from clipguide.training.gradient_cache import encode_in_parts

EXPECTED = "at most a fifth of the dense memory, values and gradients within 1e-6"
LOSSES = {
    "infonce": (infonce, chunked_infonce),
    "soft": (soft, chunked_soft),
    "sigmoid": (sigmoid, chunked_sigmoid),
}
# of glibc's malloc.h: when what is freed is given back, whatever the environment says
_MALLOPT = {-1: 2**16, -3: 2**16, -4: 2**16}  # trim threshold, mmap threshold, mmap max
Made = tuple[float, list[Tensor]]
"""A loss and the gradients of all that it was computed from."""


class Encoders(nn.Module):
    """Two small encoders whose activations are several times their vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            for _ in range(2)
        )

    def forward(self, inputs: list[Tensor], part: int) -> list[Tensor]:
        """Unit vectors of both sides, `part` rows at a time (0: all at once)."""
        made: list[Tensor] = []
        for tower, rows in zip(self.towers, inputs, strict=True):
            features = encode_in_parts(tower, [rows], part) if part else tower(rows)
            made.append(functional.normalize(features, dim=-1))
        return made


def vectors(batch: int, dim: int) -> list[Tensor]:
    """Unit vectors of two sides that agree in part, as in the middle of training."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn((batch, dim), generator=generator)
    noise = [torch.randn((batch, dim), generator=generator) for _ in range(2)]
    return [functional.normalize(shared + 2 * part, dim=-1) for part in noise]


def losses_alone(name: str, chunk: int, batch: int, dim: int) -> Made:
    """A loss on given vectors: `chunk` rows at once, or dense for 0."""
    sides = [side.requires_grad_() for side in vectors(batch, dim)]
    scalars = [torch.tensor(20.0, requires_grad=True)]
    if name == "sigmoid":
        scalars.append(torch.tensor(-10.0, requires_grad=True))
    dense, chunked = LOSSES[name]
    value = chunked(*sides, *scalars, chunk=chunk) if chunk else dense(*sides, *scalars)
    value.backward()
    return value.item(), [tensor.grad for tensor in (*sides, *scalars) if tensor.grad is not None]


def with_encoders(chunk: int, batch: int, dim: int) -> Made:
    """InfoNCE through two encoders: in parts and chunks, or all at once for 0."""
    encoders = Encoders(dim)
    images, texts = encoders(vectors(batch, dim), chunk)
    loss = (
        chunked_infonce(images, texts, 20.0, chunk=chunk) if chunk else infonce(images, texts, 20.0)
    )
    loss.backward()
    return loss.item(), [value.grad for value in encoders.parameters() if value.grad is not None]


def measured(make: Callable[[int], Made], chunk: int) -> tuple[Made, dict[str, float]]:
    """What is made in a process of its own, and by how many MiB its memory grew at most: of the
    tensors, and of the whole process where Linux says so."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "made.safetensors")
        child = os.fork()
        if child == 0:
            peak, before = Path("/proc/self/clear_refs"), 0
            if peak.exists():
                for option, value in _MALLOPT.items():
                    ctypes.CDLL(None).mallopt(option, value)
                peak.write_text("5")  # the peak begins anew
                before = _status("VmRSS")
            with LiveBytes() as live:
                value, gradients = make(chunk)
            grown = (_status("VmHWM") - before) / 1024 if peak.exists() else math.nan
            kept = {str(place): gradient for place, gradient in enumerate(gradients)}
            figures = torch.tensor([value, live.peak / 2**20, grown], dtype=torch.float64)
            save_file({**kept, "figures": figures}, place)
            os._exit(0)
        os.waitpid(child, 0)
        tensors = load_file(place)
    value, tensor_peak, grown = tensors.pop("figures").tolist()
    gradients = [tensors[str(place)] for place in range(len(tensors))]
    return (value, gradients), {"tensors": tensor_peak, "process": grown}


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def compare(what: str, make: Callable[[int], Made], chunk: int) -> dict[str, float]:
    """Dense against chunked: MiB, and the differences of the loss and of its gradients."""
    (value, gradients), dense = measured(make, 0)
    (other, others), chunked = measured(make, chunk)
    found = {"loss": value, "loss, difference": abs(value - other)}
    pairs = [*zip(gradients, others, strict=True)]
    found["gradient, largest difference"] = max(float((a - b).abs().max()) for a, b in pairs)
    found["gradient, difference over its norm"] = max(
        float((a - b).norm() / a.norm().clamp(min=1e-30)) for a, b in pairs
    )
    for kind in ("tensors", "process"):
        found |= {f"{kind}, dense MiB": dense[kind], f"{kind}, chunked MiB": chunked[kind]}
        found[f"{kind}, share"] = chunked[kind] / dense[kind]
    lines = [f"  {name}: {figure:.4g}" for name, figure in found.items()]
    print("\n".join([what, *lines]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of the chunked losses.")
    for name, default in (("batch", 8192), ("dim", 256), ("chunk", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(f"expected: {EXPECTED}")
    with LiveBytes():  # what torch loads when it is first used is no memory of a loss
        losses_alone("soft", 2, 4, 4)
        with_encoders(2, 4, 4)
    for name in LOSSES:
        compare(name, lambda c, n=name: losses_alone(n, c, given.batch, given.dim), given.chunk)
    what = "infonce through encoders, gradients cached"
    compare(what, lambda c: with_encoders(c, given.batch, given.dim), given.chunk)


if __name__ == "__main__":
    main()
