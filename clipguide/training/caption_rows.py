"""What a captioner sees of the photos of a run, computed once and kept on disk."""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.language.sight import Sight
from clipguide.training.features import Look, Stage
from clipguide.training.processes import Processes


def look_of(sight: Sight, processes: Processes) -> Look:
    """How photos are shown to `sight`, in the precision of the run; rows are kept as float16."""

    def encode(pixels: Tensor) -> Tensor:
        with processes.encoding():
            return sight.encode(pixels)

    parts = {**sight.mark(), "precision": processes.precision}
    stage = Stage(encode, parts, torch.float16)
    return Look(stage, sight.preprocess, processes.device)
