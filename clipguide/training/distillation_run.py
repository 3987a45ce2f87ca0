"""A run of training that makes a latent scorer from a teacher's image tower."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clipguide.clip.latent_clip import LatentClip, LatentClipConfig
from clipguide.clip.latent_files import save_latent_clip
from clipguide.clip.latent_space import hashes_of
from clipguide.clip.latent_teacher import TeacherTower, TeacherTowerShape
from clipguide.clip.loading import load_scorer
from clipguide.clip.noise_level import NoiseScale
from clipguide.clip.teacher_tails import cut
from clipguide.data.pairs import Pairs
from clipguide.files import write_json
from clipguide.seeds import derive_generator
from clipguide.training.autoencoders import encode_images, load_autoencoder
from clipguide.training.distillation import Distillation, noised
from clipguide.training.distillation_config import DistillConfig
from clipguide.training.distillation_rows import (
    LatentEncoder,
    Notices,
    PhotoReader,
    Photos,
    latent_preprocess,
)
from clipguide.training.loop import LoopSettings, train
from clipguide.training.processes import Processes
from clipguide.training.run_files import HISTORY, RESULTS, flat_figures
from clipguide.training.training_run import OnEpoch, OnStep, Progress, TrainingRun, silent

Recall = Callable[[Tensor, Tensor, Tensor], float]
"""(images (N, D), texts (M, D), owners (M,)) -> R@10 of text to image, in percent."""
TOWER = "tower"
"""Folder of the second phase's checkpoint."""
_EVALUATED = 64  # latents encoded at once in an evaluation
_STATISTICS = 1000  # photos that the units of the features are taken from


