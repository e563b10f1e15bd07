"""Play images into a running node and collect what it publishes, paired by stamp.

The one publisher and collector: the demo, live evaluation and the latency tests use it.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segmentation_msgs.msg import FrameLatency, LabelInfo
from segmentation_node.errors import SegmentationError
from segmentation_node.ros.frames import stamp_nanoseconds
from segmentation_node.ros.outputs import KeptImage, latched_qos

READY_TIMEOUT_S = 60.0
QUIET_S = 5.0
# The node may find the last of our subscriptions a little after we have found it.
SETTLE_S = 0.3


class ReplayError(SegmentationError):
    """A node that does not start, or frames that do not come back."""


@dataclass
class Result:
    """What came back for one image; ``None`` until it did, or where it was not asked for.

    ``index`` counts the images sent, from 0.
    """

    index: int
    stamp_ns: int
    frame_id: str
    image_hwc: np.ndarray
    class_map_hw: Optional[np.ndarray] = None
    overlay_hwc: Optional[np.ndarray] = None
    latency: Optional[FrameLatency] = None
    headers: List[Any] = field(default_factory=list)

    @property
    def headers_match(self) -> bool:
        """Whether every output carried the image's header, stamp and frame id alike."""
        return all(
            (stamp_nanoseconds(header.stamp), header.frame_id) == (self.stamp_ns, self.frame_id)
            for header in self.headers
        )


