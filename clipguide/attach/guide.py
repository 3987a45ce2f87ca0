"""`guide`: any verified diffusers pipeline, climbing a reward while it samples."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from clipguide.attach.denoisers import first_sample_seen, main_denoiser
from clipguide.attach.hook import hooked
from clipguide.attach.latent_reading import find_reading
from clipguide.attach.layouts import (
    Prepared,
    prepare_method,
    refuse,
    sampling_pipeline,
    scheduler_of,
)
from clipguide.attach.modes import Objective, check_reads, find_mode
from clipguide.attach.preparing import first_latents
from clipguide.attach.preserve import Freeze, checkpointed, pipeline_modules
from clipguide.attach.recurrence import refuse_counting, refuse_multistep
from clipguide.attach.schedule import Schedule
from clipguide.attach.session import Session
from clipguide.attach.tiny_decoders import named_decoder
from clipguide.attach.view_generators import GeneratorArgument
from clipguide.guidance.config import GuidanceConfig, guidance_for
from clipguide.guidance.trace import Trace
from clipguide.rewards.base import Reward, as_reward

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    Decoder = AutoencoderKL | AutoencoderTiny | Callable[[Tensor], Tensor]


def guide(
    pipe: DiffusionPipeline,
    reward: Reward | Callable[[Tensor], Tensor],
    strength: float | None = None,
    *,
    decoder: Decoder | str | None = None,
    decode_size: int | None = None,
    generator: GeneratorArgument = None,
    checkpoint: bool = False,
    config: GuidanceConfig | None = None,
    **settings: Any,
) -> AbstractContextManager[Trace]:
    """Inside the context, every image `pipe` makes is steered towards a higher reward.

    The pipeline is called as always: prompts, negative prompts, schedulers, callbacks, output types
    work as they did. On exit everything is as it was before, to the bit, also after an exception.

    Args:
        pipe: a diffusers pipeline with a verified scheduler and autoencoder.
        reward: images (B, 3, H, W) in [0, 1] to (B,), differentiable, higher is better; or one that
            reads noisy latents (a ClipReward or ContrastReward of a latent scorer, a LatentReward).
        strength: see `GuidanceConfig`. None: 0.1; for a reward that reads latents what its scorer
            was measured best at (see `guidance_for`).
        decoder: what turns latents into the images the reward sees, if not the pipeline's own
            autoencoder: an AutoencoderTiny for the same latents; its folder or hub id; "auto", the
            tiny autoencoder for this pipeline's latents that is in the hub's cache (nothing is
            downloaded; `trace.decoder` says which it is); or a function of latents, unpacked, to
            images in [0, 1], of any size.
        decode_size: decode to images whose shorter side is about this many pixels (the latents are
            resized first): the scorer's own input size is enough and costs a fraction. None: full.
        generator: random numbers of the reward's views; None takes the seeds of the pipeline call's
            `generator`. It is not advanced: guided and unguided images see the same noise.
        checkpoint: recompute activations in the backward pass: less memory, one forward more.
        config: all the settings in one value, in the place of strength and `settings`; see
            `clipguide.guidance.presets` for the published ones.
        settings: the other fields of `GuidanceConfig`: mode, normalize, damping, window, every,
            scale, target, smoothing..., refine..., recurrence... . A window is an interval of
            sigma_bar = sigma / sqrt(alpha² + sigma²) in [0, 1], 1 being pure noise.

    Yields:
        The trace: per guided step the step, timestep, noise level, score (B,), gradient norm (B,).

    Cost of a guided step over an unguided one: one decode and `views.count` CLIP images with their
    backward passes; in mode "xt" also the backward pass of the denoiser. Strength 0 decodes and
    scores only, and its images are bit-exactly the unguided ones.

    Raises:
        ValueError: a setting out of range; a reward that is not differentiable; no tiny decoder
            in the cache for "auto"; settings that need a single-step scheduler (recurrence,
            published targets) with another.
        NotImplementedError: no verified rule for the scheduler or the latents (the message names
            `register_scheduler` or `register_decoder`).
        RuntimeError: nested contexts on one scheduler; the scheduler replaced inside; no step
            guided by the time of exit; mode "xt" with offloading, in inference mode, or with
            latents that a callback detached.

    Warns:
        RuntimeWarning: at exit, if non-finite gradients left samples unguided (`trace.skipped`).

    Example:
        >>> with guide(pipe, ClipReward(scorer, "a red fox"), strength=0.1) as trace:
        ...     image = pipe("a red fox", generator=generator).images[0]
    """
    sampler, climbed = sampling_pipeline(pipe), as_reward(reward)
    given: dict[str, Any] = settings if strength is None else {"strength": strength, **settings}
    if config is not None and GuidanceConfig(**given) != GuidanceConfig():
        raise ValueError("got config and single settings, expected one or the other")
    chosen = config or guidance_for(climbed, **given)
    check_reads(chosen.mode, climbed)

    def open_on(prepared: Prepared) -> tuple[Objective, str]:
        if "images" not in climbed.reads:
            reading = find_reading(sampler, climbed, prepared)
            return Objective(climbed, reading, Freeze([]), chosen), ""
        found, name = named_decoder(sampler, decoder)
        reading = find_reading(sampler, climbed, prepared, found, decode_size)
        parts = [reading.decoder] if reading.decoder is not None else []
        freeze = Freeze([*pipeline_modules(sampler), *parts])
        return Objective(climbed, reading, freeze, chosen), name

    return _guided(sampler, open_on, generator, checkpoint)


@contextmanager
def _guided(
    pipe: Any,
    open_on: Callable[[Prepared], tuple[Objective, str]],
    generator: GeneratorArgument,
    checkpoint: bool,
) -> Generator[Trace]:
    refuse(pipe)
    scheduler = scheduler_of(pipe)
    schedule, prepared = Schedule(scheduler), Prepared()
    objective, decoder_name = open_on(prepared)
    _refuse_settings(pipe, objective.config)
    session = Session(schedule, objective, generator)
    session.trace.decoder = decoder_name
    session.inline = prepare_method(pipe) is None

    def begins(arguments: dict[str, Any]) -> None:
        _check_scheduler(pipe, scheduler)
        session.call_begins(arguments.get("generator"))

    def started(latents: Tensor, now: Prepared) -> Tensor:
        prepared.arguments, prepared.beside = now.arguments, now.beside
        return session.latents_prepared(latents, now.arguments.get("timestep"))

    with ExitStack() as stack:
        stack.enter_context(hooked(scheduler, session))
        stack.callback(objective.freeze.thaw)
        if session.loop is not None:
            stack.callback(session.loop.restore)
        if checkpoint:
            stack.enter_context(checkpointed(_in_graph(session)))
        _enter_mode(stack, pipe, session)
        stack.enter_context(first_latents(pipe, started, begins))
        yield session.trace
        check_used(pipe, scheduler, session)


def _in_graph(session: Session) -> list[nn.Module]:
    """The modules that the backward pass goes through."""
    objective = session.mode.objective
    if session.mode.graph_through_denoiser:
        return objective.freeze.modules
    decoder = objective.reading.decoder
    return [] if decoder is None else [decoder]


def _refuse_settings(pipe: Any, config: GuidanceConfig) -> None:
    """Raises where the settings do not work with this pipeline."""
    scheduler = pipe.scheduler
    refuse_multistep(scheduler, config)
    arguments = [*inspect.signature(pipe.__call__).parameters] if callable(pipe) else []
    if config.recurrence:
        refuse_counting(arguments, type(pipe).__name__)
    find_mode(config.mode).refuse(scheduler, config, arguments)


def _enter_mode(stack: ExitStack, pipe: Any, session: Session) -> None:
    """What the mode changes, and what it listens to."""
    session.mode.enter(stack, pipe)
    if session.mode.cfg is not None:
        stack.enter_context(session.mode.cfg.on(main_denoiser(pipe)))
    if session.inline and session.mode.graph_through_denoiser:
        stack.enter_context(first_sample_seen(main_denoiser(pipe), session.denoiser_called))


def _check_scheduler(pipe: Any, scheduler: Any) -> None:
    if pipe.scheduler is not scheduler:
        raise RuntimeError(
            f"pipe.scheduler was replaced inside guide() ({type(scheduler).__name__} by "
            f"{type(pipe.scheduler).__name__}); set it before entering the context"
        )


def _why_unguided(session: Session) -> str:
    """Why no step of those that were seen was guided."""
    seen, undefined = session.seen, session.undefined
    ran = f"sigma_bar ran from {max(seen):.3f} to {min(seen):.3f}"
    if not undefined:
        return (
            f"no step was guided: the window covers none of the {len(seen)} steps, whose {ran}; "
            "expected a window that covers some"
        )
    mode = session.mode.config.mode
    return (
        f"no step was guided: mode={mode!r} has no finite gradient at the levels of the window "
        f"that the {len(seen)} steps have ({', '.join(f'{level:.3f}' for level in undefined)}; "
        f"{ran}, 1 being pure noise and 0 none); expected more steps"
        + (", or mode='x0'" if mode == "xt" else "")
    )


def check_used(pipe: Any, scheduler: Any, session: Session) -> None:
    """`check_guided`, and raises where the scheduler or its loop is no longer what it was."""
    _check_scheduler(pipe, scheduler)
    if session.loop is not None:
        session.loop.check()
    check_guided(session)


def check_guided(session: Session) -> None:
    """Raises where no step was guided, and warns of samples that were left unguided."""
    trace, seen = session.trace, session.seen
    if not seen:
        raise RuntimeError(
            "no step was guided: the pipeline was not called inside guide(), or its loop does not "
            "call scheduler.step"
        )
    if not trace.steps:
        raise RuntimeError(_why_unguided(session))
    if trace.skipped:
        total = sum(step.score.numel() for step in trace.steps)
        warnings.warn(
            f"{len(trace.skipped)} of {total} image-steps were left unguided by non-finite values, "
            f"first seen in: {trace.skipped_by_component()}",
            RuntimeWarning,
            stacklevel=5,
        )
