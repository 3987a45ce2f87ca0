"""Who does the work of a run: engines by name, and one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clipguide.workers import Here, find_workers
from clipguide.workers.base import Job


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(find_workers(), Here)
    with pytest.raises(ValueError, match="got engine 'dask', expected one of here, ray"):
        find_workers("dask")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="got engine ray under accelerate launch"):
        find_workers("ray")


class Squares:
    """A job."""

    def open(self) -> Callable[[int], int]:
        return lambda item: item * item


def test_one_process_gives_results_as_they_come() -> None:
    job: Job[int, int] = Squares()
    assert [*Here().do(job, [1, 2, 3])] == [1, 4, 9]
    assert [*Here().do(job, [])] == []
