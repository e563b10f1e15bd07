"""The node's diagnostics: what it knows about itself, once a second, judged and published."""

import threading
import time
from dataclasses import dataclass
from typing import Any, List, Tuple

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration

from segmentation_node.accounting import FrameCounters, LatencyStatistics, RateMeter
from segmentation_node.pipeline import Segmenter
from segmentation_node.ros import diagnostics
from segmentation_node.ros.input import ImageInput
from segmentation_node.ros.outputs import Outputs
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import FrameProcessor
from segmentation_node.ros.worker import FrameQueue, Worker


@dataclass(frozen=True)
class Loaded:
    """What exists from configure to cleanup."""

    settings: Settings
    segmenter: Segmenter
    backend_choice: str
    queue: FrameQueue
    worker: Worker
    outputs: Outputs
    input: ImageInput
    processor: FrameProcessor

    def identity(self) -> List[Tuple[str, str]]:
        """Which model runs on what, as keys and values."""
        backend = self.segmenter.backend
        return [
            ("model", self.segmenter.card.name),
            ("backend", backend.name),
            ("backend_choice", self.backend_choice),
            ("device", backend.device),
            ("precision", self.settings.options.precision),
            ("execution", backend.execution),
            ("frame_policy", self.settings.frame_policy),
        ]


class Reporter:
    """Publishes /diagnostics for a node whose ``state``, ``error`` and so on it reads."""

    def __init__(
        self,
        node: Any,
        parameters: NodeParameters,
        counters: FrameCounters,
        statistics: LatencyStatistics,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._counters = counters
        self._statistics = statistics
        self._rates = RateMeter()
        self._lock = threading.Lock()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def begin(self) -> None:
        """Frames are asked for from now on: what was measured before is forgotten."""
        with self._lock:
            self._statistics.clear()
            self._rates.clear()
            self._rates.look(time.monotonic(), self._counters.snapshot())

    def report(self) -> None:
        """Publish now."""
        with self._lock:
            if self._node.demanded:
                self._rates.look(time.monotonic(), self._counters.snapshot())
            verdict = diagnostics.judge(self._observe(), self._limits())
            pairs = [("state", self._node.state)]
            loaded = self._node.loaded
            if loaded is not None:
                pairs += loaded.identity()
            message = diagnostics.diagnostic_array(
                self._node.get_clock().now().to_msg(),
                "%s: segmentation" % self._node.get_fully_qualified_name().lstrip("/"),
                loaded.segmenter.backend.device if loaded is not None else "",
                verdict,
                pairs + self._figures(),
            )
        self._publisher.publish(message)

    def report_last(self, timeout_s: float) -> None:
        """Publish as soon as there is a subscriber, and wait until it has the message."""
        deadline_s = time.monotonic() + timeout_s
        while self._publisher.get_subscription_count() == 0 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        self.report()
        self._publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def _limits(self) -> diagnostics.Limits:
        return diagnostics.Limits(
            max_latency_ms=self._parameters["diagnostics.max_latency_ms"],
            min_rate_hz=self._parameters["diagnostics.min_rate_hz"],
            input_timeout_s=self._parameters["diagnostics.input_timeout_s"],
        )

    def _observe(self) -> diagnostics.Observation:
        node, loaded = self._node, self._node.loaded
        if loaded is None:
            return diagnostics.Observation(state=node.state, error=node.error)
        now_ns = node.get_clock().now().nanoseconds
        percentiles = self._statistics.percentiles()
        return diagnostics.Observation(
            state=node.state,
            error=node.error,
            demanded=node.demanded,
            topic=loaded.input.topic,
            publishers=loaded.input.publisher_count(),
            incompatible=loaded.input.incompatible_publishers(),
            clock_waits=now_ns == 0,
            counts=self._counters.snapshot(),
            input_age_s=(now_ns - node.input_since_ns) * 1e-9,
            recent_failed=self._rates.recent("failed"),
            recent_dropped=self._rates.recent("dropped"),
            recent_lost=self._rates.recent("lost"),
            last_failure=loaded.processor.last_failure,
            stamp_problem=loaded.processor.stamp_problem,
            output_rate_hz=self._rates.rate_hz("processed"),
            p95_ms=percentiles.get("processing", {}).get(95, float("nan")),
        )

    def _figures(self) -> List[Tuple[str, str]]:
        counts = self._counters.snapshot()
        if not self._node.demanded:
            return diagnostics.figures(counts, {"input": float("nan"), "output": float("nan")}, {})
        rates_hz = {
            "input": self._rates.rate_hz("received"),
            "output": self._rates.rate_hz("processed"),
        }
        return diagnostics.figures(counts, rates_hz, self._statistics.percentiles())
