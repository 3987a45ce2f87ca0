"""A run of training that teaches a text encoder the space of a CLIP, from pairs of texts.

Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual using Knowledge
Distillation (https://arxiv.org/abs/2004.09813), Eq. 1: the student's vectors of a source and of
its translation are both brought to the teacher's vector of the source; as Multilingual-CLIP does
with CLIP's text tower (Carlsson et al. 2022). The vectors are of unit length, as CLIP compares
them, so a squared error is twice one less the cosine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipguide.batching import batches
from clipguide.clip.backbones import load_text
from clipguide.clip.language_clip import LanguageTower
from clipguide.clip.language_files import save_language_clip
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.teacher_mark import TeacherMark
from clipguide.data.text_pairs import TextPairs
from clipguide.files import write_json
from clipguide.seeds import derive_generator
from clipguide.training.averaging import PREFIX, load_parameters
from clipguide.training.distillation_rows import teacher_texts
from clipguide.training.epoch_means import EpochMeans
from clipguide.training.language_config import LanguageConfig
from clipguide.training.loop import LoopSettings, train
from clipguide.training.processes import Processes
from clipguide.training.run_files import HISTORY, RESULTS, flat_figures
from clipguide.training.training_run import OnEpoch, OnStep, Progress, TrainingRun, silent

_PART = 64  # texts that are encoded at once in an evaluation


@dataclass(frozen=True)
class TaughtPairs:
    """Pairs of texts, and the teacher's vectors (N, D) of the sources."""

    texts: TextPairs
    vectors: Tensor


class LanguageRun(TrainingRun[LanguageConfig]):
    """A run, ready to `train`.

    Args:
        config: see `LanguageConfig`.
        progress: wraps batches that are computed once, with a description.

    Raises:
        ValueError: data, models or settings that cannot be used; a teacher that reads no images;
            several processes.
    """

    def __init__(self, config: LanguageConfig, progress: Progress = silent) -> None:
        super().__init__(config, Processes(config.device, config.train.precision))
        if self.processes.count > 1:
            raise ValueError(f"got {self.processes.count} processes, expected one")
        given, device = config.language, self.processes.device
        teacher = load_scorer(given.teacher, device=device)
        if teacher.reads != "images":
            reads = f"which reads {teacher.reads}"
            raise ValueError(f"got teacher {given.teacher!r}, {reads}, expected images")
        self.teacher = TeacherMark.of(given.teacher, teacher)
        self._read(teacher, progress)
        text, tokenizer = load_text(given.text)
        source = derive_generator(torch.Generator().manual_seed(config.train.seed), "weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.initial_seed())
            settings = given.settings()
            tower = LanguageTower(text, tokenizer, teacher.embed_dim, settings, given.text)
        self.tower = tower.to(device).train()

    def _read(self, teacher: Scorer, progress: Progress) -> None:
        folder = self.config.cache_folder()
        self._splits: dict[str, TaughtPairs] = {}
        for name, split in self.config.data.items():
            texts = split.read_texts(Path(self.config.root))
            what = f"sources of {name}"
            vectors = teacher_texts(
                teacher, texts.sources, folder, lambda parts, what=what: progress(parts, what)
            )
            self._splits[name] = TaughtPairs(texts, vectors.float())

    @property
    def steps_of_epoch(self) -> int:
        """Steps that take every pair once; what is left of a batch is in the next epoch's draw."""
        return max(1, len(self._splits["train"].texts.sources) // self.config.train.batch)

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The squared errors of a step; all of its randomness comes from `generator`."""
        pairs, size = self._splits["train"], self.config.train.batch
        epoch, place = divmod(step, self.steps_of_epoch)
        root = torch.Generator().manual_seed(self.config.train.seed)
        order = torch.randperm(
            len(pairs.vectors), generator=derive_generator(root, f"order {epoch}")
        )
        chosen: list[int] = order[place * size : (place + 1) * size].tolist()
        seed = int(torch.randint(2**31, (1,), generator=generator))
        wanted = pairs.vectors[chosen].to(self.processes.device)
        parts: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]), self.processes.encoding():
            torch.manual_seed(seed)  # of dropout
            for name in ("sources", "translations"):
                texts: tuple[str, ...] = getattr(pairs.texts, name)
                found = self.tower(**self.tower.tokenize([texts[place] for place in chosen]))
                parts[name] = (found.float() - wanted).square().sum(dim=1).mean()
        return {"loss": parts["sources"] + parts["translations"], **parts}

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Mean cosines with the teacher's vectors of the sources, and of how many translations the
        nearest source is their own, in percent (of a source that stands there twice, either)."""
        pairs = self._splits[split]
        self.tower.eval()
        sources, translations = (
            self._vectors(texts) for texts in (pairs.texts.sources, pairs.texts.translations)
        )
        self.tower.train()
        nearest: list[int] = (translations @ pairs.vectors.T).argmax(dim=1).tolist()
        own = pairs.texts.sources
        right = [own[found] == own[place] for place, found in enumerate(nearest)]
        return {
            "cosine source": float((sources * pairs.vectors).sum(dim=1).mean()),
            "cosine translation": float((translations * pairs.vectors).sum(dim=1).mean()),
            "found %": 100 * sum(right) / len(right),
        }

    def _vectors(self, texts: tuple[str, ...]) -> Tensor:
        """(N, D) on the CPU."""
        found: list[Tensor] = []
        for part in batches(texts, _PART):
            with self.processes.encoding():
                found.append(self.tower(**self.tower.tokenize(part)).float().cpu())
        return torch.cat(found)

    def _fingerprint(self) -> str:
        texts = [vars(pairs.texts) for pairs in self._splits.values()]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def _train(self, history: dict[str, Any], on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        output, given = Path(self.config.output), self.config.train
        steps, started = given.epochs * self.steps_of_epoch, time.perf_counter()
        means = EpochMeans(["loss"])

        def after(step: int, _average: Any, losses: Mapping[str, float]) -> None:
            means.add({"loss": losses["loss"]})
            on_step(step, steps, losses["loss"])
            epoch, rest = divmod(step, self.steps_of_epoch)
            if not rest:
                history[str(epoch)] = {**means.take(), **self.evaluate("dev")}
                write_json(output / HISTORY, history)
                on_epoch(epoch, history[str(epoch)])

        average = train(
            {PREFIX.rstrip("."): self.tower, "epoch": means}, self.loss, self._loop(steps), output,
            lambda line: None, rate_of=self._rate_of, processes=self.processes, on_step=after,
        )  # fmt: skip
        load_parameters(self.tower, average)
        return self._finish(output, time.perf_counter() - started)

    def _rate_of(self, name: str) -> float:
        head = name.startswith(f"{PREFIX}head.")
        return self.config.train.head_rate if head else 1.0

    def _loop(self, steps: int) -> LoopSettings:
        given = self.config.train
        return LoopSettings(
            steps=steps, learning_rate=given.learning_rate, warmup=given.warmup,
            weight_decay=given.weight_decay, max_grad_norm=given.max_grad_norm,
            ema_decay=given.ema_decay, seed=given.seed, log_every=10**9,
            save_every=given.save_every,
        )  # fmt: skip

    def _finish(self, output: Path, seconds: float) -> dict[str, Any]:
        results: dict[str, Any] = {"output": str(output), "seconds": round(seconds, 2)}
        results |= self.final_figures()
        figures = flat_figures({k: v for k, v in results.items() if k in ("dev", "test")})
        save_language_clip(self.tower, self.teacher, output, figures)
        write_json(output / RESULTS, results)
        return results
