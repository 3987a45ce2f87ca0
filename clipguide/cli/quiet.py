"""Silence the loading bars and notices of the libraries below; our own progress says enough."""

from __future__ import annotations

import importlib
import os
from typing import Any

LIBRARIES = ("transformers.utils.logging", "diffusers.utils.logging")


def quiet_libraries() -> None:
    """Errors only, and no bar per file read. Downloads keep their bars: they can take minutes."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in LIBRARIES:
        logging: Any = importlib.import_module(name)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
