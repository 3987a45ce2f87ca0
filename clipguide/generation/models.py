"""The models of a run, loaded once, each with the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from clipguide.attach.loading import load_decoder, load_pipeline
from clipguide.attach.picture_pipelines import from_picture
from clipguide.attach.samplers import find_sampler, set_sampler
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.weights import PIPELINE_HEADER, hash_weights
from clipguide.generation.pipeline_hash import hash_pipeline
from clipguide.generation.settings import Settings
from clipguide.generation.start import StartPictures, load_start, parse_edit
from clipguide.images import pixel_hash
from clipguide.rewards.named import Edit, LoadedReward, load_reward, need_files
from clipguide.search import find_method


@dataclass(frozen=True)
class Models:
    """A pipeline with its sampler set, the scorer that guides it, and one that only judges."""

    pipe: Any  # any diffusers pipeline
    scorer: Scorer
    judge: Scorer | None
    pipe_hash: str
    decoder: Any = None  # an AutoencoderTiny for previews; None: the pipeline's own autoencoder
    reward: LoadedReward | None = None  # what guides and chooses; None where nothing does
    preview: LoadedReward | None = None  # what chooses among previews; None: `reward`
    final: LoadedReward | None = None  # what chooses among finished pictures; None: `reward`
    start: StartPictures | None = None  # the pictures that a run starts from; None: noise

    @cached_property
    def picture_scorer(self) -> Scorer:
        """What scores the finished pictures: the guiding scorer, or its teacher if it reads
        latents."""
        return self.scorer.of_images if isinstance(self.scorer, LatentScorer) else self.scorer

    def identities(self, settings: Settings) -> dict[str, dict[str, str]]:
        """Role -> name and hashes of weights and settings, as written into every image."""
        pipe_class = type(self.pipe).__name__
        named = {"pipeline": _identity(settings.model, self.pipe_hash) | {"class": pipe_class}}
        named["scorer"] = _scorer(settings.scorer, self.scorer)
        if self.decoder is not None:
            digest = hash_weights(self.decoder, PIPELINE_HEADER)
            named["decoder"] = _identity(str(settings.decoder), digest)
        if self.judge is not None:
            named["judge"] = _scorer(self.judge.name, self.judge)
        if self.start is not None:
            pictures = {"init": self.start.image, "mask": self.start.mask}
            names = {"init": settings.start.image, "mask": settings.start.mask}
            named |= {
                role: _identity(str(names[role]), pixel_hash(picture))
                for role, picture in pictures.items()
                if picture is not None
            }
        for loaded in (self.reward, self.preview, self.final):
            named |= {} if loaded is None else loaded.identities
        return named


def load_models(settings: Settings) -> Models:
    """Loads what `settings` names. ValueError: an unknown model, scorer, sampler or device."""
    start = _need_all(settings)
    device = checked_device(settings.device)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    pipe: Any = load_pipeline(settings.model, device=device, dtype=dtype)
    pipe_hash = hash_pipeline(pipe)  # of the model as it came, whatever the sampler
    if settings.sampler is not None:
        set_sampler(pipe, settings.sampler)
    if start is not None:
        pipe = from_picture(pipe, mask=start.mask is not None)
    scorer = _load_guide(settings, device)
    load = partial(load_reward, scorer=scorer, edit=_edit(settings, start))
    return Models(
        pipe=pipe,
        scorer=scorer,
        judge=None if settings.judge is None else load_scorer(settings.judge, device=device),
        pipe_hash=pipe_hash,
        decoder=None if settings.decoder is None else load_decoder(settings.decoder, device=device),
        reward=load(settings.reward) if settings.guided else None,
        **{stage: load(text) for stage, text in settings.choosing.items()},
        start=start,
    )


def _need_all(settings: Settings) -> StartPictures | None:
    """The pictures to start from. A wrong name, or a file that is not there, is said before minutes
    of loading."""
    if settings.sampler is not None:
        find_sampler(settings.sampler)
    if settings.search is not None:
        find_method(settings.search)
    if settings.guided:
        need_files(settings.reward)
    for text in settings.choosing.values():
        need_files(text)
    return load_start(settings.start)


def _edit(settings: Settings, start: StartPictures | None) -> Edit | None:
    if settings.start.edit is None or start is None:
        return None
    return Edit(*parse_edit(settings.start.edit), start.image)


def _load_guide(settings: Settings, device: str) -> Scorer:
    scorer = load_scorer(settings.scorer, device=device)
    if isinstance(scorer, LatentScorer):
        scorer.any_autoencoder = settings.any_autoencoder
    elif settings.any_autoencoder:
        raise ValueError(
            f"got any_autoencoder (--force) with {scorer.name}, which reads images, expected a "
            "scorer of latents"
        )
    return scorer


def checked_device(name: str) -> str:
    """`name` when torch can compute there; ValueError says which devices there are.

    `auto` is the first there is of a CUDA device, Apple's MPS, the CPU.
    """
    present = available_devices()
    if name == "auto":
        return present[1] if len(present) > 1 else "cpu"
    if name.split(":")[0] not in present:
        raise ValueError(f"got device {name!r}, expected auto or one of {', '.join(present)}")
    _, colon, number = name.partition(":")
    count = torch.cuda.device_count() if name.startswith("cuda") else 1
    if colon and not (number.isdecimal() and int(number) < count):
        raise ValueError(f"got device {name!r}, expected a number below {count} after the colon")
    return name


def available_devices() -> list[str]:
    """The kinds of device torch can compute on here."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _identity(name: str, content_hash: str) -> dict[str, str]:
    return {"name": name, "sha256": content_hash}


def _scorer(name: str, scorer: Scorer) -> dict[str, str]:
    """With the hash of its settings, where they are known."""
    settings = {"settings_sha256": scorer.settings_hash} if scorer.settings_hash else {}
    return _identity(name, scorer.content_hash) | settings
