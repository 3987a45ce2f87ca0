"""METEOR by the COCO code itself, where that and Java are."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from clipguide.evaluation.ptb import ptb_tokens


def meteor(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float | None:
    """METEOR 1.5 of a set (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348), in [0, 1].

    None without Java, or without pycocoevalcap, whose program it runs.

    Args:
        candidates, references: as of `clipguide.evaluation.caption_metrics.caption_report`.
    """
    if shutil.which("java") is None:
        return None
    try:
        module: Any = importlib.import_module("pycocoevalcap.meteor.meteor")
    except ModuleNotFoundError:
        return None
    mine = {image: [" ".join(ptb_tokens(text))] for image, text in candidates.items()}
    theirs = {image: [" ".join(ptb_tokens(t)) for t in references[image]] for image in candidates}
    return float(module.Meteor().compute_score(theirs, mine)[0])
