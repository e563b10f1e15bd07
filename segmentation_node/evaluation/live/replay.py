"""Play images into a running node and collect what it publishes, paired by stamp.

The one publisher and collector: the demo, live evaluation and the latency tests use it.
"""

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple, Union

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.live.graph import image_inputs, message_class
from segmentation_node.evaluation.live.node_status import NodeStatus
from segmentation_node.evaluation.live.pace import TICK_S, ClockPublisher, Pace, time_message
from segmentation_node.evaluation.live.pairing import Pairing, Result, keep_all_qos
from segmentation_node.evaluation.live.target import LONGEST_TURN_S, spin_once
from segmentation_node.ros.outputs import KeptImage, latched_qos

READY_TIMEOUT_S = 60.0
QUIET_S = 5.0
# The node may find the last of our subscriptions a little after we have found it.
SETTLE_S = 0.3


@dataclass
class PlayedImage:
    """An RGB image, sent as rgb8 and stamped then, or a recorded one.

    Of a recorded one ``message`` is serialized and sent as it is, ``stamp_ns`` and ``frame_id``
    are its header's, and ``recorded_ns`` is when it was recorded. ``payload`` comes back in its
    result.
    """

    image_hwc: Optional[np.ndarray]
    payload: Any = None
    message: Optional[bytes] = None
    stamp_ns: int = 0
    frame_id: str = "camera"
    recorded_ns: Optional[int] = None


@dataclass
class PlayedMessage:
    """Another recorded message, sent as it is on its own topic."""

    topic: str
    message: bytes
    recorded_ns: int


Played = Union[np.ndarray, PlayedImage, PlayedMessage]


