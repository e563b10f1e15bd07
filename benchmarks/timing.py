"""Times of runs in turns, of work on a device, of streams of messages, and a process's CPU time."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

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


class Spread(TypedDict):
    """What single runs gave."""

    runs: int  # counted
    median_ms: float
    p95_ms: float
    least_ms: float


def spread(times_ms: list[float]) -> dict[str, float]:
    """A ``Spread`` of times in ms."""
    return {
        "runs": len(times_ms),
        "median_ms": float(np.median(times_ms)),
        "p95_ms": float(np.quantile(times_ms, 0.95)),
        "least_ms": float(np.min(times_ms)),
    }


def wall_and_cpu_s(work: Callable[[], object]) -> tuple[float, float]:
    """How long a call takes, and the CPU time of all threads of this process meanwhile."""
    wall_s, process_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - process_s


def by_clock(
    whole_key: str,
    whole: list[tuple[float, float]],
    part_key: str,
    part: list[tuple[float, float]],
    count: int,
) -> list[dict[str, Any]]:
    """A row for wall and CPU time of rounds, as ``wall_and_cpu_s`` gives them, of ``count`` items.

    Seconds an item are medians over the rounds; the ratio, the part's time over the whole's, is of
    what ran one right after the other.
    """
    rows = []
    for index, clock in enumerate(("wall", "cpu")):
        whole_s, part_s = ([times[index] for times in found] for found in (whole, part))
        ratios = [one / other for one, other in zip(part_s, whole_s, strict=True)]
        row = {whole_key: np.median(whole_s) / count, part_key: np.median(part_s) / count}
        row["ratio"] = np.median(ratios)
        figures = {key: float(value) for key, value in row.items()}
        rounded = [round(ratio, 4) for ratio in ratios]
        rows.append({"clock": clock, **figures, "ratios": rounded})
    return rows


def cpu_s(process: Any) -> float:
    """CPU time of all threads of a ``psutil.Process``."""
    times = process.cpu_times()
    return float(times.user + times.system)


class Stopwatch:
    """Marks go in between pieces of work; the times between them come out at the end.

    ``device`` is a torch.device. A CPU is timed by the host's clock. On a GPU a mark is an event of
    the current stream, so that nothing waits until the end.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """What was asked for before belongs to the last lap, what comes after to the next."""
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def laps_ms(self) -> list[float]:
        """Times between the marks so far, which are then forgotten. Waits for the device."""
        marks, self._marks = self._marks, []
        pairs = list(zip(marks[:-1], marks[1:], strict=True))
        if self._device.type != "cuda":
            return [(end - start) * 1e3 for start, end in pairs]
        import torch

        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) for start, end in pairs]


class FrameMetrics(TypedDict):
    """A stream of frames, under the names of NVIDIA's ros2_benchmark.

    Its ``BasicPerformanceMetrics.MEAN_FRAME_RATE`` is ``mean_frame_rate_fps``: small letters, the
    unit behind. Its rates are n frames over the duration, here it is the n - 1 intervals.
    """

    num_frames_sent: float
    num_missed_frames: float
    received_duration_ms: float  # first receipt to last
    mean_frame_rate_fps: float | None
    mean_latency_ms: float | None
    min_latency_ms: float | None
    max_latency_ms: float | None
    std_dev_latency_ms: float | None
    median_latency_ms: float | None
    p95_latency_ms: float | None
    mean_jitter_ms: float | None  # how much an interval between receipts differs from the last
    min_jitter_ms: float | None
    max_jitter_ms: float | None
    std_dev_jitter_ms: float | None


def frame_metrics(frames: Sequence[tuple[float, float]], sent: int) -> dict[str, Any]:
    """Of (sent_s, received_s) by frame in the order of receipt; ``sent`` counts the lost ones too.

    What so few frames do not give is None: any latency without a frame, a frame rate without two,
    jitter without three.
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
        **_statistics("latency", latency_ms),
        "median_latency_ms": _quantile(latency_ms, 0.5),
        "p95_latency_ms": _quantile(latency_ms, 0.95),
        **_statistics("jitter", np.abs(np.diff(intervals_ms))),
    }


def _statistics(name: str, values_ms: np.ndarray) -> dict[str, float | None]:
    methods = {"mean": "mean", "min": "min", "max": "max", "std_dev": "std"}
    return {
        f"{key}_{name}_ms": float(getattr(values_ms, method)()) if len(values_ms) else None
        for key, method in methods.items()
    }


def _quantile(values_ms: np.ndarray, share: float) -> float | None:
    return float(np.quantile(values_ms, share)) if len(values_ms) else None
