"""A model tried on a prompt and a black image when it is loaded: what fails then is said then."""

from __future__ import annotations

import torch

from clipguide.clip.finite import check_vectors
from clipguide.clip.preprocess import Preprocess, Size
from clipguide.clip.protocol import ClipModel

_PLAIN = frozenset({"squash"})  # one size, whatever the image


def shape_of(name: str, preprocess: Preprocess) -> Size:
    """(height, width) that the model sees, the same for every image.

    Raises:
        ValueError: it depends on the image: a resize that keeps its aspect, and no centre crop.
    """
    if preprocess.crop is None and preprocess.resize not in _PLAIN:
        raise ValueError(
            f"{name}: got preprocessing by which the model sees every image in another size, "
            "expected a centre crop (do_center_crop), or a size of height and width"
        )
    return preprocess.crop or preprocess.size


@torch.no_grad()
def try_towers(model: ClipModel) -> None:
    """Both towers of a loaded model, on the prompt "a" and on a black image.

    Cost: a text-tower and an image-tower pass.

    Raises:
        ValueError: images of no one size, or of one that the tower does not take; vectors of two
            lengths, or that are NaN or infinite.
    """
    name = model.name
    height, width = shape_of(name, model.preprocess)
    text = model.encode_text(["a"])
    black = torch.zeros((1, 3, height, width), device=model.device)
    try:
        image = model.encode_image(model.preprocess.normalize(black))
    except Exception as error:  # shapes that do not fit, arguments that are missing ...
        reason = str(error).partition("\n")[0][:160]
        raise ValueError(
            f"{name}: got an image tower that does not take its preprocessing's {height}x{width} "
            f"pixels ({reason})"
        ) from error
    if text.shape != image.shape:
        got = f"vectors of {image.shape[1]} for images and {text.shape[1]} for texts"
        raise ValueError(f"{name}: got {got}, expected one length")
    check_vectors(text, lambda _: "prompt 'a'", name, model.module)
    check_vectors(image, lambda _: "a black image", name, model.module)
