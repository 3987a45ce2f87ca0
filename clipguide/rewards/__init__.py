"""What guidance climbs and search ranks by."""

from clipguide.rewards.base import FunctionReward, LatentReward, Reward, WeightedSum, as_reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.penalties import RangePenalty, SaturationPenalty, TotalVariationPenalty
from clipguide.rewards.views import Views

__all__ = [
    "ClipReward",
    "ContrastReward",
    "FunctionReward",
    "LatentReward",
    "RangePenalty",
    "Reward",
    "SaturationPenalty",
    "TotalVariationPenalty",
    "Views",
    "WeightedSum",
    "as_reward",
]
