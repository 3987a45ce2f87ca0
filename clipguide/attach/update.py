"""What guidance does to one step: the model output edited by the gradient of the reward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.cfg import CfgTap
from clipguide.attach.decoders import upcast
from clipguide.attach.exact import ExactGraph
from clipguide.attach.preserve import Freeze, weights_kept
from clipguide.attach.schedulers import SchedulerRule
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.gradient import Decode, Evaluation, climbed, evaluate, pulled_back
from clipguide.guidance.parameterization import NoiseLevel, Parameterization
from clipguide.guidance.scale import SCALES, TARGETS, Levels
from clipguide.guidance.smoothing import spread
from clipguide.guidance.step_rule import damped, displacement
from clipguide.guidance.tilt import Slope
from clipguide.rewards.base import Reward


@dataclass(frozen=True)
class Edit:
    """What becomes of a guided step.

    Attributes:
        output: the model output for the scheduler, (B, C or 2C, ...).
        found: the reward and its gradient.
        added: what is added to the sample after the step, for targets other than "output".
        slope: mode "tilt", of the reward at this step's estimate, by which the next is guided;
            `output` is that of mode x0, for a step before which no slope was known.
    """

    output: Tensor
    found: Evaluation
    added: Tensor | None = None
    slope: Slope | None = None


class Update:
    """The step rule on a scheduler's terms.

    Args:
        scheduler, rule: the scheduler and its row.
        config: the settings.
        reward: images to (B,).
        decode, decoder: latents to images, and the module behind it.
        freeze: over every parameter that a graph may meet.
        random: (purpose, batch) -> one generator per image.
        graph: present in mode xt.
        cfg: present for normalize="cfg".
    """

    def __init__(
        self,
        scheduler: Any,
        rule: SchedulerRule,
        config: GuidanceConfig,
        reward: Reward,
        decode: Decode,
        decoder: nn.Module | None,
        freeze: Freeze,
        random: Callable[[str, int], list[torch.Generator]],
        graph: ExactGraph | None = None,
        cfg: CfgTap | None = None,
    ) -> None:
        self._scheduler, self._rule, self._config = scheduler, rule, config
        self._reward, self._decode, self._decoder = reward, decode, decoder
        self._freeze, self._random, self._graph, self._cfg = freeze, random, graph, cfg

    def parameterization(self, level: NoiseLevel) -> Parameterization:
        """x0 of the scheduler's model output at a noise level, and back."""
        return self._rule.parameterization(self._scheduler, level)

    def edited(self, out: Tensor, x: Tensor, levels: Levels) -> Edit:
        """The model output displaced, its second half (variance) as it was.

        Raises:
            NotImplementedError: an output of a shape that no prediction type has.
        """
        if out.shape not in (x.shape, (x.shape[0], 2 * x.shape[1], *x.shape[2:])):
            raise NotImplementedError(
                f"{type(self._scheduler).__name__} was given a model output of shape "
                f"{tuple(out.shape)} for a sample of {tuple(x.shape)}; no verified rule for that "
                "layout (see clipguide.register_scheduler)"
            )
        mean, rest = _split(out, x.shape[1])
        rule, config = self.parameterization(levels.now), self._config
        x0, found, refined = self._evaluated(rule, mean, x, levels)
        if config.strength == 0:
            return Edit(out, found)
        delta = self._displacement(x0, found, mean, rule, levels)
        slope: Slope | None = None
        if config.mode == "tilt":
            slope = Slope(delta / levels.now.variance, x0.nan_to_num())
            delta = damped(1.0, levels.now, config.damping) * delta
        if config.target != "output":
            added = TARGETS[config.target](levels) * delta
            if refined is not None:
                added = added + TARGETS["clean"](levels) * refined
            return Edit(out, found, added)
        delta = delta if refined is None else delta + refined
        usable = found.usable.view(-1, *[1] * (mean.ndim - 1))
        moved = _joined(torch.where(usable, rule.displace(mean, delta), mean), rest)
        return Edit(moved, found, slope=slope)

    def _displacement(
        self, x0: Tensor, found: Evaluation, out: Tensor, rule: Parameterization, levels: Levels
    ) -> Tensor:
        config = self._config
        return displacement(
            found.gradient,
            x0,
            levels.now,
            strength=config.strength,
            mode=config.mode,
            normalize=config.normalize,
            damping=None if config.mode == "tilt" else config.damping,  # the slope is not damped
            scale=config.scale,
            cfg=None if self._cfg is None else rule.b * self._cfg.displacement(out.detach()),
            following=levels.following,
        )

    def _evaluated(
        self, rule: Parameterization, out: Tensor, x: Tensor, levels: Levels
    ) -> tuple[Tensor, Evaluation, Tensor | None]:
        """x0 without graph, its reward with the gradient the mode asks for, and the refinement."""
        config, climbs = self._config, self._config.strength > 0
        # nullcontext: inference mode cannot be left in mode xt, whose graph began outside
        leaving = nullcontext() if self._graph else torch.inference_mode(False)
        kept = weights_kept(self._decoder)
        with leaving, torch.set_grad_enabled(climbs), upcast(self._decoder), kept, self._frozen():
            exact = self._graph is not None and climbs
            if self._graph is not None and climbs:
                self._graph.check(x, out)
                x0 = rule.x0(x, out)
            else:
                x0 = rule.x0(x.detach(), out.detach()).clone()
            at = functools.partial(self._scored, copies=self._copies(x0.detach(), levels.now))
            found = at(x0)
            refined: Tensor | None = None
            if config.refine and climbs:
                factor = 1.0 if config.scale == "posterior" else SCALES[config.scale](levels, "x0")
                size = config.refine_strength * factor
                refined = climbed(x0.detach(), found, at, size, config.refine)
            return x0.detach(), pulled_back(found, x0, x) if exact else found, refined

    def _copies(self, x0: Tensor, level: NoiseLevel) -> list[Tensor] | None:
        """Displacements of x0 to average the reward over; None without smoothing."""
        count = self._config.smoothing
        if count == 0:
            return None
        radius = self._config.smoothing_radius * level.sigma_bar
        return spread(x0, count, radius, self._random("smoothing", x0.shape[0]))

    def _scored(self, x0: Tensor, *, copies: list[Tensor] | None) -> Evaluation:
        return evaluate(
            x0,
            lambda latents: self._decode(self._rule.finish(self._scheduler, latents)),
            self._reward,
            self._random("views", x0.shape[0]),
            differentiate=self._config.strength > 0,
            copies=copies,
            average=self._config.smoothing_average,
        )

    @contextmanager
    def _frozen(self) -> Generator[None]:
        """Parameters frozen while the gradient is taken; mode xt thaws them after the step."""
        if self._config.strength > 0:
            self._freeze.freeze()
        try:
            yield
        finally:
            if self._graph is None:
                self._freeze.thaw()


def _split(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A model output's mean, and its learned variance where it has one: (B, C or 2C, ...)."""
    if out.shape[1] == channels:
        return out, None
    return out[:, :channels], out[:, channels:]


def _joined(mean: Tensor, rest: Tensor | None) -> Tensor:
    return mean if rest is None else torch.cat([mean, rest], dim=1)
