"""A run of training that makes a captioner: photos as they are seen, steps, captions of dev."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipguide.batching import slices
from clipguide.clip.backbones import load_image
from clipguide.clip.loading import load_scorer
from clipguide.data.pairs import Pairs
from clipguide.files import atomic_path, write_json
from clipguide.language.captioner import Request
from clipguide.language.captioner_files import PREFIX, RECURRENT, save_captioner
from clipguide.language.clip_prefix import ClipPrefix, PrefixShape, small_language_model
from clipguide.language.decoder import Decoder
from clipguide.language.sight import BackboneSight, ClipSight, Sight
from clipguide.language.trained_captioner import TrainedCaptioner
from clipguide.language.vocabulary import PAD, Vocabulary
from clipguide.seeds import derive_generator
from clipguide.training.averaging import PREFIX as PARAMETERS
from clipguide.training.averaging import averaged, load_parameters
from clipguide.training.batches import BatchSettings, Sampler
from clipguide.training.caption_config import CaptionConfig, CaptionerSettings
from clipguide.training.caption_rows import look_of
from clipguide.training.epoch_means import EpochMeans
from clipguide.training.features import picture_rows
from clipguide.training.loop import LoopSettings, train
from clipguide.training.processes import Processes
from clipguide.training.run_files import HISTORY, RESULTS, flat_figures
from clipguide.training.training_run import OnEpoch, OnStep, Progress, TrainingRun, silent

Report = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], dict[str, float]]
"""(image -> caption, image -> references) -> figures, "cider" among them."""
BEST = "best.safetensors"
"""The decoder of the epoch whose captions of dev had the highest CIDEr."""
WRITINGS = {"greedy": Request(method="greedy"), "beam 3": Request(method="beam", beams=3)}
"""How the captions of the results are written."""
WORD_PENALTIES = (0.0, 0.3, 0.6, 0.9, 1.2)
"""In nats; of these that is kept whose captions of dev, by beams of 3, have the highest mean of
BLEU-1 to -4."""
_BLEUS = tuple(f"bleu_{n}" for n in range(1, 5))
_PART = 64  # photos that are captioned at once


class CaptionRun(TrainingRun[CaptionConfig]):
    """A run, ready to `train`.

    Args:
        config: see `CaptionConfig`.
        report: makes the figures of an epoch.
        note: receives what was left out of the data, a line each.
        progress: wraps batches that are computed once, with a description.

    Raises:
        ValueError: data, models or settings that cannot be used; several processes.
    """

    def __init__(
        self, config: CaptionConfig, report: Report, note: Callable[[str], None],
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        super().__init__(config, Processes(config.device, config.train.precision))
        if self.processes.count > 1:
            raise ValueError(f"got {self.processes.count} processes, expected one")
        self._report = report
        sight = _sight(config.captioner)
        sight.module.to(self.processes.device)
        self._read(sight, note, progress)
        pairs, _ = self._splits["train"]
        vocabulary = Vocabulary.of(pairs.captions, config.captioner.least)
        source = derive_generator(torch.Generator().manual_seed(config.train.seed), "weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.initial_seed())
            decoder = _decoder(config, sight.width, vocabulary.size)
        decoder.standardize_by(self._splits["train"][1][0])
        decoder.label_smoothing = config.train.label_smoothing
        self.decoder = decoder.to(self.processes.device)
        self.captioner = TrainedCaptioner(config.output, sight, vocabulary, decoder)
        self._targets = vocabulary.targets(pairs.captions, config.train.longest)
        settings = config.train
        self.sampler = Sampler(
            pairs,
            BatchSettings(
                settings.batch, settings.captions_per_image, settings.views, settings.seed
            ),
        )
        self._mode(training=True)

    def _read(self, sight: Sight, note: Callable[[str], None], progress: Progress) -> None:
        """The splits, and what is seen of their photos."""
        folder = self.config.cache_folder()
        self._splits: dict[str, tuple[Pairs, list[list[Tensor]]]] = {}  # rows by view
        for name, split in self.config.data.items():
            pairs = split.read(Path(self.config.root))
            for line in pairs.notes:
                note(line)
            sight.mirrored = self.config.captioner.mirrored and name != "train"
            look = look_of(sight, self.processes)
            views: list[list[Tensor]] = []
            kept: list[int] = []
            for view in range(self.config.train.views if name == "train" else 1):
                bar = _named(progress, f"photos of {name}, view {view + 1}")
                rows, kept, bad = picture_rows(look, pairs.pictures, folder, view, bar)
                for error in () if view else bad:
                    note(f"skipped {error}")
                views.append(rows)
            self._splits[name] = pairs.of(kept), views
        sight.mirrored = self.config.captioner.mirrored

    def _mode(self, *, training: bool) -> None:
        """A captioner freezes its decoder; a run trains it."""
        self.decoder.train(training)
        for name, value in self.decoder.named_parameters():
            frozen = isinstance(self.decoder, ClipPrefix) and self.decoder.shape.frozen
            value.requires_grad_(not (frozen and name.startswith("language_model.")))

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of a step; all of its randomness comes from `generator`."""
        drawn = self.sampler.draw(step, generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        _, views = self._splits["train"]
        chosen = zip(drawn.views.tolist(), drawn.images.tolist(), strict=True)
        seen = torch.stack([views[view][place] for view, place in chosen])
        if self.config.train.flip:
            seen = _mirrored(seen, torch.rand(len(seen), generator=generator) < 0.5)
        targets = self._targets[drawn.captions]  # (B, K, T)
        targets = targets[..., : int((targets != PAD).sum(dim=-1).max())]
        device = self.processes.device
        with torch.random.fork_rng(devices=[]), self.processes.encoding():
            torch.manual_seed(seed)  # of dropout
            return self.decoder.losses(
                seen.to(device).float(), targets.to(device), generator,
                last_tokens(targets, self.config.train.answer).to(device),
            )  # fmt: skip

    @torch.no_grad()
    def captions(self, split: str, request: Request) -> list[str]:
        """A caption of each photo of a split."""
        rows = self._splits[split][1][0]
        self.decoder.eval()
        found: list[str] = []
        for part in slices(len(rows), _PART):
            seen = torch.stack(rows[part]).to(self.processes.device)
            with self.processes.encoding():
                written = self.captioner.write_seen(seen, request)
            found += [several[0].text for several in written]
        self.decoder.train()
        return found

    def evaluate(self, split: str) -> dict[str, Any]:
        """The figures of a split, by how the captions are written."""
        return {name: self._figures(split, request) for name, request in WRITINGS.items()}

    def _figures(self, split: str, request: Request) -> dict[str, float]:
        pairs, _ = self._splits[split]
        texts = self.captions(split, request)
        names = [str(place) for place in range(len(texts))]
        return self._report(
            dict(zip(names, texts, strict=True)), dict(zip(names, pairs.by_image(), strict=True))
        )

    def _pairs(self) -> Iterable[Pairs]:
        return (pairs for pairs, _ in self._splits.values())

    def _train(self, history: dict[str, Any], on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        output, given = Path(self.config.output), self.config.train
        steps, started = given.epochs * self.sampler.steps, time.perf_counter()
        means = EpochMeans(["loss"])

        def after(step: int, average: Mapping[str, Tensor], losses: Mapping[str, float]) -> None:
            means.add({"loss": losses["loss"]})
            on_step(step, steps, losses["loss"])
            epoch, rest = divmod(step, self.sampler.steps)
            if rest:
                return
            figures: dict[str, Any] = means.take()
            if epoch % given.every == 0 or epoch == given.epochs:
                with averaged(self.decoder, average):
                    figures |= self._figures("dev", WRITINGS["greedy"])
                    if figures["cider"] > _best(history, before=epoch):
                        self._keep(output)
            history[str(epoch)] = figures
            write_json(output / HISTORY, history)
            on_epoch(epoch, figures)

        modules = {PARAMETERS.rstrip("."): self.decoder, "epoch": means}
        average = train(
            modules, self.loss, _loop(self.config, steps), output, lambda line: None,
            processes=self.processes, on_step=after,
        )  # fmt: skip
        load_parameters(self.decoder, average)
        self.decoder.load_state_dict(load_file(output / BEST))
        return self._finish(output, time.perf_counter() - started)

    def _keep(self, output: Path) -> None:
        weights = {n: v.detach().cpu().contiguous().clone() for n, v in self._state().items()}
        with atomic_path(output / BEST) as path:
            save_file(weights, path)

    def _state(self) -> dict[str, Tensor]:
        return self.decoder.state_dict()

    def _pick_word_penalty(self) -> None:
        found: dict[float, float] = {}
        for penalty in WORD_PENALTIES:
            self.captioner.word_penalty = penalty
            figures = self._figures("dev", WRITINGS["beam 3"])
            found[penalty] = sum(figures[name] for name in _BLEUS)
        self.captioner.word_penalty = max(found, key=found.__getitem__)

    def _finish(self, output: Path, seconds: float) -> dict[str, Any]:
        self._pick_word_penalty()
        results: dict[str, Any] = {"output": str(output), "seconds": round(seconds, 2)}
        results["word_penalty"] = self.captioner.word_penalty
        results |= self.final_figures()
        self._mode(training=False)
        figures = flat_figures({k: v for k, v in results.items() if k in ("dev", "test")})
        save_captioner(self.captioner, output, figures)
        write_json(output / RESULTS, results)
        return results


def _best(history: Mapping[str, Mapping[str, float]], before: int) -> float:
    """The highest CIDEr of the epochs before one; below any of them where there is none."""
    earlier = (figures for epoch, figures in history.items() if int(epoch) < before)
    return max((figures.get("cider", -1.0) for figures in earlier), default=-1.0)


def _sight(given: CaptionerSettings) -> Sight:
    if given.clip:
        return ClipSight(load_scorer(given.clip), given.view)
    model, preprocess = load_image(given.image)
    if given.size:
        square = given.size, given.size
        preprocess = replace(preprocess, size=square, crop=None, resize="squash")
    return BackboneSight(model, preprocess, given.levels)


def _decoder(config: CaptionConfig, width: int, vocabulary: int) -> Decoder:
    given = config.captioner
    if given.kind == PREFIX:
        language = small_language_model(vocabulary, given.hidden, given.layers, given.dropout)
        shape = PrefixShape(given.prefix, given.mapping, given.layers)
        return ClipPrefix(width, language, shape)
    decoder = RECURRENT[given.kind](width, vocabulary, given.hidden, given.dropout)
    decoder.cell.weight_drop = config.train.weight_drop
    if given.tie_words:
        decoder.tie_words()
    return decoder


def last_tokens(targets: Tensor, words: int) -> Tensor:
    """Which of the targets (..., T) are so many last words and the end; of 0 words all are."""
    real = targets != PAD
    behind = real.flip(-1).cumsum(-1).flip(-1)  # a token and those behind it
    return real & (behind <= words + 1) if words else real


def _mirrored(seen: Tensor, chosen: Tensor) -> Tensor:
    """(B, N, C) with the places of some mirrored from left to right; what is no grid stays."""
    side = int(seen.shape[1] ** 0.5)
    if side * side != seen.shape[1]:
        return seen
    grid = seen.unflatten(1, (side, side)).flip(2).flatten(1, 2)
    return torch.where(chosen[:, None, None], grid, seen)


def _loop(config: CaptionConfig, steps: int) -> LoopSettings:
    given = config.train
    return LoopSettings(
        steps=steps, learning_rate=given.learning_rate, warmup=given.warmup,
        weight_decay=given.weight_decay, max_grad_norm=given.max_grad_norm,
        ema_decay=given.ema_decay, seed=given.seed, log_every=10**9, save_every=given.save_every,
    )  # fmt: skip


def _named(bar: Progress, name: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    return lambda parts: bar(parts, name)
