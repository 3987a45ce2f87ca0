"""A part of the picture, for the rewards that look at one."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from clipguide.rewards import Region as PartOfPicture

from .sockets import CATEGORY, Region
from .values import ordinary

Regions = tuple[PartOfPicture, ...]


class MakeRegion(io.ComfyNode):
    """A box or a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="ClipguideRegion",
            display_name="Region",
            category=CATEGORY,
            description="The part of the picture that a reward looks at: a box, or a mask.",
            inputs=[
                io.Float.Input("left", default=0.0, **side),
                io.Float.Input("top", default=0.0, **side),
                io.Float.Input("right", default=1.0, **side),
                io.Float.Input("bottom", default=1.0, **side),
                io.Mask.Input("mask", optional=True, tooltip="In the place of the box."),
                Region.Input(
                    "after",
                    optional=True,
                    tooltip="The regions of the parts before this one, for a parts reward.",
                ),
            ],
            outputs=[Region.Output("region")],
        )

    @classmethod
    def execute(
        cls,
        left: float,
        top: float,
        right: float,
        bottom: float,
        mask: Any = None,
        after: Regions = (),
    ) -> io.NodeOutput:
        if mask is None:
            return io.NodeOutput((*after, PartOfPicture((left, top, right, bottom))))
        if mask.ndim == 3 and len(mask) != 1:
            raise ValueError(f"got a batch of {len(mask)} masks, expected a single one")
        return io.NodeOutput((*after, PartOfPicture(ordinary(mask.reshape(mask.shape[-2:])))))


def single(regions: Regions | None) -> PartOfPicture | None:
    """The region of a reward that looks at one.

    Raises:
        ValueError: several.
    """
    if regions is None:
        return None
    if len(regions) != 1:
        raise ValueError(f"got {len(regions)} regions, expected one (a parts reward takes more)")
    return regions[0]
