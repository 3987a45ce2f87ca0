"""The error of what guidance and search do not do with a pipeline."""

from __future__ import annotations


class Unsupported(NotImplementedError, ValueError):
    """A pipeline, a scheduler or a setting of theirs that was not verified, or cannot be right.

    Its message says which and why. A NotImplementedError, since more may be added (a scheduler or a
    decoder can be registered), and a ValueError, since it is the argument that is refused.
    """
