"""Pair what a segmentation node publishes with the images that it was given, by stamp."""

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segmentation_msgs.msg import FrameLatency
from segmentation_node.ros.processor import stamp_nanoseconds

FATES = ("received", "dropped", "failed", "lost")
# Topic below the node -> where a result keeps it.
OUTPUT_FIELDS = {"class_map": "class_map_hw", "overlay": "overlay_hwc", "latency": "latency"}
UNPAIRED_KEPT = 100


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
    result that will not be whole, and why. What nobody expects is ``unpaired``: the first
    stamps in ns are kept, all are counted.

    A topic keeps its order: once it has brought the output of a later image, a missing one will
    not come any more.
    """

    def __init__(
        self,
        node: Any,
        target: str,
        with_overlay: bool,
        on_result: Callable[[Result], None],
        on_lost: Callable[[Result, str], None],
    ) -> None:
        self.target = target
        # The class map first: it is then the first that the node finds, and wakes it.
        self.outputs = ["class_map"] + (["overlay"] if with_overlay else []) + ["latency"]
        self.unpaired: List[int] = []
        self.unpaired_count = 0
        self._on_result = on_result
        self._on_lost = on_lost
        self._pending: Dict[int, Result] = {}
        self._newest = dict.fromkeys(self.outputs, -1)
        self._fates: Dict[str, int] = {}
        for output in self.outputs:
            self._subscribe(node, output)

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

    def _subscribe(self, node: Any, output: str) -> None:
        kind = FrameLatency if output == "latency" else Image
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
        value = message if output == "latency" else pixels(message)
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
        wanted = [output for output in self.outputs if output != "latency"]
        if all(getattr(result, OUTPUT_FIELDS[output]) is not None for output in wanted):
            self._on_result(result)
        else:
            self._on_lost(result, reason)


def keep_all_qos() -> QoSProfile:
    """Reliable and without loss."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


def pixels(message: Image) -> np.ndarray:
    """The pixels of a mono8 or rgb8 message of this package: uint8 (H, W) or (H, W, 3)."""
    channels = message.step // message.width
    shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(message.data, np.uint8).reshape(shape)
