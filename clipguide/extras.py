"""Libraries that are installed with an extra only."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str) -> Any:
    """Import a module of the extra `extra`.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).split(".")[0]
        raise ValueError(f"{missing} is not installed: pip install 'clipguide[{extra}]'") from error
