"""Measuring what a model made: does an image show what its prompt asks for?"""

from __future__ import annotations

from clipguide.evaluation.scene_oracle import Answer, Verdict, judge
from clipguide.evaluation.scene_vision import Seen, see

__all__ = ["Answer", "Seen", "Verdict", "judge", "see"]