class DistillationRun(TrainingRun[DistillConfig]):
    """A run, ready to `train`.

    Args:
        config: see `DistillConfig`.
        recall: makes the figure of an epoch.
        note: receives what was left out of the data, a line each.
        progress: wraps batches that are computed once, with a description.

    Raises:
        ValueError: data, teacher, autoencoder or settings that cannot be used; several processes.
    """

    def __init__(
        self, config: DistillConfig, recall: Recall, note: Callable[[str], None],
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        super().__init__(config, Processes(config.device, config.train.precision))
        self._recall = recall
        if self.processes.count > 1:
            raise ValueError(f"got {self.processes.count} processes, expected one")
        device = self.processes.device
        self.teacher = load_scorer(config.latent.teacher, device=device)
        self.autoencoder = load_autoencoder(config.latent.autoencoder).to(device)
        shown = latent_preprocess(self.teacher.preprocess, config.latent.image_size)
        with torch.no_grad():
            black = torch.zeros((1, 3, *shown.size), device=device)
            _, channels, cells, _ = encode_images(self.autoencoder, black).shape
        source = derive_generator(torch.Generator().manual_seed(config.train.seed), "weights")
        sizes = (config.latent.stem_width, config.latent.stem_blocks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.initial_seed())
            shape = TeacherTowerShape(channels, cells, *sizes)
            self.tower = TeacherTower.from_teacher(shape, self.teacher.model).to(device)
            self.scale = NoiseScale().to(device)
        encoder = LatentEncoder(shown, self.autoencoder, self.processes.encoding)
        self._read(encoder, Notices(note, progress))
        entry = self.splits["train"].features
        if entry is not None:
            self.tower.set_statistics(entry[0, :_STATISTICS].to(device))
        self.losses = Distillation(
            self.tower, self.scale, self.splits["train"], config.train, self.processes.encoding
        )

    def _read(self, latents: LatentEncoder, notices: Notices) -> None:
        found = cut(self.teacher.model, self.tower.shape.cells)
        folder, config = self.config.cache_folder(), self.config
        reader = PhotoReader(self.teacher, found, latents, folder, notices)
        self.splits: dict[str, Photos] = {
            name: reader(
                split.read(Path(config.root)),
                config.train.views if name == "train" else 1,
                name == "train",
            )
            for name, split in config.data.items()
        }

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """R@10 of text to image, in percent, at each of the levels; and the mean cosine with the
        teacher's embeddings of the clean photos. The noise is the same every time."""
        photos, figures = self.splits[split], dict[str, float]()
        for level in self.config.train.levels:
            source = torch.Generator().manual_seed(0)
            latents = photos.latents[0].float()
            sigma_bar = torch.full((len(latents),), level)
            noisy = noised(latents, sigma_bar, torch.randn(latents.shape, generator=source))
            vectors = self._vectors(noisy, sigma_bar)
            name = f"sigma_bar {level:g}"
            figures[f"R@10 {name}"] = self._recall(vectors, photos.texts, photos.owners)
            figures[f"cosine {name}"] = float((vectors * photos.vectors[0]).sum(dim=1).mean())
        return figures

    def _vectors(self, noisy: Tensor, sigma_bar: Tensor) -> Tensor:
        """(N, D) unit vectors on the CPU."""
        device, found = self.processes.device, list[Tensor]()
        for part, level in zip(noisy.split(_EVALUATED), sigma_bar.split(_EVALUATED), strict=True):
            with self.processes.encoding():
                rows = self.tower(part.to(device), level.to(device))
            found.append(functional.normalize(rows.float(), dim=-1).cpu())
        return torch.cat(found)

    def _train(self, history: dict[str, Any], on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        """The stem first, then the whole tower; the steps of both are counted together."""
        output, given = Path(self.config.output), self.config.train
        counts = (
            given.stem_epochs * self.losses.samplers[0].steps,
            given.epochs * self.losses.samplers[1].steps,
        )
        started = time.perf_counter()

        def after_stem(step: int, _average: Any, losses: Mapping[str, float]) -> None:
            on_step(step, sum(counts), losses["loss"])

        def after(step: int, _average: Any, losses: Mapping[str, float]) -> None:
            on_step(counts[0] + step, sum(counts), losses["loss"])
            epoch, rest = divmod(step, self.losses.samplers[1].steps)
            if not rest:
                history[str(epoch)] = {**losses, **self.evaluate("dev")}
                write_json(output / HISTORY, history)
                on_epoch(epoch, history[str(epoch)])

        self._phase((self.tower.level, self.tower.stem))
        train(
            {"tower": self.tower}, self.losses.stem_loss, self._loop(counts[0], given.stem_rate),
            output, lambda line: None, processes=self.processes, on_step=after_stem,
        )  # fmt: skip
        self._phase((self.tower, self.scale))
        train(
            {"tower": self.tower, "scale": self.scale}, self.losses.loss,
            self._loop(counts[1], given.learning_rate), output / TOWER, lambda line: None,
            rate_of=self._rate_of, processes=self.processes, on_step=after,
        )  # fmt: skip
        return self._finish(output, time.perf_counter() - started)

    def _pairs(self) -> Iterable[Pairs]:
        return (photos.pairs for photos in self.splits.values())

    def _phase(self, trained: tuple[torch.nn.Module, ...]) -> None:
        self.tower.requires_grad_(False)
        self.scale.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)

    def _rate_of(self, name: str) -> float:
        return 1.0 if name.startswith("tower.tail.") else self.config.train.new_rate

    def _loop(self, steps: int, rate: float) -> LoopSettings:
        given = self.config.train
        return LoopSettings(
            steps=steps, learning_rate=rate, warmup=given.warmup, weight_decay=given.weight_decay,
            max_grad_norm=given.max_grad_norm, seed=given.seed, log_every=10**9,
            save_every=given.save_every,
        )  # fmt: skip

    def _finish(self, output: Path, seconds: float) -> dict[str, Any]:
        results: dict[str, Any] = {"output": str(output), "seconds": round(seconds, 2)}
        results |= self.final_figures()
        latent, train_settings = self.config.latent, self.config.train
        made = {
            "photos": len(self.splits["train"].pairs.pictures), "image_size": latent.image_size,
            "epochs": [train_settings.stem_epochs, train_settings.epochs],
            "seed": train_settings.seed,
        }  # fmt: skip
        config = LatentClipConfig(
            teacher=_portable(latent.teacher), teacher_hash=self.teacher.content_hash,
            autoencoder={"name": latent.autoencoder, **hashes_of(self.autoencoder)},
            made=made,
            figures=flat_figures({k: v for k, v in results.items() if k in ("dev", "test")}),
            teacher_settings=self.teacher.settings_hash,
        )  # fmt: skip
        model = LatentClip(str(output), self.tower, self.scale, self.teacher, config)
        save_latent_clip(model.eval(), output)
        write_json(output / RESULTS, results)
        return results


def _portable(teacher: str) -> str:
    """A folder by its whole path, so that the scorer is found from everywhere."""
    place = Path(teacher).expanduser()
    return str(place.resolve()) if place.is_dir() else teacher
