"""The ways to climb, one file each. Which there are: `clipguide.guidance.config.MODES`."""

from clipguide.attach.modes.base import (
    Edit,
    Mode,
    NextStep,
    Objective,
    StepContext,
    check_reads,
    find_mode,
)

__all__ = ["Edit", "Mode", "NextStep", "Objective", "StepContext", "check_reads", "find_mode"]
