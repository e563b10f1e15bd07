"""Frames of a bag: image, ground truth and prediction of one stamp, paired in bounded memory."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import (
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from segmentation_node.errors import BagError, ImageError
from segmentation_node.evaluation.bags.messages import (
    FRAME_LATENCY,
    IMAGE_TYPES,
    header_of,
    ids_of,
    image_of,
    stages_of,
)
from segmentation_node.evaluation.bags.records import Problem, RawMessage, Report, Topic

# What may wait for its other halves: this many frames, or more while they are small.
WINDOW = 16
WINDOW_BYTES = 64 << 20
TRUTH_TOPIC = "/ground_truth"
# What the node publishes beside its class map; neither a camera nor labels.
DERIVED = ("overlay", "confidence", "class_map", "ground_truth")


class Topics(NamedTuple):
    """The topics of a bag's frames; ``None`` where there is none."""

    image: Optional[Topic]
    truth: Optional[Topic]
    prediction: Optional[Topic]
    camera_info: Optional[Topic]
    latency: Optional[Topic] = None


@dataclass(frozen=True)
class BagFrame:
    """One frame: ``image_hwc`` uint8 RGB (H, W, 3), ids uint8 (H, W), 255 = unlabelled.

    ``number`` counts the frames from 0, those that are left out too. ``stamp_ns`` is the header's
    stamp, ``recorded_ns`` the bag's time of the first of its
    messages. ``image`` is the image message as it was recorded, ``camera_info`` the serialised
    CameraInfo of the same stamp, ``stages_ms`` what the node's FrameLatency of it says, in ms.
    What the bag lacks for this frame is None.
    """

    name: str
    number: int
    stamp_ns: int
    recorded_ns: int
    frame_id: str
    image_hwc: Optional[np.ndarray] = None
    truth_hw: Optional[np.ndarray] = None
    prediction_hw: Optional[np.ndarray] = None
    image: Optional[RawMessage] = None
    camera_info: Optional[bytes] = None
    stages_ms: Dict[str, float] = field(default_factory=dict)


class _Waiting:
    """The messages of one stamp so far, by part."""

    def __init__(self, number: int, frame_id: str) -> None:
        self.number = number
        self.frame_id = frame_id
        self.parts: Dict[str, RawMessage] = {}


class Pairing:
    """Joins messages of several topics by their header's stamp.

    A frame is given once it has all parts that exist, or once a wanted part's topic has gone
    past its stamp, or once more than ``WINDOW`` frames wait and hold more than ``WINDOW_BYTES``;
    frames come in the order of ``leading``, the part without which there is no frame.
    """

    def __init__(self, wanted: Sequence[str], leading: str, report: Report) -> None:
        self._wanted = set(wanted)
        self._leading = leading
        self._report = report
        self._waiting: "OrderedDict[int, _Waiting]" = OrderedDict()
        self._others: "OrderedDict[int, Dict[str, RawMessage]]" = OrderedDict()
        self._latest_ns: Dict[str, int] = {}
        self._count = 0

    def add(self, part: str, message: RawMessage) -> Iterator[Tuple[int, _Waiting]]:
        """Take a message; gives the frames that are complete with it."""
        try:
            header = header_of(message.data)
        except ImageError as error:
            self._report(Problem(_where(message), str(error), is_frame=True))
            self._count += part == self._leading
            return
        self._latest_ns[part] = header.stamp_ns
        if part == self._leading:
            self._lead(header.stamp_ns, header.frame_id, message)
        elif header.stamp_ns in self._waiting:
            self._waiting[header.stamp_ns].parts.setdefault(part, message)
        else:
            self._keep(header.stamp_ns, part, message)
        yield from self._ready()

    def finish(self) -> Iterator[Tuple[int, _Waiting]]:
        """Gives the frames that still wait; reports what never found its frame."""
        yield from self._waiting.items()
        self._waiting.clear()
        while self._others:
            self._drop()

    def _lead(self, stamp_ns: int, frame_id: str, message: RawMessage) -> None:
        if stamp_ns in self._waiting:
            reason = "a second message of stamp %s" % text(stamp_ns)
            self._report(Problem(_where(message), reason, is_frame=True))
            return
        frame = _Waiting(self._count, frame_id)
        self._count += 1
        frame.parts = {self._leading: message, **self._others.pop(stamp_ns, {})}
        self._waiting[stamp_ns] = frame

    def _keep(self, stamp_ns: int, part: str, message: RawMessage) -> None:
        self._others.setdefault(stamp_ns, {})[part] = message
        if _too_many(len(self._others), next(iter(self._others.values()))):
            self._drop()

    def _drop(self) -> None:
        stamp_ns, parts = self._others.popitem(last=False)
        for part in sorted(self._wanted & set(parts)):
            reason = "no %s of stamp %s" % (self._leading, text(stamp_ns))
            self._report(Problem(_where(parts[part]), reason, is_frame=True))

    def _ready(self) -> Iterator[Tuple[int, _Waiting]]:
        while self._waiting:
            stamp_ns, frame = next(iter(self._waiting.items()))
            missing = self._wanted - set(frame.parts)
            hopeful = any(self._latest_ns.get(part, stamp_ns) <= stamp_ns for part in missing)
            if hopeful and not _too_many(len(self._waiting), frame.parts):
                return
            del self._waiting[stamp_ns]
            yield stamp_ns, frame


def _too_many(count: int, first: Dict[str, RawMessage]) -> bool:
    """Whether so many wait that ``WINDOW`` and, all being like the first, ``WINDOW_BYTES`` pass."""
    return count > WINDOW and count * sum(len(m.data) for m in first.values()) > WINDOW_BYTES


