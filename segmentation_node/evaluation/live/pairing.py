"""Pair what a segmentation node publishes with the images that it was given, by stamp."""

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Container, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segmentation_msgs.msg import FrameLatency
from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.live.target import NodeStatus, spin_once
from segmentation_node.ros.processor import stamp_nanoseconds

FATES = ("received", "dropped", "failed", "lost")
# Topic below the node -> where a result keeps it.
OUTPUT_FIELDS = {
    "class_map": "class_map_hw",
    "overlay": "overlay_hwc",
    "latency": "latency",
    "detections": "detections",
}
# A result is whole without these.
OPTIONAL = ("latency", "detections")
UNPAIRED_KEPT = 100
LOOK_S = 0.05
DIAGNOSTICS_TIMEOUT_S = 3.0  # they come once a second
# A truth is recorded beside its image; this is for a player that sends it a little later.
TRUTH_PATIENCE_S = 2.0

Joined = TypeVar("Joined", bound="Collector")


@dataclass
class Result:
    """What came back for one image; ``None`` until it did, or where it was not asked for.

    ``index`` counts the images from 0, -1 before the image itself was seen; ``payload`` is
    whatever the sender gave with the image. Times are monotonic: ``sent_s`` when the image went
    out, ``answered_s`` when its class map came.
    """

    index: int
    stamp_ns: int
    frame_id: str = ""
    image_hwc: Optional[np.ndarray] = None
    class_map_hw: Optional[np.ndarray] = None
    overlay_hwc: Optional[np.ndarray] = None
    latency: Optional[FrameLatency] = None
    detections: Any = None
    headers: List[Any] = field(default_factory=list)
    payload: Any = None
    sent_s: float = float("nan")
    answered_s: float = float("nan")
    fates: str = ""

    @property
    def headers_match(self) -> bool:
        """Whether every output carried the image's header, stamp and frame id alike."""
        return all(
            (stamp_nanoseconds(header.stamp), header.frame_id) == (self.stamp_ns, self.frame_id)
            for header in self.headers
        )

    @property
    def end_to_end_ms(self) -> float:
        """From sending the image to having its class map, on the sender's clock."""
        return (self.answered_s - self.sent_s) * 1e3


