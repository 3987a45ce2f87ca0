"""A run that collapses is ended with a reason, and one that learns is not."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from tiny_training import toy_run
from torch.nn import functional

from clipguide.clip.losses import collapsed_value
from clipguide.training.collapse import CollapseGuard, CollapseWarning, patience_of
from clipguide.training.objectives import LOSSES, Embedded


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_a_loss_that_learns_is_not_called_collapsed(toys: Path, tmp_path: Path, loss: str) -> None:
    """Heads on 64 random pairs of features, 100 steps of all of them; with dropout, whose draws are
    others in every version of torch, so what was learned is measured without it."""
    model = toy_run(toys, tmp_path, loss=loss).model
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        torch.randn(64, 24, generator=generator),
        torch.randn(64, 16, generator=generator),
    )
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer, guard = torch.optim.AdamW(trained, lr=0.01), CollapseGuard()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            batch = Embedded(model.image_head(images), model.text_head(texts))
            value = LOSSES[loss](model, batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            guard.update(float(value.detach()), collapsed_value(loss, 64))
    warned = [w for w in caught if issubclass(w.category, CollapseWarning)]
    model.eval()
    batch = Embedded(model.image_head(images), model.text_head(texts))
    own = functional.normalize(batch.images, dim=1) @ functional.normalize(batch.texts, dim=1).T
    recall = (own.argmax(dim=1) == torch.arange(64)).float().mean().item()
    assert recall > 0.9
    assert not guard.collapsed
    assert not warned


def test_a_loss_that_rests_at_ln_b_is_caught_once() -> None:
    guard = CollapseGuard(patience=3)
    value = collapsed_value("soft_published", 128)
    guard.update(4.9, value)
    guard.update(4.86, value)
    with pytest.warns(CollapseWarning, match="looks alike"):
        guard.update(4.84, value)
    assert guard.collapsed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.update(4.85, value)


def test_the_guard_forgets_a_slow_start() -> None:
    guard = CollapseGuard(patience=3)
    for value in (4.85, 4.85, 4.0, 4.85, 4.85):
        guard.update(value, 4.852)
    assert not guard.collapsed


@pytest.mark.parametrize(("steps", "patience"), [(2, 8), (24, 8), (60, 20), (10_000, 50)])
def test_the_first_steps_of_a_run_say_nothing_of_collapse(steps: int, patience: int) -> None:
    assert patience_of(steps) == patience
    guard, value = CollapseGuard(patience_of(steps)), math.log(12)
    for _ in range(min(steps, 7)):
        guard.update(value, value)
    assert not guard.collapsed
