"""A number is finite or it is an error that says whose: an image's, a prompt's, or a weight's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def nonfinite_weight(module: nn.Module) -> str | None:
    """The first parameter or buffer, in the module's order, with a NaN or infinite value.

    Cost: one pass over the weights, no copy of them.
    """
    for name, weight in module.state_dict().items():
        if weight.is_floating_point() and weight.numel() and not _all_finite(weight):
            return name
    return None


def _all_finite(weight: Tensor) -> bool:
    values = weight.detach() if weight.element_size() > 1 else weight.detach().float()  # 8 bits
    low, high = values.aminmax()  # NaN comes through, an infinity is one of the two
    return bool(low.isfinite()) and bool(high.isfinite())


def check_weights_finite(name: str, module: nn.Module) -> None:
    """Refuse a model of which a weight is NaN or infinite.

    Raises:
        ValueError: names the first such weight.
    """
    if (weight := nonfinite_weight(module)) is not None:
        raise ValueError(f"{name}: got NaN or infinite values in weight {weight}, expected none")


def check_vectors(
    vectors: Tensor, what: Callable[[int], str], name: str, module: nn.Module
) -> Tensor:
    """The vectors themselves.

    Args:
        vectors: (N, D); looked at on their device, which is waited for.
        what: place -> what the vector is of, such as "image fox.png".
        name: the model's.
        module: its weights, looked through where a vector is bad.

    Raises:
        ValueError: one is NaN or infinite: whose, and the first bad weight if there is one.
    """
    good = vectors.detach().isfinite().all(dim=-1)
    if bool(good.all()):
        return vectors
    weight = nonfinite_weight(module)
    cause = "" if weight is None else f" (NaN or infinite: weight {weight})"
    place = int((~good).nonzero()[0])
    raise ValueError(f"{name}: got a vector with NaN or infinite values for {what(place)}{cause}")


def check_finite(values: Tensor, what: str) -> Tensor:
    """The values themselves.

    Args:
        values: any shape; looked at on their device, which is waited for.
        what: for the message, such as "image vectors".

    Raises:
        ValueError: one is NaN or infinite; the place of the first.
    """
    finite = values.detach().isfinite()
    if not bool(finite.all()):
        place = ", ".join(str(int(i)) for i in (~finite).nonzero()[0])
        raise ValueError(f"got {what} that are NaN or infinite (the first at {place})")
    return values