class Pairing:
    """Subscribes to one node's outputs and completes the results that it was told to expect.

    ``on_result`` gets each result whose class map (and overlay, where asked for) came, in the
    order of completion; its latency is None only where the node sent none. ``on_lost`` gets a
    result that will not be whole, and why. Where they are not set, both are kept, in ``results``
    and ``lost``. What nobody expects is ``unpaired``: the first stamps in ns are kept, all are
    counted.

    A topic keeps its order: once it has brought the output of a later image, a missing one will
    not come any more.
    """

    def __init__(self, node: Any, target: str, with_overlay: bool) -> None:
        self.target = target
        self.results: List[Result] = []
        self.lost: List[Tuple[Result, str]] = []
        self.on_result: Callable[[Result], None] = self.results.append
        self.on_lost: Callable[[Result, str], None] = self._keep_lost
        # The class map first: it is then the first that the node finds, and wakes it.
        self.outputs = ["class_map"] + (["overlay"] if with_overlay else []) + ["latency"]
        self.unpaired: List[int] = []
        self.unpaired_count = 0
        self._pending: Dict[int, Result] = {}
        self._newest = dict.fromkeys(self.outputs, -1)
        self._fates: Dict[str, int] = {}
        for output in self.outputs:
            self._subscribe(node, output, FrameLatency if output == "latency" else Image)

    def hear_detections(self, node: Any, kind: Any) -> None:
        """Take boxes too, messages of this type; a result may come without."""
        self.outputs.append("detections")
        self._newest["detections"] = -1
        self._subscribe(node, "detections", kind)

    @property
    def in_flight(self) -> int:
        """Images whose results are neither whole nor lost."""
        return len(self._pending)

    def stamps(self) -> List[int]:
        """Stamps in ns of the images in flight, sorted."""
        return sorted(self._pending)

    def expects(self, stamp_ns: int) -> bool:
        """Whether an image of this stamp is in flight."""
        return stamp_ns in self._pending

    def expect(self, result: Result) -> None:
        """From now on take outputs of this stamp as this image's; no other may have it."""
        assert result.stamp_ns not in self._pending
        self._pending[result.stamp_ns] = result

    def give_up(self, reason: str) -> None:
        """Nothing more will come: what has no class map is lost, the rest is whole."""
        for result in list(self._pending.values()):
            self._close(result, reason)

    def _keep_lost(self, result: Result, reason: str) -> None:
        self.lost.append((result, reason))

    def _subscribe(self, node: Any, output: str, kind: Any) -> None:
        topic = "%s/%s" % (self.target, output)
        node.create_subscription(
            kind, topic, lambda message: self._take(output, message), keep_all_qos()
        )

    def _take(self, output: str, message: Any) -> None:
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        result = self._find(stamp_ns)
        if output == "latency":
            self._book_fates(message, result)
        if result is None:
            self._note_unpaired(stamp_ns)
            return
        result.headers.append(message.header)
        if output == "class_map":
            result.answered_s = time.monotonic()
        value = message if output in OPTIONAL else pixels(message)
        setattr(result, OUTPUT_FIELDS[output], value)
        self._newest[output] = max(self._newest[output], result.index)
        self._settle()

    def _find(self, stamp_ns: int) -> Optional[Result]:
        return self._pending.get(stamp_ns)

    def _note_unpaired(self, stamp_ns: int) -> None:
        self.unpaired_count += 1
        self.unpaired = (self.unpaired + [stamp_ns])[:UNPAIRED_KEPT]

    def _book_fates(self, latency: FrameLatency, result: Optional[Result]) -> None:
        """Note for the images passed over what the node counted of them."""
        now = {name: int(getattr(latency, name)) for name in FATES}
        grown = ["%d %s" % (now[name] - self._fates.get(name, 0), name) for name in FATES]
        since = "" if self._fates else " since it was activated"
        self._fates = now
        if result is not None:
            for other in self._pending.values():
                if other.index < result.index and other.latency is None and not other.fates:
                    other.fates = ", ".join(grown) + since

    def _settle(self) -> None:
        """Close every result for which nothing more can come."""
        for result in list(self._pending.values()):
            if self._is_settled(result):
                self._close(result, "no result; meanwhile the node counted %s" % result.fates)

    def _is_settled(self, result: Result) -> bool:
        return all(
            getattr(result, OUTPUT_FIELDS[output]) is not None
            or self._newest[output] > result.index
            for output in self.outputs
        )

    def _close(self, result: Result, reason: str) -> None:
        del self._pending[result.stamp_ns]
        wanted = [output for output in self.outputs if output not in OPTIONAL]
        if all(getattr(result, OUTPUT_FIELDS[output]) is not None for output in wanted):
            self.on_result(result)
        else:
            self.on_lost(result, reason)


@dataclass
class Heard:
    """What else belongs to a result of an image that somebody else sent."""

    opened_s: float
    truth_hw: Optional[np.ndarray] = None
    image_error: str = ""
    image_came: bool = False
    repeated: bool = False