class Replay(Node):
    """Publishes images for one segmentation node and collects its outputs.

    An ``image_topic`` that is empty is where the node takes its images, once it does.
    ``on_result`` gets each complete result, in the order of completion, ``on_lost`` each image
    without one, with the reason. Without them they stay in ``results`` and ``lost``.
    ``other_topics`` are those of played messages: name -> type such as
    ``sensor_msgs/msg/CameraInfo``, and whether it is latched. ``with_clock`` publishes recorded
    time on /clock.
    """

    def __init__(
        self,
        target: str = "/segmentation_node",
        image_topic: str = "image",
        with_overlay: bool = True,
        on_result: Optional[Callable[[Result], None]] = None,
        on_lost: Optional[Callable[[Result, str], None]] = None,
        name: str = "segmentation_replay",
        compressed: bool = False,
        other_topics: Optional[Dict[str, Tuple[str, bool]]] = None,
        with_clock: bool = False,
        quiet_s: float = QUIET_S,
    ) -> None:
        """``quiet_s``: without a result for this long, images in flight are lost."""
        super().__init__(name)
        self.results: List[Result] = []
        self.lost: List[Tuple[Result, str]] = []
        self.sent = 0
        self.repeated_stamps = 0
        self._quiet_s = quiet_s
        self._given_up: Set[int] = set()
        self._last_stamp_ns = 0
        self._kind = CompressedImage if compressed else Image
        self._images: Any = None
        if image_topic:
            self._images = self.create_publisher(self._kind, image_topic, keep_all_qos())
        self._others = {
            topic: self.create_publisher(
                message_class(type_name), topic, latched_qos() if latched else keep_all_qos()
            )
            for topic, (type_name, latched) in (other_topics or {}).items()
        }
        self._clock_publisher = ClockPublisher(self) if with_clock else None
        self._kept = KeptImage("rgb8", 3)
        self._target = target
        self.on_result = on_result or self.results.append
        self.on_lost = on_lost or (lambda result, reason: self.lost.append((result, reason)))
        self.pairing = Pairing(
            self,
            target,
            with_overlay,
            lambda result: self.on_result(result),
            lambda result, reason: self.on_lost(result, reason),
        )
        self.status = NodeStatus(self, target)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    @property
    def in_flight(self) -> int:
        """Images sent whose results are neither complete nor lost."""
        return self.pairing.in_flight

    def missing(self) -> List[int]:
        """Stamps in ns of the images in flight, and of those in ``lost``."""
        return sorted(self.pairing.stamps() + [result.stamp_ns for result, _ in self.lost])

    def wait_until_ready(self, process: Any, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Spin until the node has a model and takes images. Raises ReplayError otherwise.

        ``process``, here and below, has ``check()``, which raises when the node is gone.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._not_ready():
            process.check()
            if time.monotonic() > deadline_s:
                raise ReplayError("%s, waited %.0f s" % (self._not_ready(), timeout_s))
            self.spin_for(0.05)
        self.spin_for(SETTLE_S)

    def play(
        self,
        items: Iterable[Played],
        process: Any,
        rate_hz: float = 0.0,
        in_flight: int = 4,
        factor: float = 0.0,
    ) -> None:
        """Publish RGB images, or what was recorded, and spin until the results are in.

        At most ``in_flight`` images are on their way; 0 sends regardless of what came back.
        They go out at ``rate_hz``, or at their recorded times, ``factor`` times as fast, or, with
        neither, as fast as the node takes them. Raises ReplayError when the node ends.
        """
        pace = Pace(rate_hz, factor)
        for item in items:
            if isinstance(item, PlayedMessage):
                self._wait_until(pace.due_s(item.recorded_ns, is_image=False), pace)
                self._others[item.topic].publish(item.message)
            else:
                self._wait_for_room(in_flight, process)
                self._wait_until(pace.due_s(getattr(item, "recorded_ns", None)), pace)
                self._send_item(item, process)
            self.spin_for(0.0)
        self._wait_for_room(1, process)

    def send(self, image_hwc: np.ndarray, frame_id: str = "camera", payload: Any = None) -> int:
        """Publish one RGB image stamped now; gives the stamp in ns."""
        # Two images within one tick of the clock still have to differ.
        stamp_ns = max(self.get_clock().now().nanoseconds, self._last_stamp_ns + 1)
        self._last_stamp_ns = stamp_ns
        np.copyto(self._kept.resize(image_hwc.shape[:2]), image_hwc)
        header = self._kept.message.header
        header.stamp = time_message(stamp_ns)
        header.frame_id = frame_id
        result = Result(self.sent, stamp_ns, frame_id, image_hwc, payload=payload)
        self._publish(self._kept.message, result)
        return stamp_ns

    def spin_for(self, duration_s: float) -> None:
        """Handle what arrives for this long, or just what is there already."""
        deadline_s = time.monotonic() + duration_s
        while True:
            remaining_s = max(0.0, deadline_s - time.monotonic())
            spin_once(self._executor, remaining_s)
            if remaining_s == 0.0:
                return

    def _send_item(self, item: Union[np.ndarray, PlayedImage], process: Any) -> None:
        if not isinstance(item, PlayedImage):
            self.send(item)
        elif item.message is None:
            assert item.image_hwc is not None
            self.send(item.image_hwc, item.frame_id, item.payload)
        else:
            self._send_recorded(item, process)

    def _send_recorded(self, item: PlayedImage, process: Any) -> None:
        result = Result(
            self.sent, item.stamp_ns, item.frame_id, item.image_hwc, payload=item.payload
        )
        if self.pairing.expects(item.stamp_ns):
            self.repeated_stamps += 1
        while self.pairing.expects(item.stamp_ns):
            self._progress(process)
        if item.stamp_ns in self._given_up:
            # Its results could be the earlier image's, late.
            self.on_lost(result, "not sent: an earlier image of the same stamp got no answer")
            return
        if self._clock_publisher is not None and item.recorded_ns is not None:
            self._clock_publisher.publish(item.recorded_ns)
            # The node has no time at all before its first clock message.
            self.spin_for(SETTLE_S if self.sent == 0 else 0.0)
        self._publish(item.message, result)

    def _publish(self, message: Any, result: Result) -> None:
        self.pairing.expect(result)
        result.sent_s = time.monotonic()
        self._images.publish(message)
        self.sent += 1

    def _wait_for_room(self, in_flight: int, process: Any) -> None:
        while in_flight and self.in_flight >= in_flight:
            self._progress(process)

    def _wait_until(self, due_s: float, pace: Pace) -> None:
        while time.monotonic() < due_s:
            remaining_s = max(0.0, due_s - time.monotonic())
            position_ns = pace.position_ns()
            if self._clock_publisher is None or position_ns is None:
                self.spin_for(remaining_s)
            else:
                self._clock_publisher.publish(position_ns)
                self.spin_for(min(TICK_S, remaining_s))

    def _progress(self, process: Any) -> None:
        """Spin until an image is done with; after a long silence those in flight are lost."""
        before, deadline_s = self.in_flight, time.monotonic() + self._quiet_s
        while self.in_flight == before:
            process.check()
            if time.monotonic() > deadline_s:
                self._given_up.update(self.pairing.stamps())
                self.pairing.give_up("no result within %.0f s" % self._quiet_s)
                return
            spin_once(self._executor, LONGEST_TURN_S)

    def _not_ready(self) -> str:
        """What is still missing; empty when nothing is."""
        for output in self.pairing.outputs:
            topic = "%s/%s" % (self._target, output)
            publishers = self.count_publishers(topic)
            if publishers == 0:
                return "nothing publishes %s" % topic
            if publishers > 1:
                return "%d nodes publish %s; results need one" % (publishers, topic)
        if self.status.label_info is None:
            return "%s/label_info says nothing" % self._target
        if self._clock_publisher is not None and not self._clock_publisher.is_heard():
            return "nobody listens to /clock; start %s with use_sim_time" % self._target
        return self._input_not_ready()

    def _input_not_ready(self) -> str:
        inputs = image_inputs(self, self._target)
        if self._images is None:
            kind = "sensor_msgs/msg/" + self._kind.__name__
            topics = [topic for topic, found in inputs if found == kind]
            if not topics:
                return "%s takes no %s, only %s; set its input.transport" % (
                    self._target, kind, inputs,
                )  # fmt: skip
            self._images = self.create_publisher(self._kind, topics[0], keep_all_qos())
        if self._images.get_subscription_count() == 0:
            found = ", ".join("%s (%s)" % item for item in inputs) or "no image"
            return "%s does not take %s (%s), but %s" % (
                self._target, self._images.topic_name, self._kind.__name__, found,
            )  # fmt: skip
        return ""
