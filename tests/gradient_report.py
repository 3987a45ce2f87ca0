"""Prints how far guidance's gradient is from one written by hand, and from central differences.

    PYTHONPATH=. python tests/gradient_report.py

Real classes with tiny random weights: classifier-free guidance, denoiser, autoencoder and CLIP (in
float64 a projection). Columns: relative error against plain autograd with x0 as the papers write
it; the same with x0 as a·x + b·out, in the library's own order of rounding; and, in float64 and
mode xt, against central differences of the whole chain. The last line has the largest of each, of
the first two in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import conftest  # noqa: F401  one thread, offline
import pytest
import test_guide_gradient as gradients
import torch
from diffusers.utils import logging


def properties(test: Callable[..., None], *args: Any) -> dict[str, float]:
    """What a test of the gradient records."""
    found: dict[str, float] = {}
    with pytest.MonkeyPatch.context() as patch, gradients.pale_images():
        test(*args, monkeypatch=patch, record_property=found.__setitem__)
    return found


def main() -> None:
    logging.set_verbosity_error()
    print("| scheduler | mode | dtype | by hand | in the same order | central differences |")
    print("|---|---|---|---|---|---|")
    largest = [0.0, 0.0, 0.0]
    for name, scheduler in gradients.SCHEDULER_CASES.items():
        for mode in ("x0", "xt"):
            for dtype in (torch.float32, torch.float64):
                test = gradients.test_the_gradient_is_the_one_written_by_hand
                found = properties(test, scheduler, mode, dtype)
                errors = [found["relative_error"], found["relative_error_in_the_same_order"], 0.0]
                if mode == "xt" and dtype == torch.float64:
                    differences = gradients.test_mode_xt_agrees_with_finite_differences_in_float64
                    errors[2] = properties(differences, name)["relative_error"]
                if dtype == torch.float32:
                    largest[:2] = map(max, largest[:2], errors[:2])
                largest[2] = max(largest[2], errors[2])
                cells = " | ".join(f"{error:.1e}" if error else "0" for error in errors)
                print(f"| {name} | {mode} | {str(dtype)[6:]} | {cells} |", flush=True)
    print(f"| largest | | | {' | '.join(f'{error:.1e}' for error in largest)} |")


if __name__ == "__main__":
    main()
