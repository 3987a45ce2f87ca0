"""Silence the loading bars and notices of the libraries below; our own progress says enough."""

from __future__ import annotations

import importlib
import os
from typing import Any


def quiet_libraries(*, diffusers: bool = True) -> None:
    """Errors only, and no bar per file read. Downloads keep their bars: they can take minutes.

    Args:
        diffusers: whether the command uses it: importing it takes 0.3 s.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "diffusers") if diffusers else ("transformers",):
        logging: Any = importlib.import_module(f"{name}.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