def paired(
    messages: Iterable[RawMessage], topics: Topics, leading: str, report: Report
) -> Iterator[BagFrame]:
    """Frames from the messages of ``topics``; what cannot be decoded is reported and left out."""
    parts = {topic.name: part for part, topic in topics._asdict().items() if topic is not None}
    wanted = [part for part in parts.values() if part not in (leading, "camera_info")]
    pairing = Pairing(wanted, leading, report)
    for message in messages:
        for stamp_ns, waiting in pairing.add(parts[message.topic], message):
            yield from _decoded(stamp_ns, waiting, leading, report)
    for stamp_ns, waiting in pairing.finish():
        yield from _decoded(stamp_ns, waiting, leading, report)


_DECODERS: Dict[str, Callable[[bytes, str], np.ndarray]] = {
    "image": image_of,
    "truth": ids_of,
    "prediction": ids_of,
}


def _decoded(stamp_ns: int, waiting: _Waiting, leading: str, report: Report) -> Iterator[BagFrame]:
    arrays: Dict[str, np.ndarray] = {}
    name = "%06d @ %s" % (waiting.number, text(stamp_ns))
    for part, decode in _DECODERS.items():
        message = waiting.parts.get(part)
        if message is None:
            continue
        try:
            arrays[part] = decode(message.data, message.type)
        except ImageError as error:
            report(Problem("frame %s on %s" % (name, message.topic), str(error), is_frame=True))
            return
    sizes = {part: array.shape[:2] for part, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join("%s %dx%d" % (part, s[1], s[0]) for part, s in sizes.items())
        reason = "its parts have different sizes: " + found
        report(Problem("frame " + name, reason, is_frame=True))
        return
    camera_info = waiting.parts.get("camera_info")
    latency = waiting.parts.get("latency")
    yield BagFrame(
        name,
        waiting.number,
        stamp_ns,
        min(item.recorded_ns for item in waiting.parts.values()),
        waiting.frame_id,
        arrays.get("image"),
        arrays.get("truth"),
        arrays.get("prediction"),
        waiting.parts.get("image"),
        camera_info.data if camera_info is not None else None,
        _stages_ms(latency, report) if latency is not None else {},
    )


def _stages_ms(message: RawMessage, report: Report) -> Dict[str, float]:
    try:
        return stages_of(message.data)
    except ImageError as error:
        report(Problem(_where(message), str(error)))
        return {}


def choose_topics(
    topics: Sequence[Topic],
    image: Optional[str] = None,
    truth: Optional[str] = None,
    prediction: Optional[str] = None,
) -> Topics:
    """The topics of the frames: those named, and where none is named those that stand out.

    The image is the one camera of the bag, raw rather than compressed; ground truth is
    ``/ground_truth``, a prediction ``.../class_map``; camera_info and latency are those beside
    them. An empty name means none.
    Raises BagError that lists the topics where a name or a choice fails.
    """
    truth_topic = _named(topics, truth, [TRUTH_TOPIC, TRUTH_TOPIC + "/compressed"])
    maps = [t.name for t in topics if _base(t.name).endswith("/class_map")]
    prediction_topic = _named(topics, prediction, maps)
    image_topic = _named(topics, image, _cameras(topics))
    camera_info = None
    if image_topic is not None:
        name = _base(image_topic.name).rsplit("/", 1)[0] + "/camera_info"
        camera_info = next((topic for topic in topics if topic.name == name), None)
    latency = None
    if prediction_topic is not None:
        name = _base(prediction_topic.name).rsplit("/", 1)[0] + "/latency"
        beside = (topic for topic in topics if topic.name == name)
        latency = next((topic for topic in beside if topic.type == FRAME_LATENCY), None)
    return Topics(image_topic, truth_topic, prediction_topic, camera_info, latency)


def listed(topics: Sequence[Topic]) -> str:
    """The topics on one line, with type and count."""
    if not topics:
        return "no topics"
    return ", ".join("%s (%s, %d)" % (topic.name, topic.type, topic.count) for topic in topics)


def text(stamp_ns: int) -> str:
    """A stamp in seconds with all its digits."""
    return "%d.%09d" % divmod(stamp_ns, 10**9)


def _named(topics: Sequence[Topic], name: Optional[str], candidates: List[str]) -> Optional[Topic]:
    images = {topic.name: topic for topic in topics if topic.type in IMAGE_TYPES}
    if name is None:
        found = [images[candidate] for candidate in candidates if candidate in images]
        raw = [topic for topic in found if topic.type == IMAGE_TYPES[0]]
        bases = {_base(topic.name) for topic in found}
        if len(bases) > 1:
            raise BagError(
                "several topics could be meant, name one: %s" % ", ".join(t.name for t in found)
            )
        return (raw or found or [None])[0]  # type: ignore[list-item]
    if not name:
        return None
    name = "/" + name.strip("/")
    if name not in images:
        raise BagError("no image topic %s in the bag; it has %s" % (name, listed(topics)))
    return images[name]


def _cameras(topics: Sequence[Topic]) -> List[str]:
    return [
        topic.name
        for topic in topics
        if topic.type in IMAGE_TYPES and _base(topic.name).rsplit("/", 1)[-1] not in DERIVED
    ]


def _base(name: str) -> str:
    """A topic's name without ``/compressed``."""
    return name[: -len("/compressed")] if name.endswith("/compressed") else name


def _where(message: RawMessage) -> str:
    return "message on %s recorded at %s" % (message.topic, text(message.recorded_ns))
