"""One pipeline class to be swept: how it is made tiny, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
from families.latent_unets import PICTURE
from families.parts import PROMPT, ready
from PIL import Image
from torch import nn

STEPS = 3
EVERYTHING = Image.new("L", PICTURE.size, 255)
"""A mask under which the whole picture is painted: the last x0 is then what is returned."""

# arguments by the names that calls take; a case may take one out by None
GIVEN: dict[str, Any] = {
    "prompt": PROMPT,
    "image": PICTURE,
    "control_image": PICTURE,
    "mask_image": EVERYTHING,
    "height": PICTURE.height,
    "width": PICTURE.width,
    "strength": 0.8,
    "num_inference_steps": STEPS,
    "max_sequence_length": 16,
    "clean_caption": False,
    "use_resolution_binning": False,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One row of the table.

    Attributes:
        pipeline: name of the pipeline class.
        build: makes it.
        call: the arguments for one image, but generator and output type.
        why: why the picture returned is not exactly the last x0 decoded; empty where it is.
    """

    pipeline: str
    build: Callable[[], Any]
    call: dict[str, Any]
    why: str = ""

    def __str__(self) -> str:
        return self.pipeline


def case(
    name: str,
    pool: Callable[[], Mapping[str, Any]],
    *,
    why: str = "",
    parts: Any = None,
    **call: Any,
) -> Case:
    """A class that takes its components from a pool which it shares with others.

    Args:
        name: of the class.
        pool: makes the components; those that the constructor has no name for are left out, and
            those that it needs and the pool has not are None.
        why: see `Case`.
        parts: makes components of its own, over the pool's.
        call: arguments of the call over `GIVEN`; None takes one out.
    """
    cls = getattr(diffusers, name)

    def build() -> Any:
        own = {} if parts is None else parts()
        return assembled(cls, {**pool(), **own})

    taken = inspect.signature(cls.__call__).parameters
    given = {key: value for key, value in GIVEN.items() if key in taken} | call
    if "mask_image" in given and "strength" not in call and "strength" in given:
        given["strength"] = 1.0
    return Case(name, cache(build), {k: v for k, v in given.items() if v is not None}, why)


def assembled(cls: Any, pool: Mapping[str, Any]) -> Any:
    """The pipeline of what its constructor takes."""
    found: dict[str, Any] = {}
    for name, parameter in [*inspect.signature(cls.__init__).parameters.items()][1:]:
        if name in pool:
            found[name] = pool[name]
        elif name == "requires_safety_checker":
            found[name] = False
        elif parameter.default is parameter.empty:
            found[name] = None
    return ready(cls(**found))


def heard(module: nn.Module, std: float = 0.1) -> Any:
    """The module with random numbers where a new one has zeros (ControlNets, adapters)."""
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        if not weight.any():
            weight.data.normal_(std=std, generator=generator)
    return module.eval()
