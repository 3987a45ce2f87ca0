"""clipguide's nodes for ComfyUI: CLIP guidance, search and reranking in a graph.

ComfyUI imports this folder from its `custom_nodes` and calls `comfy_entrypoint` (node API V3).
Every node calls the clipguide package; no denoising loop and no formula is here.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"
"""Where ComfyUI's page finds the help of each node: docs/NODE/LANGUAGE.md in it."""


async def comfy_entrypoint() -> ComfyExtension:
    """The extension, with its nodes; without any where the clipguide package is not installed.

    Raises:
        RuntimeError: this is not inside ComfyUI.
    """
    if find_spec("comfy_api") is None:
        raise RuntimeError(
            "these are nodes of ComfyUI, which is not here: put this folder into the custom_nodes "
            "folder of a ComfyUI and start that (clipguide itself needs no ComfyUI)"
        )
    from .extension import ClipguideExtension

    if find_spec("clipguide") is None:
        logging.error(
            "clipguide's nodes are left out: the clipguide package is not installed; install it "
            "once with\n    %s -m pip install clipguide\nand start ComfyUI again",
            sys.executable,
        )
        return ClipguideExtension(())
    from .nodes import NODES

    return ClipguideExtension(NODES)
