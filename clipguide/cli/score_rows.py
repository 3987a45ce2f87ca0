"""The scores of a folder's images with their texts, a row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.cli.folder import Folder, read_part
from clipguide.workers import Here, Workers

if TYPE_CHECKING:
    from PIL import Image

    from clipguide.clip.conventions import Scale
    from clipguide.clip.named_scorer import ScorerName
    from clipguide.clip.scorer import Scorer

Row = dict[str, Any]


def score_folder(
    model: Scorer,
    folder: Folder,
    texts: dict[Path, list[str]],
    scale: Scale,
    workers: Workers | None = None,
) -> list[Row]:
    """A row for each text of each image that can be read."""
    from clipguide.clip.named_scorer import ScorerName

    named = {str(path): own for path, own in texts.items()}
    convention = scale.convention if model.convention == "cosine" else None
    job = ScoreJob(ScorerName.of(model), named, (convention, scale.prefix))
    parts = folder.shared(job, workers or Here())
    return [row for found in parts for row in found["rows"]]


@dataclass(frozen=True)
class ScoreJob:
    """Scores of the images of a part with their texts.

    Attributes:
        scorer: the model.
        texts: of each image, by its file's name.
        scale: name of the convention, and the prefix, of the numbers.
    """

    scorer: ScorerName
    texts: dict[str, list[str]]
    scale: tuple[str | None, str | None]

    def open(self) -> Callable[[list[str]], dict[str, Any]]:
        """Loads the model."""
        from clipguide.clip.conventions import scale_of

        model = self.scorer.load()
        scale = scale_of(model, *self.scale)

        def score(names: list[str]) -> dict[str, Any]:
            bad: list[dict[str, str]] = []
            parts = read_part(names, bad)
            rows = [row for some in parts for row in self._rows(model, some, scale)]
            return {"rows": rows, "bad": bad}

        return score

    def _rows(self, model: Scorer, some: list[tuple[str, Image.Image]], scale: Scale) -> list[Row]:
        import torch

        asked = [[scale.text(text) for text in self.texts[name]] for name, _ in some]
        with torch.no_grad():
            scores = model.score_each([image for _, image in some], asked)  # of each image (P,)
        return [
            {"image": name, "text": text, "value": value}
            | {"convention": scale.convention, "scorer": model.name}
            for (name, _), prompts, own in zip(some, asked, scores, strict=True)
            for text, value in zip(prompts, scale.of(own).tolist(), strict=True)
        ]