class OpenPairing(Pairing):
    """A pairing in which any message may be the first of its stamp.

    ``numbers`` are the images' by stamp in ns, where they are known before, of those in
    ``repeated`` one of several; without them each image is waited for. A result is given up when
    nothing has come from the node for ``patience_s``; that of an image that nobody knows is
    unpaired.
    """

    def __init__(
        self,
        node: Any,
        target: str,
        with_truth: bool,
        patience_s: float,
        numbers: Mapping[int, int],
        repeated: Container[int] = (),
    ) -> None:
        super().__init__(node, target, with_overlay=False)
        self.images = 0
        self.last_output_s = 0.0
        self._with_truth = with_truth
        self._patience_s = patience_s
        self._numbers, self._repeated = numbers, repeated
        self._newest_truth = -1

    def take_image(self, header: Any, image_hwc: Optional[np.ndarray], error: str) -> None:
        """An image that the node got as well, or why it cannot be read."""
        result = self._find(stamp_nanoseconds(header.stamp))
        heard = result.payload
        heard.repeated, heard.image_came = heard.repeated or heard.image_came, True
        result.sent_s = time.monotonic()
        result.frame_id = header.frame_id
        result.image_hwc, heard.image_error = image_hwc, error
        if not self._numbers:
            result.index = self.images
        self.images += 1
        for output in self.outputs:
            if getattr(result, OUTPUT_FIELDS[output]) is not None:
                self._newest[output] = max(self._newest[output], result.index)
        self._settle()

    def take_truth(self, header: Any, truth_hw: np.ndarray) -> None:
        """The train ids of an image, uint8 (H, W)."""
        result = self._find(stamp_nanoseconds(header.stamp))
        result.payload.truth_hw = truth_hw
        self._newest_truth = max(self._newest_truth, result.index)
        self._settle()

    def expire(self) -> None:
        """Close what has waited long enough."""
        now_s = time.monotonic()
        for result in list(self._pending.values()):
            opened_s = result.payload.opened_s
            if result.index >= 0 and super()._is_settled(result):
                is_over = now_s - opened_s > TRUTH_PATIENCE_S
            else:
                is_over = now_s - max(opened_s, self.last_output_s) > self._patience_s
            if is_over:
                self._close(result, "no result within %.0f s" % self._patience_s)

    def _take(self, output: str, message: Any) -> None:
        self.last_output_s = time.monotonic()
        super()._take(output, message)

    def _find(self, stamp_ns: int) -> Result:
        if stamp_ns not in self._pending:
            payload = Heard(time.monotonic(), repeated=stamp_ns in self._repeated)
            number = self._numbers.get(stamp_ns, -1)
            self.expect(Result(number, stamp_ns, payload=payload))
        return self._pending[stamp_ns]

    def _is_settled(self, result: Result) -> bool:
        if result.index < 0 or not super()._is_settled(result):
            return False
        has_truth = result.payload.truth_hw is not None
        return has_truth or not self._with_truth or self._newest_truth > result.index

    def _close(self, result: Result, reason: str) -> None:
        if result.index >= 0 and not result.payload.repeated:
            super()._close(result, reason)
            return
        del self._pending[result.stamp_ns]
        if result.payload.repeated:
            self.on_lost(result, "two images have its stamp: their results cannot be told apart")
        elif result.class_map_hw is not None or result.latency is not None:
            self._note_unpaired(result.stamp_ns)


class Collector(Node):
    """Our node beside the one that is scored: spins, and hears what that one says of itself.

    A subclass sets ``pairing``. Under ``with``: it leaves the graph in the end.
    ``wants_boxes`` has it hear what boxes the node publishes; ``hears_boxes``: it does.
    """

    pairing: Pairing
    wants_boxes = False
    hears_boxes = False

    def __init__(self, name: str, target: str, remaps: Sequence[str] = ()) -> None:
        rules = [word for rule in remaps for word in ("-r", rule)]
        super().__init__(name, cli_args=["--ros-args"] + rules if rules else None)
        self.target = target
        self.status = NodeStatus(self, target)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def __enter__(self: Joined) -> Joined:
        return self

    def __exit__(self, *_: Any) -> None:
        # Left to the garbage collector it may outlive the context, and would say so in a traceback.
        self._executor.shutdown(timeout_sec=1.0)
        self.destroy_node()

    def wait_until_ready(self, process: Any, timeout_s: float) -> None:
        """Spin until the node can be scored. Raises ReplayError otherwise.

        ``process``, here and below, has ``check()``, which raises when the node is gone.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.not_ready():
            process.check()
            if time.monotonic() > deadline_s:
                raise ReplayError("%s, waited %.0f s" % (self.not_ready(), timeout_s))
            self.spin_for(LOOK_S)
        # The report tells what ran; it does without where nobody publishes diagnostics.
        deadline_s = time.monotonic() + DIAGNOSTICS_TIMEOUT_S
        while not self.status.tells_backend and time.monotonic() < deadline_s:
            process.check()
            self.spin_for(LOOK_S)
        if self.wants_boxes and self.count_publishers(self.target + "/detections"):
            try:
                from vision_msgs.msg import Detection2DArray
            except ImportError:
                return
            self.pairing.hear_detections(self, Detection2DArray)
            self.hears_boxes = True

    def not_ready(self) -> str:
        """What is still missing; empty when nothing is."""
        if self.status.label_info is None:
            return "%s/label_info says nothing" % self.target
        return ""

    def spin_for(self, duration_s: float) -> None:
        """Handle what arrives for this long, or just what is there already."""
        deadline_s = time.monotonic() + duration_s
        while True:
            remaining_s = max(0.0, deadline_s - time.monotonic())
            spin_once(self._executor, remaining_s)
            if remaining_s == 0.0:
                return


def keep_all_qos() -> QoSProfile:
    """Reliable and without loss."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


def pixels(message: Image) -> np.ndarray:
    """The pixels of a mono8 or rgb8 message of this package: uint8 (H, W) or (H, W, 3)."""
    channels = message.step // message.width
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, np.uint8).reshape(shape)
