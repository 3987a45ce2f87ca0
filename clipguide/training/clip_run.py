"""One training run of a CLIP: data, features, steps, an evaluation every epoch, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.losses import collapsed_value
from clipguide.data.hard_negatives import find_nouns, hard_negatives
from clipguide.data.pairs import Pairs
from clipguide.files import write_json
from clipguide.training.averaging import PREFIX, averaged, load_parameters
from clipguide.training.batches import BatchSettings, Rows, Sampler
from clipguide.training.collapse import CollapseGuard, patience_of
from clipguide.training.config import TrainConfig
from clipguide.training.epoch_means import EpochMeans
from clipguide.training.loop import DivergedError, LoopSettings, learning_rate_at, train
from clipguide.training.models import model_of
from clipguide.training.objectives import LOSSES, Embedded
from clipguide.training.processes import Processes
from clipguide.training.run_files import HISTORY, RESULTS, flat_figures
from clipguide.training.sources import Sources
from clipguide.training.tensorboard_logger import TensorBoardLogger
from clipguide.training.training_run import OnEpoch, OnStep, Progress, TrainingRun, silent
from clipguide.training.unfreeze import recompute, set_training, unfreeze

Evaluate = Callable[[Tensor, Tensor, Tensor], dict[str, Any]]
"""(images (N, D), texts (C, D), owners (C,)), unit vectors -> figures as JSON."""
_EVALUATED = 64  # images or texts that a live backbone encodes at once in an evaluation


class ClipRun(TrainingRun[TrainConfig]):
    """A run, ready to `train`.

    Args:
        config: see `TrainConfig`.
        evaluate: makes the figures of a split from its unit vectors.
        note: receives what was left out of the data, a line each.
        progress: wraps batches of features that are computed, with a description.

    Raises:
        ValueError: data, backbones or settings that cannot be used.
    """

    def __init__(
        self, config: TrainConfig, evaluate: Evaluate, note: Callable[[str], None],
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        super().__init__(config, Processes(config.device, config.train.precision))
        self._evaluate = evaluate
        main = self.processes.main
        self._logger = TensorBoardLogger(
            Path(config.output, "tensorboard") if config.tensorboard and main else None
        )
        self.model = model_of(config).to(self.processes.device)
        self._rate_of = unfreeze(self.model, config.train, self.processes.count)
        note = note if main else lambda line: None
        bar = progress if main else silent
        folder = config.cache_folder()
        with self.processes.first():
            self._read(Sources(self.model, config.train, folder, note, bar), note)
        if config.train.gradient_checkpointing:
            recompute(self.model)

    def _read(self, sources: Sources, note: Callable[[str], None]) -> None:
        """The splits, and the rows of their images and captions."""
        self._sources, config = sources, self.config
        self._splits: dict[str, tuple[Pairs, Rows, Rows]] = {}
        for name, split in config.data.items():
            pairs = split.read(Path(config.root))
            for line in pairs.notes:
                note(line)
            views = config.train.views if name == "train" else 1
            kept, images = sources.images(pairs, views)
            self._splits[name] = kept, images, sources.texts(kept.captions, "captions")
        pairs = self._splits["train"][0]
        wrong, self._wrong_rows = self._negatives(pairs)
        settings = config.train
        if len(pairs.pictures) == 1 and not settings.hard_negatives:
            raise ValueError("got 1 image in data.train, expected 2 or more to tell apart")
        self.sampler = Sampler(
            pairs,
            BatchSettings(
                settings.batch, settings.captions_per_image, settings.views, settings.seed
            ),
            wrong,
        )

    def _negatives(self, pairs: Pairs) -> tuple[Tensor | None, Rows | None]:
        """Places of each caption's wrong ones (C, w), -1 for none; and the rows of all of them."""
        count = self.config.train.hard_negatives
        if not count:
            return None, None
        nouns = find_nouns(pairs.captions)
        texts: list[str] = []
        places = torch.full((len(pairs.captions), count), -1)
        for column in range(count):
            for row, wrong in enumerate(hard_negatives(pairs.captions, nouns, seed=column)):
                if wrong is not None:
                    places[row, column] = len(texts)
                    texts.append(wrong[1])
        if not texts:
            raise ValueError("got no caption that a hard negative can be made of, expected some")
        return places, self._sources.texts(texts, "hard negatives")

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of a step; all of its randomness comes from `generator`."""
        drawn = self.sampler.draw(step, generator)
        _, images, texts = self._splits["train"]
        captions, count = drawn.captions.flatten(), drawn.captions.shape[1]
        dropout_seed = int(torch.randint(2**31, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dropout_seed + self.processes.rank)
            heads = self.model.image_head, self.model.text_head
            share = self.processes.share
            pictures = self._vectors(heads[0], images, len(drawn.images),
                                     share(drawn.images), share(drawn.views))  # fmt: skip
            own = share(drawn.captions).flatten()
            found = self._vectors(heads[1], texts, len(captions), own, torch.zeros_like(own))
            wrong = None
            if self._wrong_rows is not None and len(drawn.wrong):
                own = share(drawn.wrong)
                given = (self._wrong_rows, len(drawn.wrong), own, torch.zeros_like(own))
                wrong = self._vectors(heads[1], *given)
            owners = drawn.images.repeat_interleave(count) if count > 1 else None
            batch = Embedded(
                pictures.repeat_interleave(count, dim=0), found,
                None if owners is None else owners.to(found.device), wrong, self.config.train.chunk,
            )  # fmt: skip
            loss = LOSSES[self.config.train.loss](self.model, batch)
        negatives = 0 if wrong is None else len(wrong)
        collapsed = collapsed_value(self.config.train.loss, len(captions), negatives)
        return {"loss": loss, "collapsed": torch.tensor(collapsed)}

    def _vectors(
        self, head: nn.Module, rows: Rows, count: int, places: Tensor, views: Tensor
    ) -> Tensor:
        """What the head makes of the `count` rows of a batch; `places` are this process's."""
        with self.processes.encoding():
            vectors: Tensor = head(rows(places, views).to(self.model.device))
        return self.processes.gather(vectors.float(), count)

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, Any]:
        """The figures of a split with the parameters as they are."""
        pairs, images, texts = self._splits[split]
        self.model.eval()
        pictures = self._embedded(self.model.image_head, images, len(pairs.pictures))
        captions = self._embedded(self.model.text_head, texts, len(pairs.captions))
        set_training(self.model, self.config.train)
        return self._evaluate(pictures, captions, torch.tensor(pairs.owners))

    def _embedded(self, head: nn.Module, rows: Rows, count: int) -> Tensor:
        """(count, D) unit vectors of view 0, on the CPU; each process makes its share of them."""
        parts = self.processes.share(torch.arange(count)).split(_EVALUATED)
        found: list[Tensor] = []
        with self.processes.encoding():
            for places in parts:
                features = rows(places, torch.zeros_like(places)).to(self.model.device)
                found.append(functional.normalize(head(features).float(), dim=-1))
        return self.processes.gather(torch.cat(found), count).cpu()

    def _pairs(self) -> Iterable[Pairs]:
        return (pairs for pairs, _, _ in self._splits.values())

    def _train(self, history: dict[str, Any], on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        output, settings = Path(self.config.output), self.config.train
        steps = settings.epochs * self.sampler.steps
        loop = _loop_settings(self.config, steps)
        guard = CollapseGuard(patience_of(steps))
        means = EpochMeans(["loss", "collapsed"])
        spent = {"training": 0.0, "evaluation": 0.0}
        mark = time.perf_counter()

        def after(step: int, average: Mapping[str, Tensor], losses: Mapping[str, float]) -> None:
            nonlocal mark
            spent["training"] += time.perf_counter() - mark
            mark = time.perf_counter()
            means.add(losses)
            if self.processes.main:
                guard.near = int(means.near)
                guard.update(losses["loss"], losses["collapsed"])
                means.near.fill_(guard.near)
                on_step(step, steps, losses["loss"])
            if self._logger.on:
                rate, scale = learning_rate_at(step - 1, loop), self.model.logit_scale
                self._logger.step(step, {**losses, "rate": rate, "scale": scale})
            if step % self.sampler.steps == 0:
                epoch = step // self.sampler.steps
                with averaged(self.model, average):
                    figures = self.evaluate("dev")
                history[str(epoch)] = {**means.take(), **figures}
                if self.processes.main:
                    write_json(output / HISTORY, history)
                    on_epoch(epoch, history[str(epoch)])
                self._logger.epoch(step, figures)
            spent["evaluation"] += time.perf_counter() - mark
            mark = time.perf_counter()

        set_training(self.model, settings)
        try:
            average = train(
                {PREFIX.rstrip("."): self.model, "epoch": means}, self.loss, loop, output,
                lambda line: None, rate_of=lambda name: self._rate_of[name.removeprefix(PREFIX)],
                processes=self.processes, on_step=after,
            )  # fmt: skip
        except DivergedError as error:
            raise DivergedError(f"{output}: train.loss {settings.loss!r}: {error}") from error
        load_parameters(self.model, average)
        return self._finish(output, int(means.near) >= guard.patience, spent)

    def _finish(self, output: Path, collapsed: bool, spent: dict[str, float]) -> dict[str, Any]:
        results: dict[str, Any] = {
            "output": str(output), "loss": self.config.train.loss, "collapsed": collapsed,
            "seconds": {name: round(value, 2) for name, value in spent.items()},
        }  # fmt: skip
        results |= self.final_figures()
        self.model.eval()
        self._logger.close()
        if self.processes.main:
            self.model.save_pretrained(output, flat_figures(results))
            write_json(output / RESULTS, results)
        self.processes.wait()
        return results


def _loop_settings(config: TrainConfig, steps: int) -> LoopSettings:
    given = config.train
    return LoopSettings(
        steps=steps, learning_rate=given.learning_rate, warmup=given.warmup,
        weight_decay=given.weight_decay, max_grad_norm=given.max_grad_norm,
        ema_decay=given.ema_decay, seed=given.seed, log_every=10**9, save_every=given.save_every,
    )  # fmt: skip
