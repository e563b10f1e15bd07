"""Frame rate, latency and jitter of a stream of messages, under the names of ros2_benchmark.

NVIDIA's ros2_benchmark reports ``BasicPerformanceMetrics.MEAN_FRAME_RATE`` and the like in fps and
ms. The keys here are those names in small letters with the unit behind; ``benchmarks/README.md``
says what is defined differently.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
