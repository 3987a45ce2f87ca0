"""The oracle's verdict on pictures of the starter's world."""

from __future__ import annotations

from PIL import Image

from clipguide.data.scene_captions import parse_caption
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.generation.settings import Settings


def oracle_agrees(settings: Settings, image: Image.Image, prompt: str) -> bool | None:
    """Whether the picture shows its prompt; None where the oracle cannot say.

    It can for the starter model and prompts of its grammar: classical vision, no weights, so
    guidance cannot fool it.
    """
    if settings.model != "starter":
        return None
    try:
        asked = parse_caption(prompt)
    except ValueError:
        return None
    return oracle_verdict(image, asked).ok
