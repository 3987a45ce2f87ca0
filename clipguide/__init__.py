"""Any diffusers pipeline, made to follow its prompt better by CLIP.

    scorer = clipguide.load_scorer("starter")
    pipe = clipguide.load_starter()
    reward = clipguide.ClipReward(scorer, "a red star left of a blue ring")
    with clipguide.guide(pipe, reward, strength=0.1) as trace:
        images = pipe("a red star left of a blue ring").images

Names are loaded on first use (PEP 562): importing clipguide imports neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipguide.attach.decoders import register_decoder
    from clipguide.attach.guide import guide
    from clipguide.attach.schedulers import register_scheduler
    from clipguide.attach.starter import load_starter
    from clipguide.clip.conventions import Score
    from clipguide.clip.loading import load_scorer
    from clipguide.clip.scorer import Scorer
    from clipguide.images import ImageError
    from clipguide.rerank import Ranked, rerank
    from clipguide.rewards.aesthetic import AestheticReward
    from clipguide.rewards.base import LatentReward, Reward
    from clipguide.rewards.clip import ClipReward
    from clipguide.rewards.contrast import ContrastReward
    from clipguide.rewards.directional import DirectionalReward
    from clipguide.rewards.parts import PartsReward
    from clipguide.rewards.preference import PreferenceReward
    from clipguide.rewards.region import RegionReward
    from clipguide.rewards.style import StyleReward
    from clipguide.search import Candidate, search
    from clipguide.zero_shot import classify, match

__version__ = "0.1.0"

__all__ = [
    "AestheticReward",
    "Candidate",
    "ClipReward",
    "ContrastReward",
    "DirectionalReward",
    "ImageError",
    "LatentReward",
    "PartsReward",
    "PreferenceReward",
    "Ranked",
    "RegionReward",
    "Reward",
    "Score",
    "Scorer",
    "StyleReward",
    "__version__",
    "classify",
    "guide",
    "load_scorer",
    "load_starter",
    "match",
    "register_decoder",
    "register_scheduler",
    "rerank",
    "search",
]

# public name -> the module that defines it
_EXPORTS = {
    "AestheticReward": "clipguide.rewards.aesthetic",
    "Candidate": "clipguide.search",
    "ClipReward": "clipguide.rewards.clip",
    "ContrastReward": "clipguide.rewards.contrast",
    "DirectionalReward": "clipguide.rewards.directional",
    "ImageError": "clipguide.images",
    "LatentReward": "clipguide.rewards.base",
    "PartsReward": "clipguide.rewards.parts",
    "PreferenceReward": "clipguide.rewards.preference",
    "Ranked": "clipguide.rerank",
    "RegionReward": "clipguide.rewards.region",
    "Reward": "clipguide.rewards.base",
    "Score": "clipguide.clip.conventions",
    "Scorer": "clipguide.clip.scorer",
    "StyleReward": "clipguide.rewards.style",
    "classify": "clipguide.zero_shot",
    "guide": "clipguide.attach.guide",
    "load_scorer": "clipguide.clip.loading",
    "load_starter": "clipguide.attach.starter",
    "match": "clipguide.zero_shot",
    "register_decoder": "clipguide.attach.decoders",
    "register_scheduler": "clipguide.attach.schedulers",
    "rerank": "clipguide.rerank",
    "search": "clipguide.search",
}


def __getattr__(name: str) -> object:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'clipguide' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallableModule(ModuleType):
    """`clipguide.search` and `clipguide.rerank`: the module, and the function of its name.

    Importing a submodule binds it on its package, in the place of the function. So the module is
    callable and stands for its function: `clipguide.search(...)`, `import clipguide.search` and
    `from clipguide.search import search` are one object, which has `METHODS` and all the rest.
    """

    __wrapped__: Callable[..., object]  # the function: `inspect.signature` follows it

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__wrapped__.__name__  # as every public function; `__spec__` has the full one

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.__wrapped__(*args, **kwargs)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        if name in _EXPORTS and type(value) is ModuleType:  # the import system binds a submodule
            value.__class__ = _CallableModule
            value.__dict__["__wrapped__"] = getattr(value, name)
            value.__dict__[name] = value
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
