"""The processes of a run and the precision it computes in; accelerate knows who they are.

Each process encodes its share of a batch, the vectors of all are gathered, and every process
computes the same loss of the whole batch: the answer is that of one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, nn

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Name -> type that the encoders compute in; weights, losses and steps stay float32."""

_PATIENCE = timedelta(days=1)  # others wait for the first one, which computes features
_GIVE_UP = 0.1  # seconds; the threads need microseconds


class Processes:
    """Who computes what; one process where nothing has launched several.

    Args:
        device: "cpu", or "auto" for what accelerate finds, a GPU for each process where there are.
        precision: one of `PRECISIONS`.

    Attributes:
        count, rank: how many processes there are, and which this one is.
        main: whether it writes files and reports.
        device: where it computes.
        precision: its name.

    Raises:
        ValueError: half precision where there is no GPU; or another precision or device asked of
            `accelerate launch` than of the configuration.
    """

    def __init__(self, device: str = "cpu", precision: str = "float32") -> None:
        from accelerate import PartialState

        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        names = {"no": precision, "bf16": "bfloat16", "fp16": "float16"}
        if names.get(launched) != precision:
            raise ValueError(f"got {launched} from accelerate, expected it as train.precision")
        cpu = device == "cpu" or not torch.accelerator.is_available()
        self._state: Any = PartialState(cpu=cpu, timeout=_PATIENCE)
        self.count = int(self._state.num_processes)
        self.rank = int(self._state.process_index)
        self.main = self.rank == 0
        self.device = torch.device("cpu") if cpu else cast(torch.device, self._state.device)
        if precision == "float16" and self.device.type == "cpu":
            raise ValueError("got train.precision float16 on the CPU, expected bfloat16 or float32")
        self.precision, self._dtype = precision, PRECISIONS[precision]
        self._scaler: Any = None
        if self._dtype == torch.float16:
            self._scaler = torch.amp.GradScaler(self.device.type)

    # --- batches ---------------------------------------------------------------------------------

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of (N, ...): as many in every process, in order; where they do not
        divide, the last one is repeated."""
        if self.count == 1:
            return rows
        size = -(-len(rows) // self.count)
        return rows[torch.arange(self.rank * size, (self.rank + 1) * size).clamp(max=len(rows) - 1)]

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """The rows (count, ...) of all processes in the order before `share`, with gradient.

        The gradient is that of `count` processes together: `average` makes it that of one.
        """
        if self.count == 1:
            return rows
        return _Gathered.apply(rows.contiguous(), self.rank, self.count)[:count]

    @contextmanager
    def encoding(self) -> Generator[None]:
        """Inside the block encoders compute in the precision of the run."""
        on = self._dtype is not None
        with torch.autocast(self.device.type, self._dtype or torch.bfloat16, enabled=on):
            yield

    # --- steps -----------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """The gradient of a loss, scaled where half precision needs it."""
        scaled: Tensor = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()

    def step(
        self, optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter], max_norm: float
    ) -> None:
        """Average the gradients of all processes, clip them, and take the step."""
        self.average([value.grad for value in trained if value.grad is not None])
        if self._scaler is None:
            nn.utils.clip_grad_norm_(trained, max_norm)
            optimizer.step()
            return
        self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained, max_norm)
        self._scaler.step(optimizer)  # not taken where a gradient has overflown
        self._scaler.update()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """The mean over all processes, in place."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = (flat / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the scaling."""
        if self._scaler is None:
            return {}
        values: dict[str, Any] = self._scaler.state_dict()
        return {name: torch.tensor(float(value)) for name, value in values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """What `state` returned."""
        if self._scaler is not None and state:
            values = {name: value.item() for name, value in state.items()}
            counts = ("growth_interval", "_growth_tracker")
            values |= {name: int(values[name]) for name in counts}
            self._scaler.load_state_dict(values)

    # --- order -----------------------------------------------------------------------------------

    def wait(self) -> None:
        """Go on when every process is here."""
        self._state.wait_for_everyone()

    @contextmanager
    def first(self) -> Generator[None]:
        """The first process of each machine goes through the block before the others."""
        with self._state.local_main_process_first():
            yield

    def close(self) -> None:
        """Leave the group of processes."""
        if self.count > 1:
            self.wait()
            # Gloo's threads may hold the last tensors, which they cannot give up while the group is
            # destroyed: that keeps Python's lock, and waits for the threads. Here they can.
            time.sleep(_GIVE_UP)
            self._state.destroy_process_group()


class _Gathered(torch.autograd.Function):
    """Rows of all processes end to end. Each computes the same loss of them, so the gradient of a
    process's own rows is complete on it; times the processes, because gradients are averaged."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, count: int) -> Tensor:
        ctx.place = rank, count, len(rows)
        found = [torch.empty_like(rows) for _ in range(count)]
        torch.distributed.all_gather(found, rows)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rank, count, size = ctx.place
        return gradients[0][rank * size : (rank + 1) * size] * count, None, None
