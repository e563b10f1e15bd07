"""Timing things against each other: in turns, in one process, with the first runs not counted."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

UNCOUNTED_RUNS = 3
"""A run time that just took over from another finds cold caches and threads that still spin."""

LEAST_RUNS = 3
"""Counted runs of what takes longer than a block."""


def take_turns(
    runs: Mapping[Any, Callable[[], object]], rounds: int, runs_per_round: int
) -> dict[Any, list[float]]:
    """Times in ms of every entry, in blocks, so that a busy moment of the machine hits them all."""
    times_ms: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found = [timed_ms(run) for _ in range(UNCOUNTED_RUNS + runs_per_round)]
            times_ms[name] += found[UNCOUNTED_RUNS:]
    return times_ms


def take_timed_turns(
    runs: Mapping[Any, Callable[[], object]],
    rounds: int,
    block_s: float,
    least_runs: int = LEAST_RUNS,
) -> dict[Any, list[float]]:
    """As ``take_turns``, in blocks of ``block_s`` seconds: what is slow is run less often.

    A run longer than a block warms up what it needs by itself: only its first is not counted, and
    it takes part in ``least_runs`` rounds alone.
    """
    times_ms: dict[Any, list[float]] = {name: [] for name in runs}
    is_slow = {name: timed_ms(run) > block_s * 1e3 for name, run in runs.items()}
    for number in range(max(rounds, least_runs)):
        for name, run in runs.items():
            if is_slow[name]:
                if number < least_runs:
                    times_ms[name].append(timed_ms(run))
            elif number < rounds:
                times_ms[name] += _block_ms(run, block_s)
    return times_ms


def timed_ms(run: Callable[[], object]) -> float:
    """How long one call takes."""
    started_s = time.perf_counter()
    run()
    return (time.perf_counter() - started_s) * 1e3


def _block_ms(run: Callable[[], object], block_s: float) -> list[float]:
    for _ in range(UNCOUNTED_RUNS):
        run()
    found: list[float] = []
    while not found or sum(found) < block_s * 1e3:
        found.append(timed_ms(run))
    return found


def spread(times_ms: list[float]) -> dict[str, float]:
    """Number of runs, median, p95 and least of times in ms, under the names of the JSON."""
    return {
        "runs": len(times_ms),
        "median_ms": float(np.median(times_ms)),
        "p95_ms": float(np.quantile(times_ms, 0.95)),
        "least_ms": float(np.min(times_ms)),
    }
