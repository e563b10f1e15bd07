"""Figures by frame, and what follows from when results came out: rate and jitter."""

from array import array
from typing import Any, Dict, List, Optional

import numpy as np

from segmentation_node.timing import PERCENTILES

Percentiles = Dict[str, Optional[float]]


class FrameTable:
    """One row a frame and one column of float64 a figure; NaN where a frame lacks it."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self.stamps_ns: List[Optional[int]] = []
        self._columns: Dict[str, array] = {}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, stamp_ns: Optional[int], figures: Dict[str, float]) -> None:
        """Append a frame."""
        for key in figures:
            if key not in self._columns:
                self._columns[key] = array("d", [float("nan")] * len(self))
        for key, column in self._columns.items():
            column.append(figures.get(key, float("nan")))
        self.names.append(name)
        self.stamps_ns.append(stamp_ns)

    def column(self, key: str) -> np.ndarray:
        """A figure of every frame: float64 (frames,)."""
        if key not in self._columns:
            return np.full(len(self), np.nan)
        return np.array(self._columns[key])

    def rows(self) -> List[Dict[str, Any]]:
        """A dict a frame: name, stamp_ns and the figures that any frame has; None for NaN."""
        columns = [[None if x != x else x for x in values] for values in self._columns.values()]
        return [
            dict(zip(["name", "stamp_ns", *self._columns], row))
            for row in zip(self.names, self.stamps_ns, *columns)
        ]


def percentiles(values: np.ndarray) -> Percentiles:
    """p50, p95 and p99 of what is not NaN, as ``numpy.percentile``; None without a value."""
    names = ["p%d" % rank for rank in PERCENTILES]
    found = values[~np.isnan(values)]
    if not found.size:
        return dict.fromkeys(names)
    return dict(zip(names, np.percentile(found, PERCENTILES).tolist()))


def pace(done_s: np.ndarray) -> Dict[str, Any]:
    """Rate and jitter of results that came out at these seconds, in order: float64 (frames,).

    An interval lies between one result and the next. ``rate_hz`` is intervals per second.
    ``jitter_ms`` holds the standard deviation of the intervals (``std``), and percentiles of how
    much an interval differs from the one before it. None where there are too few results.
    """
    intervals_ms = np.diff(done_s) * 1e3
    steps_ms = np.abs(np.diff(intervals_ms))
    span_s = float(intervals_ms.sum()) / 1e3
    jitter_ms: Percentiles = {"std": float(intervals_ms.std()) if intervals_ms.size else None}
    jitter_ms.update(percentiles(steps_ms))
    return {
        "rate_hz": len(intervals_ms) / span_s if span_s > 0.0 else None,
        "interval_ms": percentiles(intervals_ms),
        "jitter_ms": jitter_ms,
    }
