"""A mode is one file and one export: here one of the test's own guides a pipeline."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import ProjectionReward, call, tiny_pipeline
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.modes import Edit, Mode, StepContext, find_mode
from clipguide.attach.modes.base import displaced
from clipguide.guidance.config import MODES, GuidanceConfig, ModeExport
from clipguide.guidance.gradient import Evaluation


class Brighter(Mode):
    """Moves every x0 by strength, whatever the reward says."""

    def edit(self, out: Tensor, x: Tensor, step: StepContext) -> Edit:
        rows = torch.ones(len(x))
        found = Evaluation(rows, torch.zeros_like(x), rows.bool(), {})
        delta = torch.full_like(x, self.config.strength)
        return Edit(displaced(out, delta, step.form, found.usable), found)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES, "brighter", ModeExport(f"{__name__}:Brighter", ("damping",)))


def test_a_mode_of_this_file_guides_a_pipeline_and_is_gone_afterwards() -> None:
    pipe, reward = tiny_pipeline(), ProjectionReward()
    before = call(pipe, output_type="latent")
    with guide(pipe, reward, 0.25, mode="brighter", window=(0.0, 0.9)) as trace:
        moved = call(pipe, output_type="latent")
    assert trace.steps
    assert all(step.sigma <= 0.9 for step in trace.steps)
    assert not torch.equal(moved, before)
    with guide(pipe, reward, 0.0, mode="brighter"):
        assert torch.equal(call(pipe, output_type="latent"), before)
    assert torch.equal(call(pipe, output_type="latent"), before)


def test_the_last_step_alone_moves_the_latent_by_the_displacement() -> None:
    pipe = tiny_pipeline()
    before = call(pipe, output_type="latent")
    with guide(pipe, ProjectionReward(), 0.0, mode="x0") as trace:
        call(pipe)
    levels = [step.sigma for step in trace.steps]
    with guide(pipe, ProjectionReward(), 0.25, mode="brighter", window=(0.0, levels[-1])):
        moved = call(pipe, output_type="latent")
    torch.testing.assert_close(moved, before + 0.25, rtol=0, atol=1e-5)


def test_what_it_leaves_at_its_default_is_refused_otherwise() -> None:
    with pytest.raises(ValueError, match=r"got mode 'brighter' with damping=0\.5, expected"):
        GuidanceConfig(mode="brighter", damping=0.5)


@pytest.mark.parametrize("name", [name for name in MODES if name != "brighter"])
def test_every_export_is_a_mode(name: str) -> None:
    assert issubclass(find_mode(name), Mode)
    assert find_mode(name).__doc__


def test_an_unknown_mode_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"got mode 'latent', expected one of \('x0', 'xt'"):
        find_mode("latent")
