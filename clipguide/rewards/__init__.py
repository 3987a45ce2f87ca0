"""What guidance climbs and search ranks by."""

from clipguide.rewards.base import FunctionReward, LatentReward, Reward, WeightedSum, as_reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.parts import PartsReward
from clipguide.rewards.penalties import RangePenalty, SaturationPenalty, TotalVariationPenalty
from clipguide.rewards.region import Region, RegionReward
from clipguide.rewards.views import Views

__all__ = [
    "ClipReward",
    "ContrastReward",
    "FunctionReward",
    "LatentReward",
    "PartsReward",
    "RangePenalty",
    "Region",
    "RegionReward",
    "Reward",
    "SaturationPenalty",
    "TotalVariationPenalty",
    "Views",
    "WeightedSum",
    "as_reward",
]