def keep_all_qos() -> QoSProfile:
    """Reliable and without loss."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


class NodeProcess:
    """The segmentation node as a process of its own, under ``with``."""

    def __init__(
        self, parameters: Dict[str, Any], remaps: Sequence[str] = (), log: Optional[Any] = None
    ) -> None:
        """``log`` takes what it prints, an open file; without one it goes to the terminal."""
        command = [sys.executable, "-m", "segmentation_node.ros.main", "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", "%s:=%s" % (name, text)]
        for remap in remaps:
            command += ["-r", remap]
        self.process = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def check(self) -> None:
        """Raise ReplayError when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ReplayError("the node ended with exit code %d; its log says why" % code)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ask it to end as Ctrl-C does and give its exit code; kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Replay(Node):
    """Publishes images for one segmentation node and collects its outputs.

    ``on_result`` gets each complete result, in the order of completion. Without ``on_result``
    the results stay in ``results``.
    """

    def __init__(
        self,
        target: str = "/segmentation_node",
        image_topic: str = "image",
        with_overlay: bool = True,
        on_result: Optional[Callable[[Result], None]] = None,
        name: str = "segmentation_replay",
    ) -> None:
        super().__init__(name)
        self.results: List[Result] = []
        self.label_info: Any = None
        self.diagnostics: List[Any] = []
        self.sent = 0
        self._with_overlay = with_overlay
        self._on_result = on_result or self.results.append
        self._pending: Dict[int, Result] = {}
        self._images = self.create_publisher(Image, image_topic, keep_all_qos())
        self._kept = KeptImage("rgb8", 3)
        self._target = target
        self._outputs = ["class_map", "latency"] + (["overlay"] if with_overlay else [])
        qos = keep_all_qos()
        self.create_subscription(Image, target + "/class_map", self._on_class_map, qos)
        if with_overlay:
            self.create_subscription(Image, target + "/overlay", self._on_overlay, qos)
        self.create_subscription(FrameLatency, target + "/latency", self._on_latency, qos)
        self.create_subscription(
            LabelInfo, target + "/label_info", self._on_label_info, latched_qos()
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    @property
    def in_flight(self) -> int:
        """Images sent whose results are not complete."""
        return len(self._pending)

    def wait_until_ready(self, process: NodeProcess, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Spin until the node has a model and takes images. Raises ReplayError otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while not self._is_ready():
            process.check()
            if time.monotonic() > deadline_s:
                raise ReplayError(
                    "%s did not subscribe to %s within %.0f s"
                    % (self._target, self._images.topic_name, timeout_s)
                )
            self.spin_for(0.05)
        self.spin_for(SETTLE_S)

    def play(
        self,
        images: Iterable[np.ndarray],
        process: NodeProcess,
        rate_hz: float = 0.0,
        in_flight: int = 4,
    ) -> None:
        """Publish RGB images and spin until their results are in.

        At most ``in_flight`` images are on their way; 0 sends regardless of what came back. A
        rate of 0 sends as fast as the node takes them. Raises ReplayError when the node ends.
        """
        next_s = time.monotonic()
        for image_hwc in images:
            while in_flight and self.in_flight >= in_flight and self._progresses(process):
                pass
            while time.monotonic() < next_s:
                self.spin_for(max(0.0, next_s - time.monotonic()))
            next_s = max(next_s, time.monotonic() - 1.0) + (1.0 / rate_hz if rate_hz else 0.0)
            self.send(image_hwc)
            self.spin_for(0.0)
        while self._pending and self._progresses(process):
            pass

    def send(self, image_hwc: np.ndarray, frame_id: str = "camera") -> int:
        """Publish one RGB image stamped now; gives the stamp in ns."""
        stamp_ns = self.get_clock().now().nanoseconds
        np.copyto(self._kept.resize(image_hwc.shape[:2]), image_hwc)
        header = self._kept.message.header
        header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        header.frame_id = frame_id
        self._pending[stamp_ns] = Result(self.sent, stamp_ns, frame_id, image_hwc)
        self._images.publish(self._kept.message)
        self.sent += 1
        return stamp_ns

    def spin_for(self, duration_s: float) -> None:
        """Handle what arrives for this long, or just what is there already."""
        deadline_s = time.monotonic() + duration_s
        while True:
            remaining_s = max(0.0, deadline_s - time.monotonic())
            self._executor.spin_once(timeout_sec=remaining_s)
            if remaining_s == 0.0:
                return

    def missing(self) -> List[int]:
        """Stamps in ns of the images whose results are not complete."""
        return sorted(self._pending)

    def _is_ready(self) -> bool:
        taken = self._images.get_subscription_count() > 0
        found = all(self.count_publishers("%s/%s" % (self._target, name)) for name in self._outputs)
        return self.label_info is not None and taken and found

    def _progresses(self, process: NodeProcess) -> bool:
        """Spin until a result completes; False when none did for a while."""
        before, deadline_s = self.in_flight, time.monotonic() + QUIET_S
        while self.in_flight == before and time.monotonic() < deadline_s:
            process.check()
            self._executor.spin_once(timeout_sec=0.1)
        return self.in_flight < before

    def _on_class_map(self, message: Image) -> None:
        result = self._find(message.header)
        if result is not None:
            result.class_map_hw = pixels(message)
            self._complete(result)

    def _on_overlay(self, message: Image) -> None:
        result = self._find(message.header)
        if result is not None:
            result.overlay_hwc = pixels(message)
            self._complete(result)

    def _on_latency(self, message: FrameLatency) -> None:
        result = self._find(message.header)
        if result is not None:
            result.latency = message
            self._complete(result)

    def _on_label_info(self, message: LabelInfo) -> None:
        self.label_info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        name = self._target.strip("/")
        self.diagnostics += [
            status for status in message.status if status.name.startswith(name + ":")
        ]

    def _find(self, header: Any) -> Optional[Result]:
        result = self._pending.get(stamp_nanoseconds(header.stamp))
        if result is not None:
            result.headers.append(header)
        return result

    def _complete(self, result: Result) -> None:
        whole = result.class_map_hw is not None and result.latency is not None
        if whole and (result.overlay_hwc is not None or not self._with_overlay):
            del self._pending[result.stamp_ns]
            self._on_result(result)


def pixels(message: Image) -> np.ndarray:
    """The pixels of a mono8 or rgb8 message of this package: uint8 (H, W) or (H, W, 3)."""
    channels = message.step // message.width
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, np.uint8).reshape(shape)
