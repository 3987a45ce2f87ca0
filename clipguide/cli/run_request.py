"""What a run is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipguide.batching import batches
from clipguide.cli.mistakes import Mistake
from clipguide.generation.sampling import method_of
from clipguide.generation.settings import Settings
from clipguide.search.prune import Prune
from clipguide.search.svdd import SoftValueDecoding
from clipguide.seeds import image_seeds
from clipguide.texts import check_text


@dataclass(frozen=True)
class SeedPlan:
    """The seeds of a run's pictures: `first`, and on from there; `num` pictures of each prompt.

    With `same` every prompt begins with `first` again, so that prompts differ in nothing else.
    """

    first: int
    num: int = 1
    same: bool = False

    def __post_init__(self) -> None:
        if self.num < 1:
            raise Mistake(f"got --num {self.num}, expected 1 or more")

    def of(self, prompts: int, each: int) -> list[list[int]]:
        """`each` seeds for each of so many prompts."""
        if self.same:
            return [image_seeds(self.first, each) for _ in range(prompts)]
        return batches(image_seeds(self.first, prompts * each), each)


@dataclass(frozen=True)
class RunRequest:
    """What is to be made, and where it goes."""

    prompts: Sequence[str]
    seeds: SeedPlan
    out: Path
    compare: bool = False
    metadata: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        if any(not prompt.strip() for prompt in self.prompts):
            raise Mistake("got an empty prompt, expected some text")
        for prompt in self.prompts:
            check_text(prompt, "prompt")
        if self.resume and not self.metadata:
            raise Mistake("--resume knows a picture by its metadata: leave out --no-metadata")

    @property
    def pictures(self) -> int:
        """How many are asked for."""
        return self.seeds.num * len(self.prompts)

    @property
    def files(self) -> int:
        """Rows of each picture: its own, and its baseline's."""
        return 1 + self.compare


def check_request(settings: Settings, request: RunRequest) -> None:
    """Mistake where the settings cannot give what is asked for."""
    num, budget = request.seeds.num, settings.budget
    if request.compare and not settings.guided:
        raise Mistake(
            "--compare shows guided beside unguided: give a --strength above 0 or a --search"
        )
    if settings.search is None:
        return
    finished, why = budget, f"with --budget {budget}"
    method = method_of(settings)
    if isinstance(method, SoftValueDecoding):
        each = method.duplicates
        finished, why = budget // each, f"but --search svdd spends --budget {budget} in {each}s"
    if isinstance(method, Prune) and settings.steps is not None:
        # a sampler makes as many calls as steps, or about twice as many
        calls = (settings.steps, 2 * settings.steps - 1, 2 * settings.steps)
        plans = [
            method.plan(budget, total, noise_aware=aware)
            for total in calls
            for aware in (False, True)  # whichever the scorer, not loaded yet, is
        ]
        finished = max(plan.finished for plan in plans)
        why = (
            f"but --search prune with --budget {budget} and --steps {settings.steps} "
            f"finishes {finished} at most"
        )
    if finished < num:
        raise Mistake(f"got --num {num} {why}: raise the budget")
