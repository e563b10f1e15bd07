"""What the benchmarks of nodes share: a camera's messages, who plays them, what processes take."""

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from benchmarks.options import Size, street_images
from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.live.pairing import Collector
from segmentation_node.evaluation.live.target import (
    NodeProcess,
    joined_graph,
    prepare_middleware,
    spin_once,
)
from segmentation_node.ros.processor import stamp_nanoseconds

READY_TIMEOUT_S = 120.0
FRAME_TIMEOUT_S = 60.0
NEWEST_QOS = QoSProfile(depth=5)


def image_messages(size: Size, count: int = 8) -> list[Image]:
    """Images of the street as a camera publishes them, in bgr8."""
    messages = []
    for image_hwc in street_images(size, count):
        message = Image(encoding="bgr8", height=size[0], width=size[1], step=3 * size[1])
        message.header.frame_id = "camera"
        message.data.frombytes(image_hwc[..., ::-1].tobytes())
        messages.append(message)
    return messages


class Player(Collector):
    """Publishes images on topics in turn, and takes the class maps that come back of them.

    ``topics``: that of the class map by that of the images. ``Replay`` of ``evaluation.live`` plays
    into this package's node alone, one camera; it pairs class maps with latencies and labels.
    """

    def __init__(self, topics: dict[str, str], target: str, qos: QoSProfile = NEWEST_QOS) -> None:
        super().__init__("player_of_" + target.strip("/"), target)
        self._qos = qos
        self._images = [self.create_publisher(Image, topic, qos) for topic in topics]
        self._sent_s: dict[tuple[int, int], float] = {}
        self.frames: list[tuple[int, float, float]] = []
        """Camera, when the image was sent and when its class map came, of the last play."""
        for camera, topic in enumerate(topics.values()):
            self.listen(topic, partial(self._take, camera))

    def listen(self, topic: str, callback: Callable[[Any], None], kind: Any = Image) -> None:
        """Subscribe to what a node publishes."""
        self.create_subscription(kind, topic, callback, self._qos)

    def wait_until_ready(self, process: NodeProcess, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Spin until all images are taken. Raises ReplayError where they are not, or it ends."""
        super().wait_until_ready(process, timeout_s)

    def not_ready(self) -> str:
        """Which images nobody takes yet."""
        untaken = [item.topic_name for item in self._images if not item.get_subscription_count()]
        return f"nobody takes {', '.join(untaken)}" if untaken else ""

    def play_at(self, rate_hz: float, messages: Sequence[Image], duration_s: float) -> None:
        """Publish for so long, at this rate of each camera, whatever comes back."""
        self.frames.clear()
        started_s, period_s = time.monotonic(), 1.0 / (rate_hz * len(self._images))
        for number in range(round(duration_s / period_s)):
            self._spin_to(started_s + number * period_s)
            self._send(number, messages)
        self._spin_to(started_s + duration_s)

    def play_back_to_back(
        self, in_flight: int, messages: Sequence[Image], duration_s: float, least: int = 0
    ) -> int:
        """Publish for so long with so many images on their way at any time; gives their number."""
        self.frames.clear()
        ends_s, sent = time.monotonic() + duration_s, 0
        while sent < least or time.monotonic() < ends_s:
            self.wait_until(lambda: len(self._sent_s) < in_flight)
            self._send(sent, messages)
            sent += 1
        self.wait_until(lambda: not self._sent_s)
        return sent

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Spin. Raises ReplayError where it takes too long."""
        deadline_s = time.monotonic() + FRAME_TIMEOUT_S
        while not is_true():
            if time.monotonic() > deadline_s:
                raise ReplayError(f"{self.target} does not answer")
            spin_once(self._executor, FRAME_TIMEOUT_S)

    def _spin_to(self, time_s: float) -> None:
        while (left_s := time_s - time.monotonic()) > 0:
            spin_once(self._executor, left_s)

    def _send(self, number: int, messages: Sequence[Image]) -> None:
        message, camera = messages[number % len(messages)], number % len(self._images)
        message.header.stamp = self.get_clock().now().to_msg()
        self._sent_s[camera, stamp_nanoseconds(message.header.stamp)] = time.monotonic()
        self._images[camera].publish(message)

    def _take(self, camera: int, message: Image) -> None:
        sent_s = self._sent_s.pop((camera, stamp_nanoseconds(message.header.stamp)), None)
        if sent_s is not None:
            self.frames.append((camera, sent_s, time.monotonic()))


@contextmanager
def local_graph() -> Iterator[None]:
    """Take part in this machine's graph."""
    prepare_middleware()
    with joined_graph():
        yield


def quiet_node(parameters: dict[str, Any], remaps: Sequence[str] = (), **more: str) -> NodeProcess:
    """A node's process, whose log nobody reads."""
    return NodeProcess(parameters, remaps, subprocess.DEVNULL, **more)


def cpu_s(processes: Iterable[NodeProcess]) -> float:
    """CPU time of all their threads until now."""
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return float(sum(spent.user + spent.system for spent in times))


def memory_mb(processes: Iterable[NodeProcess]) -> float:
    """MiB that they hold; what several share counts once (PSS)."""
    return sum(psutil.Process(item.pid).memory_full_info().pss for item in processes) / 2**20
