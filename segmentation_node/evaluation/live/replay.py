"""Play images into a running node and collect what it publishes, paired by stamp.

The one publisher and collector: the demo, live evaluation and the latency tests use it.
"""

import importlib
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Optional, Set, Tuple, Union

import numpy as np
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.live.pairing import Collector, Pairing, Result, keep_all_qos
from segmentation_node.evaluation.live.target import LONGEST_TURN_S, image_inputs, spin_once
from segmentation_node.ros.outputs import KeptImage, latched_qos

READY_TIMEOUT_S = 60.0
QUIET_S = 5.0
# The node may find the last of our subscriptions a little after we have found it.
SETTLE_S = 0.3
# A sender that fell behind does not catch up on more than this.
LAG_S = 1.0
TICK_S = 0.01


@dataclass(frozen=True)
class PlayedMessage:
    """Another recorded message, sent as it is on its own topic."""

    topic: str
    message: bytes
    recorded_ns: int


Played = Union[np.ndarray, Frame, PlayedMessage]


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


class Replay(Collector):
    """Publishes images for one segmentation node and collects its outputs.

    An ``image_topic`` that is empty is where the node takes its images, once it does.
    ``pairing.on_result`` gets each complete result, in the order of completion,
    ``pairing.on_lost`` each image without one, with the reason; where they are not set, both stay
    in ``pairing.results`` and ``pairing.lost``.
    ``other_topics`` are those of played messages: name -> type such as
    ``sensor_msgs/msg/CameraInfo``, and whether it is latched. ``with_clock`` publishes recorded
    time on /clock.
    """

    def __init__(
        self,
        target: str = "/segmentation_node",
        image_topic: str = "image",
        with_overlay: bool = True,
        name: str = "segmentation_replay",
        compressed: bool = False,
        other_topics: Optional[Dict[str, Tuple[str, bool]]] = None,
        with_clock: bool = False,
        quiet_s: float = QUIET_S,
    ) -> None:
        """``quiet_s``: without a result for this long, images in flight are lost."""
        super().__init__(name, target)
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
        self.pairing = Pairing(self, target, with_overlay)

    @property
    def in_flight(self) -> int:
        """Images sent whose results are neither complete nor lost."""
        return self.pairing.in_flight

    def wait_until_ready(self, process: Any, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Spin until the node has a model and takes images. Raises ReplayError otherwise."""
        super().wait_until_ready(process, timeout_s)
        self.spin_for(SETTLE_S)

    def play(
        self,
        items: Iterable[Played],
        process: Any,
        rate_hz: float = 0.0,
        in_flight: int = 4,
        factor: float = 0.0,
    ) -> None:
        """Publish images, or what was recorded, and spin until the results are in.

        A ``Frame`` with a message goes out as it was recorded, other images as rgb8, stamped then;
        it comes back as its result's ``payload``. At most ``in_flight`` images are on their way; 0
        sends regardless of what came back. They go out at ``rate_hz``, or at their recorded times,
        ``factor`` times as fast, or, with neither, as fast as the node takes them. Raises
        ReplayError when the node ends.
        """
        pace = Pace(rate_hz, factor)
        for item in items:
            if isinstance(item, PlayedMessage):
                self._wait_until(pace.due_s(item.recorded_ns, is_image=False), pace)
                self._others[item.topic].publish(item.message)
            else:
                self._wait_until(pace.due_s(getattr(item, "recorded_ns", None)), pace)
                self._send_item(item, process)
                # Before the next is read: that takes the cores which the node needs.
                self.wait_for_room(in_flight, process)
            self.spin_for(0.0)
        self.wait_for_room(1, process)

    def wait_for_room(self, in_flight: int, process: Any) -> None:
        """Spin until fewer than ``in_flight`` images are on their way; at once where it is 0."""
        while in_flight and self.in_flight >= in_flight:
            self._progress(process)

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

    def _send_item(self, item: Union[np.ndarray, Frame], process: Any) -> None:
        if not isinstance(item, Frame):
            self.send(item)
        elif item.message is None:
            self.send(item.image_hwc, item.frame_id, item)
        else:
            self._send_recorded(item, process)

    def _send_recorded(self, frame: Frame, process: Any) -> None:
        assert frame.stamp_ns is not None and frame.message is not None
        result = Result(self.sent, frame.stamp_ns, frame.frame_id, frame.image_hwc, payload=frame)
        if self.pairing.expects(frame.stamp_ns):
            self.repeated_stamps += 1
        while self.pairing.expects(frame.stamp_ns):
            self._progress(process)
        if frame.stamp_ns in self._given_up:
            # Its results could be the earlier image's, late.
            reason = "not sent: an earlier image of the same stamp got no answer"
            self.pairing.on_lost(result, reason)
            return
        if self._clock_publisher is not None and frame.recorded_ns is not None:
            self._clock_publisher.publish(frame.recorded_ns)
            # The node has no time at all before its first clock message.
            self.spin_for(SETTLE_S if self.sent == 0 else 0.0)
        self._publish(bytes(frame.message), result)

    def _publish(self, message: Any, result: Result) -> None:
        self.pairing.expect(result)
        result.sent_s = time.monotonic()
        self._images.publish(message)
        self.sent += 1

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

    def not_ready(self) -> str:
        """What is still missing; empty when nothing is."""
        for output in self.pairing.outputs:
            topic = "%s/%s" % (self.target, output)
            publishers = self.count_publishers(topic)
            if publishers == 0:
                return "nothing publishes %s" % topic
            if publishers > 1:
                return "%d nodes publish %s; results need one" % (publishers, topic)
        missing = super().not_ready()
        if missing:
            return missing
        if self._clock_publisher is not None and not self._clock_publisher.is_heard():
            return "nobody listens to /clock; start %s with use_sim_time" % self.target
        return self._input_not_ready()

    def _input_not_ready(self) -> str:
        inputs = image_inputs(self, self.target)
        if self._images is None:
            kind = "sensor_msgs/msg/" + self._kind.__name__
            topics = [topic for topic, found in inputs if found == kind]
            if not topics:
                return "%s takes no %s, only %s; set its input.transport" % (
                    self.target, kind, inputs,
                )  # fmt: skip
            self._images = self.create_publisher(self._kind, topics[0], keep_all_qos())
        if self._images.get_subscription_count() == 0:
            found = ", ".join("%s (%s)" % item for item in inputs) or "no image"
            return "%s does not take %s (%s), but %s" % (
                self.target, self._images.topic_name, self._kind.__name__, found,
            )  # fmt: skip
        return ""


def message_class(type_name: str) -> Any:
    """The class of a message type such as ``sensor_msgs/msg/Image``.

    Raises ReplayError where its package is not installed.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(package + ".msg"), name)
    except (ImportError, AttributeError):
        raise ReplayError(
            "%s is not installed here, so its topic cannot be played; leave the topic out"
            % type_name
        ) from None


def time_message(time_ns: int) -> Time:
    """Nanoseconds as a builtin_interfaces/Time."""
    return Time(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
