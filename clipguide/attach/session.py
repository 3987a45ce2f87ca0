"""One guided context: what happens inside `scheduler.step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.cfg import CfgTap
from clipguide.attach.decoders import upcast
from clipguide.attach.exact import ExactGraph
from clipguide.attach.noise_levels import one_timestep
from clipguide.attach.preserve import Freeze, weights_kept
from clipguide.attach.scheduler_refusals import refuse_arguments
from clipguide.attach.schedulers import SchedulerRule, step_index
from clipguide.attach.view_generators import GeneratorArgument, view_generators
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.gradient import Decode, Evaluation, evaluate
from clipguide.guidance.parameterization import NoiseLevel, Parameterization
from clipguide.guidance.step_rule import displacement
from clipguide.guidance.trace import Skipped, Trace, TraceStep
from clipguide.rewards.base import Reward


class Session:
    """Guides every step of one scheduler that its window covers.

    Args:
        scheduler, rule: the hooked scheduler and its row.
        config: strength, mode, normalisation, damping, window.
        reward: images to (B,).
        decode, decoder: latents to images, and the module behind it.
        freeze: over every parameter that a graph may meet.
        generator: for the views; None for the pipeline call's own.
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
        generator: GeneratorArgument = None,
        graph: ExactGraph | None = None,
        cfg: CfgTap | None = None,
    ) -> None:
        self.trace = Trace()
        self.seen: list[float] = []  # sigma_bar of every step, guided or not
        self.inline = False  # the pipeline makes its first sample itself: step tells its generator
        self.paused = False  # a search replays steps that were guided before: count, do not guide
        self._scheduler, self._rule, self._config = scheduler, rule, config
        self._reward, self._decode, self._decoder = reward, decode, decoder
        self._given_generator, self._call_generator = generator, generator
        self._freeze, self._graph, self._cfg = freeze, graph, cfg
        self._window = config.steps()
        self.timesteps_set()
        self._fresh = False  # whether scheduler.timesteps are those of the call that begins

    # ------------------------------------------------------------------ what the pipeline tells us

    def timesteps_set(self) -> None:
        """A run begins: the step counters start again."""
        self._step = 0
        self._covered = 0  # steps so far inside the window
        self._position: int | None = None
        self._views: list[torch.Generator] | None = None
        self._fresh = True

    def call_begins(self, generator: GeneratorArgument) -> None:
        """The pipeline prepares latents with its own `generator` argument."""
        self._call_generator = self._given_generator or generator
        self._views = None

    def latents_prepared(self, latents: Tensor, timestep: Any) -> Tensor:
        """The first latents of a call; mode xt starts its graph there if step one is guided."""
        if self._graph is None:
            return latents
        self._graph.begin()
        return self._graph.hand(latents, guided=self._first_is_guided(timestep))

    def sample_seen(self, sample: Tensor) -> None:
        """Mode xt without `prepare_latents`: the denoiser is about to be given a sample."""
        if self._graph is not None and self._fresh:
            self._graph.begin()
            if self._climbs_at(self._scheduler.timesteps[0]):
                self._graph.start(sample)

    # ------------------------------------------------------------------------------------ the step

    def step(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """The scheduler's own step, on a model output whose x0 climbed the reward."""
        call = inspect.signature(original).bind(*args, **kwargs)
        given = call.arguments
        if self.inline and self._fresh:
            self.call_begins(given.get("generator"))
        refuse_arguments(self._scheduler, given)
        given["model_output"] = self.output(
            given["model_output"], given["sample"], given["timestep"]
        )
        if self._graph is None:
            return original(*call.args, **call.kwargs)
        given["model_output"] = given["model_output"].detach()
        given["sample"] = given["sample"].detach()
        with torch.no_grad():
            result = original(*call.args, **call.kwargs)
        return _with_sample(result, self._graph.hand(_sample(result), guided=self._next_guides()))

    def output(self, out: Tensor, x: Tensor, timestep: Any) -> Tensor:
        """What `step` is to be given in the place of the model output `out`; the step is counted.

        Called before the scheduler's own step, by whoever makes it.
        """
        timestep = one_timestep(timestep)
        level = self._level(timestep)
        if self._guides(level) and not self.paused:
            out = self._edited(out, x, timestep, level)
        self._position = self._position_of(timestep)
        self.seen.append(level.sigma_bar)
        self._covered += self._eligible(level)
        self._step += 1
        self._fresh = False
        return out

    def _edited(self, out: Tensor, x: Tensor, timestep: Any, level: NoiseLevel) -> Tensor:
        """The model output displaced, (B, C or 2C, ...); its second half (variance) as it was."""
        channels = x.shape[1]
        if out.shape not in (x.shape, (x.shape[0], 2 * channels, *x.shape[2:])):
            raise NotImplementedError(
                f"{type(self._scheduler).__name__} was given a model output of shape "
                f"{tuple(out.shape)} for a sample of {tuple(x.shape)}; no verified rule for that "
                "layout (see clipguide.register_scheduler)"
            )
        mean = out[:, :channels]
        rule = self._rule.parameterization(self._scheduler, level)
        x0, found = self._evaluated(rule, mean, x)
        self._record(timestep, level, found)
        if self._config.strength == 0:
            return out
        cfg = None if self._cfg is None else rule.b * self._cfg.displacement(mean.detach())
        delta = displacement(
            found.gradient,
            x0,
            level,
            strength=self._config.strength,
            mode=self._config.mode,
            normalize=self._config.normalize,
            damping=self._config.damping,
            cfg=cfg,
        )
        usable = found.usable.view(-1, *[1] * (mean.ndim - 1))
        edited = torch.where(usable, rule.displace(mean, delta), mean)
        return edited if mean is out else torch.cat([edited, out[:, channels:]], dim=1)

    def _evaluated(
        self, rule: Parameterization, out: Tensor, x: Tensor
    ) -> tuple[Tensor, Evaluation]:
        """x0 without graph, and its reward with the gradient the mode asks for."""
        climbs = self._config.strength > 0
        # nullcontext: inference mode cannot be left in mode xt, whose graph began outside
        leaving = nullcontext() if self._graph else torch.inference_mode(False)
        kept = weights_kept(self._decoder)
        with leaving, torch.set_grad_enabled(climbs), upcast(self._decoder), kept, self._frozen():
            if self._graph is None or not climbs:
                x0 = rule.x0(x.detach(), out.detach()).clone().requires_grad_(climbs)
                source = x0
            else:
                self._graph.check(x, out)
                x0, source = rule.x0(x, out), x
            found = evaluate(
                x0,
                source,
                lambda latents: self._decode(self._rule.finish(self._scheduler, latents)),
                self._reward,
                self._view_generators(x.shape[0]),
                differentiate=climbs,
            )
        return x0.detach(), found

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

    def _record(self, timestep: Any, level: NoiseLevel, found: Evaluation) -> None:
        norm = found.gradient.flatten(1).norm(dim=1)
        norm = torch.where(found.usable, norm, torch.full_like(norm, torch.nan))
        self.trace.steps.append(
            TraceStep(
                self._step,
                float(timestep),
                level.sigma_bar,
                found.score.float().cpu(),
                norm.float().cpu(),
            )
        )
        self.trace.skipped += [Skipped(self._step, i, who) for i, who in found.culprits.items()]

    def _view_generators(self, batch: int) -> list[torch.Generator]:
        if self._views is None or len(self._views) != batch:
            self._views = view_generators(self._call_generator, batch)
        return self._views

    # -------------------------------------------------------------------------------- when to guide

    def _level(self, timestep: Any) -> NoiseLevel:
        return self._rule.level(self._scheduler, timestep, step_index(self._scheduler, timestep))

    def _eligible(self, level: NoiseLevel) -> bool:
        """In the window, and where the formulas are finite (no sigma = 0, no alpha = 0 in xt)."""
        rule = self._rule.parameterization(self._scheduler, level)
        singular = not rule.invertible or (self._config.mode == "xt" and level.alpha == 0)
        return self._window.covers(level) and level.sigma > 0 and not singular

    def _guides(self, level: NoiseLevel) -> bool:
        return self._eligible(level) and self._window.guides(level, self._covered)

    def _position_of(self, timestep: Any) -> int | None:
        """Where the step is in `scheduler.timesteps`: after the last one, else the first match."""
        matches: Tensor = (self._scheduler.timesteps == timestep).nonzero().flatten()
        found = [int(index) for index in matches.tolist()]
        following = -1 if self._position is None else self._position + 1
        return following if following in found else next(iter(found), None)

    def _next_guides(self) -> bool:
        """Whether the step after this one is guided: only then does the denoiser need a graph."""
        timesteps = self._scheduler.timesteps
        index = getattr(self._scheduler, "step_index", None)
        if index is None:
            index = None if self._position is None else self._position + 1
        if index is None:
            return True  # unknown: a graph too many is only slower
        if index >= len(timesteps):
            return False
        return self._climbs_at(timesteps[index])

    def _first_is_guided(self, timestep: Any) -> bool:
        if timestep is not None:  # image-to-image pipelines tell where they begin
            return self._climbs_at(torch.as_tensor(timestep).flatten()[0])
        return not self._fresh or self._climbs_at(self._scheduler.timesteps[0])

    def _climbs_at(self, timestep: Any) -> bool:
        return self._config.strength > 0 and self._guides(self._level(timestep))


def _sample(result: Any) -> Tensor:
    sample: Tensor = result[0] if isinstance(result, tuple) else result.prev_sample
    return sample


def _with_sample(result: Any, sample: Tensor) -> Any:
    if isinstance(result, tuple):
        return (sample, *result[1:])
    result.prev_sample = sample
    return result
