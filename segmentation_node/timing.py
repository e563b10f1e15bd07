"""Where a frame's time goes: laps on the monotonic clock, exact percentiles over a window."""

import time
from collections import deque
from typing import Callable, Deque, Dict, Optional, Sequence

import numpy as np

STAGES = (
    "queue",
    "convert",
    "preprocess",
    "inference",
    "postprocess",
    "publish",
    "detections",
)
PERCENTILES = (50, 95, 99)


class StageTimer:
    """Adds up the time of a frame's stages; a lap lasts from the lap before it.

    ``clock`` gives seconds and never goes back; ``start_s`` is when the first lap began on it,
    by default now.
    """

    def __init__(
        self,
        start_s: Optional[float] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._last_s = clock() if start_s is None else start_s
        self.stages_ms: Dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap (or the start) under ``stage``."""
        now_s = self._clock()
        spent_ms = (now_s - self._last_s) * 1e3
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + spent_ms
        self._last_s = now_s


class RollingPercentiles:
    """Exact percentiles of the last ``window`` values, as ``numpy.percentile`` defines them."""

    def __init__(self, window: int = 500) -> None:
        self._values: Deque[float] = deque(maxlen=window)

    def add(self, value: float) -> None:
        """Take a value; NaN (not measurable) is left out."""
        if value == value:
            self._values.append(value)

    def percentiles(self, ranks: Sequence[int] = PERCENTILES) -> Dict[int, float]:
        """Value by rank in percent; NaN while there is no value."""
        if not self._values:
            return {rank: float("nan") for rank in ranks}
        values = np.percentile(np.asarray(self._values), ranks)
        return {rank: float(value) for rank, value in zip(ranks, values)}


class RateLimit:
    """Lets things through at most at a rate, and all of them where they come at that rate.

    One that comes up to half a period early is let through, and the next is due that much later.
    """

    def __init__(self) -> None:
        self._from_s = float("-inf")  # a period before the next is due

    def allows(self, now_s: float, max_rate_hz: float) -> bool:
        """Whether one may pass now, on a clock that never goes back; at 0 Hz all may."""
        if max_rate_hz <= 0:
            return True
        period_s = 1.0 / max_rate_hz
        due_s = self._from_s + period_s
        if now_s < due_s:
            return False
        self._from_s = max(due_s, now_s - 0.5 * period_s)
        return True
