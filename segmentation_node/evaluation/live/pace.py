"""When to send what: at a rate, by recorded times, or at once; and the clock that goes with it."""

import time
from typing import Any, Optional

from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock

# A sender that fell behind does not catch up on more than this.
LAG_S = 1.0
TICK_S = 0.01


class Pace:
    """``rate_hz`` images per second, or recorded time times ``factor``; neither: no waiting."""

    def __init__(self, rate_hz: float = 0.0, factor: float = 0.0) -> None:
        self.rate_hz = rate_hz
        self.factor = factor
        self._start_s: Optional[float] = None
        self._start_ns: Optional[int] = None
        self._sent = 0

    def due_s(self, recorded_ns: Optional[int], is_image: bool = True) -> float:
        """When the next message has to go out, on the monotonic clock; a rate counts images."""
        now_s = time.monotonic()
        is_first_recorded = self._start_ns is None and recorded_ns is not None
        if self._start_s is None or is_first_recorded:
            self._start_s, self._start_ns = now_s, recorded_ns
        due_s = now_s
        if self.rate_hz and is_image:
            due_s = self._start_s + self._sent / self.rate_hz
        elif self.factor and recorded_ns is not None and self._start_ns is not None:
            due_s = self._start_s + (recorded_ns - self._start_ns) * 1e-9 / self.factor
        self._sent += is_image
        self._start_s += max(0.0, now_s - LAG_S - due_s)
        return due_s

    def position_ns(self) -> Optional[int]:
        """The recorded time that is due now; None where images are not sent by it."""
        if not self.factor or self._start_s is None or self._start_ns is None:
            return None
        return self._start_ns + int((time.monotonic() - self._start_s) * self.factor * 1e9)


class ClockPublisher:
    """Publishes recorded time on /clock, for nodes that run with ``use_sim_time``."""

    def __init__(self, node: Any) -> None:
        self._publisher = node.create_publisher(Clock, "/clock", 10)
        self._now_ns = 0

    def is_heard(self) -> bool:
        """Whether anybody subscribes to the clock."""
        return bool(self._publisher.get_subscription_count() > 0)

    def publish(self, now_ns: int) -> None:
        """It is this time, in ns; the clock never goes back."""
        now_ns = self._now_ns = max(now_ns, self._now_ns)
        self._publisher.publish(Clock(clock=time_message(now_ns)))


def time_message(time_ns: int) -> Time:
    """Nanoseconds as a builtin_interfaces/Time."""
    return Time(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
