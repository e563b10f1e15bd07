"""What became of every frame: counters that always add up, and latencies by stage."""

import threading
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from segmentation_node.camera_health import CameraHealth
from segmentation_node.model_health import ModelHealth
from segmentation_node.timing import RollingPercentiles

MOST_AT_ONCE = 1 << 31
"""Frames in one report; more is a number that went back, and as unsigned fits into no message."""


@dataclass(frozen=True)
class Counts:
    """Frames since activation: received = processed + dropped + failed + queued.

    ``dropped`` ones came to this machine and were given up before work on them began; ``queued``
    ones wait or are in work; ``lost`` ones never came. ``missed`` is the part of ``dropped`` and
    ``lost`` that is known from the sender's numbering alone.
    """

    received: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    queued: int = 0
    lost: int = 0
    missed: int = 0


class FrameCounters:
    """Counts each frame into exactly one fate; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        fates = ("received", "processed", "dropped", "failed", "lost", "missed")
        self._values = dict.fromkeys(fates, 0)

    def receive(self) -> None:
        """A frame came in; until it is booked elsewhere it is queued."""
        self._add("received", 1)

    def process(self) -> None:
        """A frame's results are out."""
        self._add("processed", 1)

    def drop(self) -> None:
        """A frame was given up before work on it began."""
        self._add("dropped", 1)

    def fail(self) -> None:
        """Work on a frame ended in an error."""
        self._add("failed", 1)

    def replace(self, frames: int) -> None:
        """Frames gave way to newer ones in the subscription's history: received and dropped.

        That, as ``miss``, is known from the sender's numbering alone.
        """
        with self._lock:
            for fate in ("received", "dropped", "missed"):
                self._values[fate] += frames

    def lose(self, frames: int) -> None:
        """Frames never came to the node."""
        self._add("lost", frames)

    def miss(self, frames: int) -> None:
        """Frames never came to the node, and nobody but the sender's numbering says so."""
        with self._lock:
            for fate in ("lost", "missed"):
                self._values[fate] += frames

    def reset(self) -> None:
        """Start from zero."""
        with self._lock:
            self._values = dict.fromkeys(self._values, 0)

    def snapshot(self) -> Counts:
        """All counters at one moment."""
        with self._lock:
            values = dict(self._values)
        done = values["processed"] + values["dropped"] + values["failed"]
        return Counts(queued=values["received"] - done, **values)

    def _add(self, fate: str, frames: int) -> None:
        with self._lock:
            self._values[fate] += frames


class SequenceGaps:
    """Frames that a sender numbered and that never came, though the middleware reported no loss.

    A frame does not tell whose it is: with several senders at once nothing is known. Safe to use
    from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sender: Any = None
        self._newest: Optional[int] = None
        self._fresh = 0  # gaps since the last ``settle``
        self._ripe = 0  # those of the time before: what was lost of them is reported by now
        self._missed = 0  # gaps less what was reported as lost; not told yet

    def come(self, number: Optional[int]) -> None:
        """A frame came with this number of its sender's; None: the middleware gives none."""
        with self._lock:
            if number is not None and self._newest is not None:
                gap = max(0, number - self._newest - 1)
                self._fresh += gap if gap < MOST_AT_ONCE else 0
            self._newest = number

    def lose(self, frames: int) -> None:
        """The middleware itself reported frames lost: they are gaps as well."""
        with self._lock:
            self._missed -= frames

    def settle(self, senders: Sequence[Any]) -> int:
        """Frames that were missed and not told yet; ``senders`` are those known now.

        Gaps count at the second call after them, when there was one sender all the time.
        """
        sender = senders[0] if len(senders) == 1 else None
        with self._lock:
            if sender is None or sender != self._sender:
                self._sender, self._newest = sender, None
                self._fresh = self._ripe = self._missed = 0
            self._missed += self._ripe
            self._ripe, self._fresh = self._fresh, 0
            missed = max(0, self._missed)
            self._missed -= missed
            return missed

    @property
    def known(self) -> bool:
        """Whether the numbers say anything."""
        with self._lock:
            return self._newest is not None


class LatencyStatistics:
    """Rolling percentiles by name, in ms; safe to use from several threads."""

    def __init__(self, window: int = 500) -> None:
        self._lock = threading.Lock()
        self._window = window
        self._values: Dict[str, RollingPercentiles] = {}

    def add(self, times_ms: Dict[str, float]) -> None:
        """Take one frame's times; NaN ones are left out."""
        with self._lock:
            for name, value_ms in times_ms.items():
                if name not in self._values:
                    self._values[name] = RollingPercentiles(self._window)
                self._values[name].add(value_ms)

    def clear(self) -> None:
        """Forget every frame."""
        with self._lock:
            self._values.clear()

    def percentiles(self) -> Dict[str, Dict[int, float]]:
        """Value by rank in percent, by name."""
        with self._lock:
            return {name: values.percentiles() for name, values in self._values.items()}


class RateMeter:
    """Frames per second over the last ``window`` looks at the counters.

    Safe to use from several threads: the list of looks is never changed, only replaced.
    """

    def __init__(self, window: int = 5) -> None:
        self._window = window
        self._looks: List[Tuple[float, Counts]] = []

    def look(self, now_s: float, counts: Counts) -> None:
        """Remember the counters at a time of a clock that never goes back."""
        self._looks = self._looks[-self._window :] + [(now_s, counts)]

    def clear(self) -> None:
        """Forget every look."""
        self._looks = []

    def rate_hz(self, fate: str) -> float:
        """Frames per second of this fate; NaN before the second look."""
        looks = self._looks
        if len(looks) < 2 or looks[-1][0] <= looks[0][0]:
            return float("nan")
        (first_s, first), (last_s, last) = looks[0], looks[-1]
        return (getattr(last, fate) - getattr(first, fate)) / (last_s - first_s)

    def recent(self, fate: str) -> int:
        """Frames of this fate since the look before the last."""
        looks = self._looks
        if len(looks) < 2:
            return 0
        return int(getattr(looks[-1][1], fate) - getattr(looks[-2][1], fate))


class Accounts:
    """The books of one session: counters, latencies, rates, and how camera and model fare."""

    def __init__(self) -> None:
        self.counters = FrameCounters()
        self.latencies = LatencyStatistics()
        self.rates = RateMeter()
        self.camera = CameraHealth()
        self.model = ModelHealth()

    def begin(self) -> None:
        """Frames are asked for from now on: what was measured before is forgotten."""
        self.latencies.clear()
        self.rates.clear()
        self.camera = CameraHealth()
        self.model = ModelHealth()
        self.look()

    def look(self) -> None:
        """Measure the rates up to now."""
        self.rates.look(time.monotonic(), self.counters.snapshot())
