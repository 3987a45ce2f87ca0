"""All nodes of the pack."""

from __future__ import annotations

from comfy_api.latest import io

from .choosing import PickBest
from .guidance import GuideModel
from .pruning import PruneSeeds
from .records import SaveImages, TracePicture
from .regions import MakeRegion
from .rewards import AddRewards, MakeClipReward, MakeContrastReward, MakeLatentReward
from .rewards_of_parts import MakePartsReward
from .scoring import LoadScorer, ScoreImages

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadScorer,
    MakeClipReward,
    MakeContrastReward,
    MakeRegion,
    MakePartsReward,
    MakeLatentReward,
    AddRewards,
    GuideModel,
    ScoreImages,
    PickBest,
    PruneSeeds,
    SaveImages,
    TracePicture,
)
