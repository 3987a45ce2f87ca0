"""What guidance climbs and search ranks by."""

from clipguide.rewards.aesthetic import AestheticReward
from clipguide.rewards.base import FunctionReward, LatentReward, Reward, WeightedSum, as_reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.directional import DirectionalReward
from clipguide.rewards.parts import PartsReward
from clipguide.rewards.penalties import RangePenalty, SaturationPenalty, TotalVariationPenalty
from clipguide.rewards.preference import PreferenceReward
from clipguide.rewards.region import Region, RegionReward
from clipguide.rewards.scorer import ScorerReward
from clipguide.rewards.style import StyleReward
from clipguide.rewards.views import Views

__all__ = [
    "AestheticReward",
    "ClipReward",
    "ContrastReward",
    "DirectionalReward",
    "FunctionReward",
    "LatentReward",
    "PartsReward",
    "PreferenceReward",
    "RangePenalty",
    "Region",
    "RegionReward",
    "Reward",
    "SaturationPenalty",
    "ScorerReward",
    "StyleReward",
    "TotalVariationPenalty",
    "Views",
    "WeightedSum",
    "as_reward",
]
