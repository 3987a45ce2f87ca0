"""What ComfyUI asks of a pack: the list of its nodes."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import ComfyExtension, io


class ClipguideExtension(ComfyExtension):
    """The pack with these nodes."""

    def __init__(self, nodes: Sequence[type[io.ComfyNode]]) -> None:
        self.nodes = [*nodes]

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its nodes."""
        return self.nodes
