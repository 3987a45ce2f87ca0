"""Scores of a folder's images for `rerank`, found by workers and then looked up by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.cli.folder import Folder, read_part
from clipguide.workers import Workers

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.clip.named_scorer import ScorerName
    from clipguide.clip.scorer import Scorer

Asked = dict[str, list[str]]
"""The prompts of each image, by its file's name."""


class KnownVectors:
    """A CLIP whose vectors of some files are known; what `rerank` asks of a scorer.

    Args:
        scorer: the CLIP.
        vectors: of each file, by its name.
    """

    def __init__(self, scorer: Scorer, vectors: dict[str, list[float]]) -> None:
        self.name, self.convention = scorer.name, "cosine"
        self._scorer, self._vectors = scorer, vectors

    def encode_image(self, images: Any) -> Tensor:
        """(B, D).

        Raises:
            ValueError: a file that it was not asked about.
        """
        import torch

        return torch.tensor([_of(self._vectors, image) for image in images])

    def score(self, images: Any, prompts: str) -> Tensor:
        """(B,) cosines."""
        text = self._scorer.encode_text(prompts).cpu()
        return (self.encode_image(images) * text).sum(dim=-1)


class KnownScores:
    """A cross-encoder whose scores of some files with their prompts are known.

    Args:
        scorer: the cross-encoder.
        scores: of each file, by its name, the score of each of its prompts.
    """

    def __init__(self, scorer: Scorer, scores: dict[str, dict[str, float]]) -> None:
        self.name, self.convention, self._scores = scorer.name, scorer.convention, scores

    def score(self, images: Any, prompts: str) -> Tensor:
        """(B,); raises as `KnownVectors.encode_image`."""
        import torch

        return torch.tensor([_of(self._scores, image)[prompts] for image in images])


def _of(known: dict[str, Any], image: Any) -> Any:
    """What is known of a file. A cascade asks for another one only where one that it had chosen
    could not be read again."""
    try:
        return known[str(image)]
    except KeyError:
        raise ValueError("a file changed while it was ranked: rank once more") from None


Known = KnownVectors | KnownScores


@dataclass(frozen=True)
class VectorJob:
    """Unit vectors of the images of a part.

    Attributes:
        scorer: the CLIP.
        kept: a folder where they are kept from run to run; None: nowhere.
    """

    scorer: ScorerName
    kept: Path | None

    def open(self) -> Callable[[list[str]], dict[str, Any]]:
        """Loads the model."""
        from clipguide.clip.kept_vectors import KeptVectors
        from clipguide.images import ImageError

        vectors = KeptVectors(self.scorer.load(), self.kept)

        def encode(names: list[str]) -> dict[str, Any]:
            found: dict[str, list[float]] = {}
            bad: list[dict[str, str]] = []
            waiting = [names]
            while waiting:
                some = waiting.pop()
                try:
                    found |= zip(some, vectors.encode_image(some).tolist(), strict=True)
                except ImageError as error:
                    half = len(some) // 2
                    if half:  # which of them it is
                        waiting += [some[half:], some[:half]]
                    else:
                        bad.append({"image": some[0], "reason": error.reason})
            return {"vectors": found, "bad": bad}

        return encode


@dataclass(frozen=True)
class PairJob:
    """A cross-encoder's scores of the images of a part with their prompts."""

    scorer: ScorerName
    asked: Asked

    def open(self) -> Callable[[list[str]], dict[str, Any]]:
        """Loads the model."""
        model = self.scorer.load()

        def score(names: list[str]) -> dict[str, Any]:
            bad: list[dict[str, str]] = []
            found: dict[str, dict[str, float]] = {}
            for some in read_part(names, bad):
                texts = [self.asked[name] for name, _ in some]
                scores = model.score_each([image for _, image in some], texts)
                for (name, _), own, values in zip(some, texts, scores, strict=True):
                    found[name] = dict(zip(own, values.tolist(), strict=True))
            return {"scores": found, "bad": bad}

        return score


Narrow = Callable[[Asked, Known], Asked]
"""What the next scorer is asked, once one has answered."""


def all_asked(asked: Asked, _answered: Known) -> Asked:
    """Every scorer is asked everything."""
    return asked


@dataclass(frozen=True)
class Asking:
    """How scorers are asked about the images of a folder.

    Attributes:
        folder: the images.
        workers: who asks.
        kept: a folder where vectors are kept from run to run; None: nowhere.
        narrow: what the next scorer is asked, once one has answered: of a cascade less and less.
    """

    folder: Folder
    workers: Workers
    kept: Path | None = None
    narrow: Narrow = all_asked

    def answers(self, scorers: Iterable[Scorer], asked: Asked) -> list[Known]:
        """Each scorer with what it says of the images that it is asked about and can read."""
        found: list[Known] = []
        for scorer in scorers:
            found.append(self._answer(scorer, asked))
            bad = {entry["image"] for entry in self.folder.bad}
            asked = {name: prompts for name, prompts in asked.items() if name not in bad}
            asked = self.narrow(asked, found[-1])
        return found

    def _answer(self, scorer: Scorer, asked: Asked) -> Known:
        from clipguide.clip.named_scorer import ScorerName

        name, files = ScorerName.of(scorer), [*asked]
        if scorer.convention == "cosine":
            parts = self.folder.shared(VectorJob(name, self.kept), self.workers, files)
            vectors = {k: v for part in parts for k, v in part["vectors"].items()}
            return KnownVectors(scorer, vectors)
        parts = self.folder.shared(PairJob(name, asked), self.workers, files)
        scores = {k: v for part in parts for k, v in part["scores"].items()}
        return KnownScores(scorer, scores)
