"""All that a run of training goes on from, as one file: weights, optimiser, averages, step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipguide.files import atomic_path
from clipguide.training.processes import Processes

STATE = "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run, which `save` writes and `restore` reads in place.

    Attributes:
        parameters: what is optimised, by name.
        average: their moving averages, by the same names.
        optimizer: over them.
        buffers: what the modules keep beside parameters, by name.
        processes: of the run; they hold the scale of float16 gradients.
    """

    parameters: Mapping[str, nn.Parameter]
    average: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    buffers: Mapping[str, Tensor]
    processes: Processes

    def save(self, folder: Path, step: int) -> None:
        """Write the state after `step` steps into `folder`, wholly or not at all."""
        parameters = self.parameters.items()
        tensors = {f"parameter.{name}": value.detach() for name, value in parameters}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffers.items()}
        for name, value in parameters:
            for key, moment in self.optimizer.state[value].items():
                tensors[f"optimizer.{key}.{name}"] = moment
        tensors |= {f"scaler.{name}": value for name, value in self.processes.state().items()}
        folder.mkdir(parents=True, exist_ok=True)
        copies = {name: value.contiguous().clone() for name, value in tensors.items()}
        with atomic_path(folder / STATE) as path:
            save_file(copies, path, metadata={"step": json.dumps(step)})

    def restore(self, folder: Path) -> int:
        """Load what `folder` has into everything, in place; the steps done: 0 where it has none."""
        path = folder / STATE
        if not path.exists():
            return 0
        tensors = load_file(path)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(tensors[f"parameter.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                kept = {key: tensors.get(f"optimizer.{key}.{name}") for key in _MOMENTS}
                self.optimizer.state[value] = {
                    key: moment if key == "step" else moment.to(value.device)
                    for key, moment in kept.items() if moment is not None
                }  # fmt: skip
            for name, value in self.buffers.items():
                if f"buffer.{name}" in tensors:  # checkpoints of version 0.1 have none
                    value.copy_(tensors[f"buffer.{name}"])
        names = [name for name in tensors if name.startswith("scaler.")]
        self.processes.load({name.removeprefix("scaler."): tensors[name] for name in names})
        with safe_open(path, "pt") as file:
            return int(json.loads(file.metadata()["step"]))


def buffers_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What the modules keep beside parameters (a state dict without them), by name."""
    kept: dict[str, Tensor] = {}
    for name, module in modules.items():
        names = {key for key, _ in module.named_buffers()}
        state: Mapping[str, Tensor] = module.state_dict(keep_vars=True)
        kept |= {f"{name}.{key}": value for key, value in state.items() if key in names}
    return kept
