"""Timing things against each other: in turns, in one process, with the first runs not counted."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

UNCOUNTED_RUNS = 3
"""A run time that just took over from another finds cold caches and threads that still spin."""


def take_turns(
    runs: Mapping[Any, Callable[[], object]], rounds: int, runs_per_round: int
) -> dict[Any, list[float]]:
    """Times in ms of every entry, in blocks, so that a busy moment of the machine hits them all."""
    times_ms: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for index in range(UNCOUNTED_RUNS + runs_per_round):
                started_s = time.perf_counter()
                run()
                if index >= UNCOUNTED_RUNS:
                    times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    return times_ms


def spread(times_ms: list[float]) -> dict[str, float]:
    """Number of runs, median, p95 and least of times in ms, under the names of the JSON."""
    return {
        "runs": len(times_ms),
        "median_ms": float(np.median(times_ms)),
        "p95_ms": float(np.quantile(times_ms, 0.95)),
        "least_ms": float(np.min(times_ms)),
    }
