"""One camera of a session: its images, its results, and what became of them."""

import threading
import time
from contextlib import ExitStack
from typing import Any, NamedTuple, Optional

from rclpy.lifecycle import LifecycleNode

from segmentation_node.accounting import Accounts
from segmentation_node.ros.conversions import RgbConverter
from segmentation_node.ros.input import ImageInput
from segmentation_node.ros.outputs import Outputs
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import FrameProcessor
from segmentation_node.ros.worker import Frame, FrameQueue


class Instant(NamedTuple):
    """One moment on the monotonic clock and on the node's."""

    monotonic_s: float
    ros_ns: int


class InputAge:
    """How long nothing has come; safe to use from several threads.

    On simulated time it is told in that, which stands still with a bag; else on the monotonic
    clock, since the system's may be set meanwhile.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> Instant:
        """It is zero now; when that is."""
        self._since = self._now()
        return self._since

    def seconds(self) -> float:
        """How long ago it was zero."""
        now, since = self._now(), self._since
        if not self._clock.ros_time_is_active:
            return now.monotonic_s - since.monotonic_s
        if not 0 < since.ros_ns <= now.ros_ns:  # the clock began, or went back
            self._since = since = now
        return (now.ros_ns - since.ros_ns) * 1e-9

    def _now(self) -> Instant:
        return Instant(time.monotonic(), self._clock.now().nanoseconds)


class Camera:
    """Takes images while somebody listens to its results. Made whole or not at all.

    First its outputs and books are there; ``connect`` gives it its input, once a queue takes its
    frames.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        parameters: NodeParameters,
        convert: RgbConverter,
        number: int,
        name: str,
    ) -> None:
        """``number`` is its place in the queue; without a ``name`` it is the node's only one."""
        self.number = number
        self.name = name
        self.frame_policy = settings.frame_policy
        self.transport = settings.transport
        self.geometry = settings.geometries[number]
        self.accounts = Accounts()
        self.demanded = False
        self._node = node
        self._settings = settings
        self._clock = node.get_clock()
        self._input_age = InputAge(self._clock)
        self._active = False
        # Transitions and the demand timer run on different threads and share the subscription.
        self._demand_lock = threading.RLock()
        with ExitStack() as made:
            self.outputs = Outputs(node, settings.frame_policy, name)
            made.callback(self.outputs.destroy)
            self.processor = FrameProcessor(
                convert, self.outputs, parameters, self.accounts, self._clock, node.get_logger()
            )
            self._made = made.pop_all()

    def connect(self, queue: FrameQueue) -> None:
        """Hand images over to this queue, from ``start`` on."""
        self._queue = queue
        # With a history of one image, what is missing was replaced in it; else it was overrun.
        counters = self.accounts.counters
        self.input = ImageInput(
            self._node,
            self._settings,
            self._on_image,
            counters.lose,
            self.name + "/image" if self.name else "image",
            own_thread=True,
            on_missed=counters.replace if self.frame_policy == "latest" else counters.miss,
        )

    @property
    def missed(self) -> Optional[int]:
        """Frames since activation that only their sender's numbers tell of; None: they do not."""
        missed = self.accounts.counters.snapshot().missed
        return missed if missed or self.input.knows_missed else None

    @property
    def input_age_s(self) -> float:
        """Time since the last image, or since images were first asked for."""
        return self._input_age.seconds()

    @property
    def backlog_s(self) -> float:
        """How long the oldest image has waited for its turn."""
        return self._queue.age_s(self.number, time.monotonic())

    def start(self) -> None:
        """Take images as soon as anybody listens."""
        self._active = True

    def give_confidence(self, is_given: bool, is_active: bool = False) -> None:
        """Have a topic for the confidence or not; ``is_active``: of the node. Between frames."""
        with self._demand_lock:
            self.outputs.give_confidence(is_given, is_active)

    def give_detections(self, is_given: bool, is_active: bool = False) -> None:
        """Have a topic for the boxes or not; ``is_active``: of the node. Between frames."""
        with self._demand_lock:
            self.outputs.give_detections(is_given, is_active)

    def follow(self) -> None:
        """Subscribe while anybody listens, with a QoS for the publishers."""
        with self._demand_lock:
            if not self._active:
                return
            demanded = self.outputs.wanted
            if demanded and not self.demanded:
                self._input_age.begin()
                self.accounts.begin()
            if demanded != self.demanded:
                self._queue.expect(self.number, demanded)
            self.demanded = demanded
            self.input.update(demanded)

    def stop(self) -> None:
        """Take no more images."""
        with self._demand_lock:
            self._active = self.demanded = False
            self._queue.expect(self.number, False)
            self.input.drop()

    def close(self) -> None:
        """Take the topics off the graph, after ``stop``."""
        self._made.close()

    def _on_image(self, message: Any) -> None:
        now = self._input_age.begin()
        self._queue.put(Frame(message, now.monotonic_s, now.ros_ns, self.number))
