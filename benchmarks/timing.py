"""Times of runs in turns, by rounds and by clocks, and of streams of messages."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    runs: Mapping[Any, Callable[[], object]], rounds: int, block_s: float
) -> dict[Any, list[float]]:
    """As ``take_turns``, in blocks of ``block_s`` seconds: what is slow is run less often.

    A run longer than a block warms up what it needs by itself: only its first is not counted, and
    it takes part in ``LEAST_RUNS`` rounds alone.
    """
    times_ms: dict[Any, list[float]] = {name: [] for name in runs}
    is_slow = {name: timed_ms(run) > block_s * 1e3 for name, run in runs.items()}
    for number in range(max(rounds, LEAST_RUNS)):
        for name, run in runs.items():
            if is_slow[name]:
                times_ms[name] += [timed_ms(run)] if number < LEAST_RUNS else []
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


STATISTICS: dict[str, Callable[[Any], Any]] = {
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
    "std_dev": np.std,
    "median": np.median,
    "p95": lambda values: np.quantile(values, 0.95),
}


def spread(times_ms: list[float]) -> dict[str, float]:
    """What single runs took."""
    return {
        "runs": len(times_ms),
        **{f"{kind}_ms": float(STATISTICS[kind](times_ms)) for kind in ("median", "p95")},
        "least_ms": min(times_ms),
    }


def wall_and_cpu_s(work: Callable[[], object]) -> tuple[float, float]:
    """How long a call takes, and the CPU time of all threads of this process meanwhile."""
    wall_s, process_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - process_s


def by_clock(
    keys: Sequence[str], rounds: Iterable[Sequence[Callable[[], object]]], count: int
) -> list[dict[str, Any]]:
    """A row for wall and one for CPU time of two works on ``count`` items, the whole and a part.

    A round runs one right after the other, and the ratio is the part's time over the whole's in
    one round. ``keys`` are of seconds an item; all are medians. The first round is not counted.
    """
    times_s = np.array([[wall_and_cpu_s(work) for work in works] for works in rounds][1:])
    each_s, ratios = np.median(times_s, axis=0) / count, times_s[:, 1] / times_s[:, 0]
    return [
        {
            "clock": clock,
            **dict(zip(keys, each_s[:, index].tolist(), strict=True)),
            "ratio": float(np.median(ratios[:, index])),
            "ratios": ratios[:, index].round(4).tolist(),
        }
        for index, clock in enumerate(("wall", "cpu"))
    ]


def in_rounds(
    measure: Callable[[str], dict[str, Any]], names: Sequence[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What ``measure`` gives of each name, by round, all of them in turns."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            print(f"round {number + 1}, {name} ...", flush=True)
            turns[name].append(measure(name))
    return turns


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By key, over the rounds."""
    return {key: float(np.median([turn[key] for turn in turns])) for key in turns[0]}


def ratios(
    own: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str
) -> list[float]:
    """Of the figures of the same round."""
    return [one[key] / another[key] for one, another in zip(own, other, strict=True)]


def frame_metrics(frames: Sequence[tuple[float, float]], sent: int) -> dict[str, Any]:
    """Of (sent_s, received_s) by frame in the order of receipt; ``sent`` counts the lost ones too.

    The duration is from the first receipt to the last, jitter how much an interval between receipts
    differs from the one before. What so few frames do not give is None: any latency without a
    frame, a frame rate without two, jitter without three.
    """
    received_ms = np.array([received_s for _, received_s in frames]) * 1e3
    latency_ms = np.array([received_s - sent_s for sent_s, received_s in frames]) * 1e3
    intervals_ms = np.diff(received_ms)
    duration_ms = float(intervals_ms.sum())
    return {
        "num_frames_sent": sent,
        "num_missed_frames": sent - len(frames),
        "received_duration_ms": duration_ms,
        "mean_frame_rate_fps": len(intervals_ms) / duration_ms * 1e3 if duration_ms else None,
        **_statistics("latency", latency_ms, "mean min max std_dev median p95"),
        **_statistics("jitter", np.abs(np.diff(intervals_ms)), "mean min max std_dev"),
    }


def _statistics(name: str, values_ms: np.ndarray, kinds: str) -> dict[str, float | None]:
    return {
        f"{kind}_{name}_ms": float(STATISTICS[kind](values_ms)) if len(values_ms) else None
        for kind in kinds.split()
    }
