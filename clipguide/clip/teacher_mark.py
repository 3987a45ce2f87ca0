"""The scorer that another was taught by: found again by name, held against its hashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import same_settings


@dataclass(frozen=True)
class TeacherMark:
    """What a saved model says of its teacher.

    Attributes:
        name: for `load_scorer`; a folder that begins with a dot is beside the model's own files.
        weights: its `content_hash` in float32.
        settings: its `settings_hash`; empty where it is not known, and not compared.
    """

    name: str
    weights: str
    settings: str = ""

    @staticmethod
    def of(name: str, teacher: Scorer) -> TeacherMark:
        """Of a teacher that was loaded by `name`; a folder by its whole path, so that it is found
        from everywhere."""
        place = Path(name).expanduser()
        known = str(place.resolve()) if place.is_dir() else name
        return TeacherMark(known, teacher.content_hash, teacher.settings_hash)

    def load(self, folder: Path, load_teacher: Callable[[str], Scorer]) -> Scorer:
        """The teacher.

        Args:
            folder: of the model that it taught.
            load_teacher: `load_scorer`.

        Raises:
            ValueError: it cannot be loaded, reads no images, or is not the one that taught.
        """
        name = self.name
        teacher = load_teacher(str(folder / name) if name.startswith(".") else name)
        if teacher.reads != "images":
            raise ValueError(f"got teacher {name!r}, which reads {teacher.reads}, expected images")
        if teacher.content_hash != self.weights:
            got, expected = teacher.content_hash[:12], self.weights[:12]
            raise ValueError(f"got teacher {name!r} with weights {got}..., expected {expected}...")
        if not same_settings(teacher.settings_hash, self.settings):
            raise ValueError(
                f"got teacher {name!r} with settings or a tokenizer changed since, expected those "
                "it was trained with"
            )
        return teacher
