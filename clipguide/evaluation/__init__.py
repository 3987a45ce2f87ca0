"""Measuring what a model made: does an image show what its prompt asks for?"""

from __future__ import annotations

from clipguide.evaluation.scene_oracle import Answer, Verdict, oracle_verdict
from clipguide.evaluation.scene_vision import DetectedObject, detect_objects

__all__ = ["Answer", "DetectedObject", "Verdict", "detect_objects", "oracle_verdict"]
