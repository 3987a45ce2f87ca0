"""Prints what exact search costs beside faiss's IndexFlatIP, which adds in float32 and breaks no
ties.

    pip install faiss-cpu
    PYTHONPATH=. python tests/exact_search_report.py [THREADS] [REPEATS]

Both search the same rows of 512 float16 values (faiss has them as float32), in turns, in one
process: the median of the repetitions, CPU and wall seconds, and the median of the ratios. The
first cases are 1,000 queries of 200,000 rows; the others are one query (or 200) of 100,000 rows of
which many are equal or nearly so, and "plain" beside them is the same question of rows that are
not. "same ids" counts the hits that are faiss's, of those whose product is not within 1e-6 of
another row's.

faiss-cpu's wheels bring an OpenBLAS of 2021, which takes a processor newer than itself for one
without AVX and is four times slower there: `OPENBLAS_CORETYPE=SKYLAKEX` before the command.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipguide.retrieval.exact import Scored, search_rows

DIM, TOP_K = 512, 10


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def drawn(count: int, seed: int) -> Tensor:
    return unit(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)))


def replaced(rows: Tensor, first: Tensor) -> Tensor:
    """`rows`, the first of them others."""
    return torch.cat([first, rows[len(first) :]])


def near_cases(count: int = 100_000, equal: int = 20_000) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> rows, queries."""
    rows, query, batch = drawn(count, 0), drawn(1, 1), drawn(200, 2)
    close = unit(rows[:1] + 1e-4 * drawn(equal, 3))
    signs = drawn(count, 4).sign() / DIM**0.5
    around = unit(rows[:1] + 0.01 * batch)
    one_hot = torch.eye(DIM)[:1]
    tenth = rows[: count // 10]
    clusters = unit(tenth.repeat_interleave(10, dim=0) + 1e-4 * rows)
    large = unit(rows[:10].repeat_interleave(count // 10, dim=0) + 1e-4 * rows)
    return {
        "plain": (rows, query),
        "20,000 identical": (replaced(rows, rows[:1].expand(equal, -1)), rows[:1]),
        "20,000 nearly identical": (replaced(rows, close), rows[:1]),
        "all identical": (rows[:1].expand(count, -1), rows[:1]),
        "all nearly identical": (unit(rows[:1] + 1e-4 * rows), rows[:1]),
        "signs": (signs, signs[:1]),
        "signs, half of them tied": (signs, one_hot),
        "200 plain": (rows, batch),
        "200 at 20,000 identical": (replaced(rows, rows[:1].expand(equal, -1)), around),
        "200 at 20,000 nearly identical": (replaced(rows, close), around),
        "200 at clusters of 10": (clusters, unit(tenth[:200] + 0.01 * batch)),
        "200 at clusters of 10,000": (large, unit(rows[:10].repeat(20, 1) + 0.01 * batch)),
        "200, all identical": (rows[:1].expand(count, -1), around),
        "200, all nearly identical": (unit(rows[:1] + 1e-4 * rows), around),
        "200 of signs, half of them tied": (signs, torch.eye(DIM)[:200]),
    }


def clocked(call: Callable[[], Any]) -> tuple[float, float, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def same(ours: list[list[Scored]], theirs: Any) -> tuple[int, int]:
    """Hits with faiss's ids, and hits that no other row's product is near to."""
    products, ids = theirs[0].tolist(), theirs[1].tolist()
    equal = clear = 0
    for found, values, places in zip(ours, products, ids, strict=True):
        for rank in range(TOP_K - 1):  # the last may be tied with one that is not shown
            others = [values[other] for other in (rank - 1, rank + 1) if other >= 0]
            if all(abs(values[rank] - other) > 1e-6 for other in others):
                clear += 1
                equal += found[rank][1] == places[rank]
    return equal, clear


def compare(faiss: Any, rows: Tensor, queries: Tensor, repeats: int) -> str:
    half = rows.half().contiguous()
    index = faiss.IndexFlatIP(DIM)
    index.add(half.float().numpy())
    ids, asked = torch.arange(len(half)), queries.contiguous()
    equal = clear = 0
    times: list[tuple[float, ...]] = []
    for _ in range(repeats):
        *one, theirs = clocked(lambda: index.search(asked.numpy(), TOP_K))
        *two, ours = clocked(lambda: search_rows(half, ids, asked, TOP_K))
        times.append((*one, *two, two[0] / one[0], two[1] / one[1]))
        equal, clear = same(ours, theirs)
    median = [statistics.median(column) for column in zip(*times, strict=True)]
    return " | ".join([*(f"{value:.4f}" for value in median), f"{equal} of {clear}"])


def main() -> None:
    threads, repeats = (int(text) for text in (*sys.argv[1:], *("1", "5")[len(sys.argv) - 1 :]))
    faiss: Any = importlib.import_module("faiss")
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    print(f"threads {threads}, {repeats} repetitions, seconds")
    print("| case | faiss CPU | wall | ours CPU | wall | ratio CPU | wall | same ids |")
    print("|---|---|---|---|---|---|---|---|")
    rows, queries = drawn(200_000, 5), drawn(1000, 6)
    large = {
        "1,000 of 200,000": (rows, queries),
        "1,000 at 40,000 identical": (replaced(rows, queries[:1].expand(40_000, -1)), queries),
    }
    for name, (rows, queries) in (large | near_cases()).items():
        print(f"| {name} | {compare(faiss, rows, queries, repeats)} |", flush=True)


if __name__ == "__main__":
    main()
