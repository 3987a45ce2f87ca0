"""`guide`: any verified diffusers pipeline, climbing a reward while it samples."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from clipguide.attach.cfg import CfgTap
from clipguide.attach.decoders import AUTOENCODERS, find_decoder
from clipguide.attach.exact import ExactGraph, first_sample_seen, grad_mode_restored, refuse_offload
from clipguide.attach.hook import hooked
from clipguide.attach.layouts import DIRECT, Prepared, is_a, prepare_method, refuse
from clipguide.attach.preserve import Freeze, checkpointed, pipeline_modules, replaced
from clipguide.attach.recurrence import refuse_counting, refuse_multistep
from clipguide.attach.schedulers import scheduler_rule
from clipguide.attach.session import Session
from clipguide.attach.tilting import refuse_other_timesteps
from clipguide.attach.tiny_decoders import named_decoder
from clipguide.attach.view_generators import GeneratorArgument
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.trace import Trace
from clipguide.rewards.base import Reward, as_reward

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from typing_extensions import Unpack

    from clipguide.guidance.config import GuidanceSettings

    Decoder = AutoencoderKL | AutoencoderTiny | Callable[[Tensor], Tensor]


def guide(
    pipe: DiffusionPipeline,
    reward: Reward | Callable[[Tensor], Tensor],
    strength: float = 0.1,
    *,
    decoder: Decoder | str | None = None,
    decode_size: int | None = None,
    generator: GeneratorArgument = None,
    checkpoint: bool = False,
    config: GuidanceConfig | None = None,
    **settings: Unpack[GuidanceSettings],
) -> AbstractContextManager[Trace]:
    """Inside the context, every image `pipe` makes is steered towards a higher reward.

    The pipeline is called as always: prompts, negative prompts, schedulers, callbacks, output types
    work as they did. On exit everything is as it was before, to the bit, also after an exception.

    Args:
        pipe: a diffusers pipeline with a verified scheduler and autoencoder.
        reward: images (B, 3, H, W) in [0, 1] to (B,), differentiable, higher is better.
        strength: see `GuidanceConfig`.
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
    single = GuidanceConfig(strength, **settings)
    if config is not None and single != GuidanceConfig():
        raise ValueError("got config and single settings, expected one or the other")
    decoding = (decoder, decode_size)
    return _guided(pipe, as_reward(reward), config or single, decoding, generator, checkpoint)


@contextmanager
def _guided(
    pipe: Any,
    reward: Reward,
    config: GuidanceConfig,
    decoding: tuple[Any, int | None],
    generator: GeneratorArgument,
    checkpoint: bool,
) -> Generator[Trace]:
    refuse(pipe)
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError(f"got {type(pipe).__name__}, expected a pipeline with a scheduler")
    rule = scheduler_rule(scheduler)
    refuse_multistep(scheduler, config)
    arguments = [*inspect.signature(pipe.__call__).parameters] if callable(pipe) else []
    if config.recurrence:
        refuse_counting(arguments, type(pipe).__name__)
    refuse_other_timesteps(scheduler, config, arguments)
    prepared = Prepared()
    decoder, name = named_decoder(pipe, decoding[0])
    decode, module = find_decoder(pipe, decoder, prepared, decoding[1])
    modules = [*pipeline_modules(pipe), *([] if module is None else [module])]
    freeze = Freeze(modules)
    graph = ExactGraph(freeze) if config.mode == "xt" else None
    cfg = CfgTap() if config.normalize == "cfg" else None
    session = Session(
        scheduler, rule, config, reward, decode, module, freeze, generator, graph, cfg
    )
    session.trace.decoder = name
    with ExitStack() as stack:
        stack.enter_context(hooked(scheduler, session))
        stack.callback(freeze.thaw)
        if session.travel is not None:
            stack.callback(session.travel.uproot)
        if checkpoint:
            stack.enter_context(checkpointed(modules))
        if cfg is not None:
            stack.enter_context(cfg.on(_denoiser(pipe)))
        if graph is not None:
            _enter_exact(stack, pipe, graph, session)
        prepare = prepare_method(pipe)
        session.inline = prepare is None
        if prepare is not None:
            wrapped = _prepare_latents(pipe, getattr(pipe, prepare), scheduler, session, prepared)
            stack.enter_context(replaced(pipe, prepare, wrapped))
        yield session.trace
        check_used(pipe, scheduler, session)


def _enter_exact(stack: ExitStack, pipe: Any, graph: ExactGraph, session: Session) -> None:
    """Mode xt: gradient mode restored, and no graph in what the pipeline itself decodes."""
    refuse_offload(pipe)
    stack.enter_context(grad_mode_restored())
    stack.callback(graph.release)
    if prepare_method(pipe) is None:
        if not is_a(pipe, DIRECT):
            raise NotImplementedError(
                f"{type(pipe).__name__} has no prepare_latents, where mode='xt' starts; use "
                "mode='x0'"
            )
        stack.enter_context(first_sample_seen(_denoiser(pipe), session.sample_seen))
    for name in AUTOENCODERS:
        vae = getattr(pipe, name, None)
        if vae is not None:  # an interrupted loop reaches the final decode with a graph
            stack.enter_context(replaced(vae, "decode", torch.no_grad()(vae.decode)))


def _denoiser(pipe: Any) -> nn.Module:
    for name in ("unet", "transformer"):
        module = getattr(pipe, name, None)
        if module is not None:
            return cast(nn.Module, module)
    raise NotImplementedError(f"{type(pipe).__name__} has no unet or transformer to listen to")


def _prepare_latents(
    pipe: Any, original: Callable[..., Any], scheduler: Any, session: Session, prepared: Prepared
) -> Callable[..., Any]:
    """`pipe.prepare_latents` that tells the session the call's generator and first latents."""

    @functools.wraps(original)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        _check_scheduler(pipe, scheduler)
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        session.call_begins(given.get("generator"))
        result = original(*args, **kwargs)
        # inpainting: latents, noise, image latents; Flux: latents, ids
        latents, *beside = result if isinstance(result, tuple) else (result,)
        if latents.ndim < 3:  # the embedding that a prior denoises with its own scheduler
            return result
        prepared.arguments, prepared.beside = given, (*beside,)
        first = session.latents_prepared(latents, given.get("timestep"))
        return (first, *beside) if isinstance(result, tuple) else first

    return prepare_latents


def _check_scheduler(pipe: Any, scheduler: Any) -> None:
    if pipe.scheduler is not scheduler:
        raise RuntimeError(
            f"pipe.scheduler was replaced inside guide() ({type(scheduler).__name__} by "
            f"{type(pipe.scheduler).__name__}); set it before entering the context"
        )


def check_used(pipe: Any, scheduler: Any, session: Session) -> None:
    """A context that guided nothing is a mistake, and one that skipped samples says so."""
    _check_scheduler(pipe, scheduler)
    if session.travel is not None:
        session.travel.check()
    trace, seen = session.trace, session.seen
    if not seen:
        raise RuntimeError("no step was guided: the pipeline was not called inside guide()")
    if not trace.steps:
        raise RuntimeError(
            f"no step was guided: the window covers none of the {len(seen)} steps, whose sigma_bar "
            f"ran from {max(seen):.3f} to {min(seen):.3f}"
        )
    if trace.skipped:
        total = sum(step.score.numel() for step in trace.steps)
        warnings.warn(
            f"{len(trace.skipped)} of {total} image-steps were left unguided by non-finite values, "
            f"first seen in: {trace.skipped_by_component()}",
            RuntimeWarning,
            stacklevel=4,
        )
