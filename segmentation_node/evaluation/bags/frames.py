"""Frames of a bag: image, ground truth and prediction of one stamp, paired in bounded memory."""

from collections import OrderedDict
from itertools import chain
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Set, Union

import numpy as np

from segmentation_node.errors import ImageError
from segmentation_node.evaluation.bags.box_messages import boxes_of, true_boxes_of
from segmentation_node.evaluation.bags.messages import header_of, ids_of, image_of, stages_of
from segmentation_node.evaluation.bags.records import RawMessage, Report
from segmentation_node.evaluation.bags.topics import Topics
from segmentation_node.evaluation.frame import (
    DrivePosition,
    Frame,
    Lost,
    Problem,
    ScoredFrame,
    stamp_text,
)
from segmentation_node.labels import LabelSet

# What may wait for its other halves: this many frames, or more while they are small.
WINDOW = 16
WINDOW_BYTES = 64 << 20
# Frames further apart are not consecutive, however slow the camera.
LARGEST_GAP_NS = 10**9


class DriveCounter:
    """Numbers a bag's frames so that only consecutive ones follow each other.

    Where stamps jump, by more than a second or back, another drive begins.
    """

    def __init__(self, single_images: bool) -> None:
        self._single = single_images
        self._drive = 0
        self._last_ns: Optional[int] = None

    def position(self, number: int, time_ns: int) -> Optional[DrivePosition]:
        """The place of the frame of this number; None where the bag holds single images."""
        if self._single:
            return None
        if self._last_ns is not None and not 0 < time_ns - self._last_ns <= LARGEST_GAP_NS:
            self._drive += 1
        self._last_ns = time_ns
        return str(self._drive), number


def frame_name(number: int, stamp_ns: int) -> str:
    """What the frame of this number, counted from 0, is called."""
    return "%06d @ %s" % (number, stamp_text(stamp_ns))


class Match:
    """The messages of one stamp so far, by part, and in the end what they decode to.

    ``number`` counts the messages of the leading part from 0, those that are left out too.
    ``arrays`` are of one size: image uint8 RGB (H, W, 3), truth and prediction uint8 (H, W).
    """

    def __init__(self, number: int, stamp_ns: int, frame_id: str, lead: RawMessage) -> None:
        self.name = frame_name(number, stamp_ns)
        self.number = number
        self.stamp_ns = stamp_ns
        self.frame_id = frame_id
        self.lead = lead
        self.parts: Dict[str, RawMessage] = {}
        self.arrays: Dict[str, np.ndarray] = {}


class Matcher:
    """Joins messages of several topics by their header's stamp.

    A match is given once it has all parts that exist, or once a wanted part's topic has gone
    past its stamp, or once more than ``WINDOW`` matches wait and hold more than ``WINDOW_BYTES``;
    they come in the order of ``leading``, the part without which there is no frame. Each frame is
    one match or one ``Problem``; what a frame is given without goes to ``report``. A stamp may come
    again once its match was given: a simulation was reset, or a driver leaves it zero.
    """

    def __init__(self, wanted: Sequence[str], leading: str, report: Report) -> None:
        self._wanted = set(wanted)
        self._leading = leading
        self._report = report
        self._waiting: "OrderedDict[int, Match]" = OrderedDict()
        self._others: "OrderedDict[int, Dict[str, RawMessage]]" = OrderedDict()
        # Topics whose messages were dropped, by stamp; and the stamps of all matches.
        self._dropped: Dict[int, Set[str]] = {}
        self._led: Set[int] = set()
        self._latest_ns: Dict[str, int] = {}
        self._count = 0
        self._nameless = 0

    def add(self, part: str, message: RawMessage) -> Iterator[Union[Match, Problem]]:
        """Take a message; gives the matches that are complete with it."""
        try:
            header = header_of(message.data)
        except ImageError as error:
            if part == self._leading:
                self._count += 1
                self._nameless += 1
                yield _unusable(message, str(error))
            else:
                self._report("%s: %s" % (_where(message), error))
            return
        stamp_ns = header.stamp_ns
        if part == self._leading and stamp_ns < self._latest_ns.get(part, stamp_ns):
            self._latest_ns.clear()  # another drive: no topic is past it
        self._latest_ns[part] = stamp_ns
        if part != self._leading:
            self._keep(stamp_ns, part, message)
        elif stamp_ns in self._waiting:
            again = "a second message of stamp %s while the first waits for its other halves"
            yield _unusable(message, again % stamp_text(stamp_ns))
        else:
            match = Match(self._count, stamp_ns, header.frame_id, message)
            match.parts = {part: message, **self._others.pop(stamp_ns, {})}
            self._waiting[stamp_ns] = match
            self._led.add(stamp_ns)
            self._count += 1
        yield from self._ready()

    def finish(self) -> Iterator[Union[Match, Problem]]:
        """Gives the matches that still wait, and says what never found its frame."""
        yield from self._waiting.values()
        self._waiting.clear()
        while self._others:
            self._drop()
        for stamp_ns, topics in sorted(self._dropped.items()):
            what = "stamp %s on %s" % (stamp_text(stamp_ns), ", ".join(sorted(topics)))
            if stamp_ns in self._led:
                self._report("%s: too far from its %s, left out" % (what, self._leading))
            elif self._nameless:
                # It is that of a message without a stamp, which is a problem of its own.
                self._nameless -= 1
                self._report("%s: no %s of this stamp" % (what, self._leading))
            else:
                yield _problem(what, "no %s of this stamp" % self._leading)

    def _keep(self, stamp_ns: int, part: str, message: RawMessage) -> None:
        match = self._waiting.get(stamp_ns)
        parts = match.parts if match is not None else self._others.setdefault(stamp_ns, {})
        if part in parts:
            again = "a second message of stamp %s, left out" % stamp_text(stamp_ns)
            self._report("%s: %s" % (_where(message), again))
        parts.setdefault(part, message)
        if _too_many(len(self._others), next(iter(self._others.values()), {})):
            self._drop()

    def _drop(self) -> None:
        stamp_ns, parts = self._others.popitem(last=False)
        topics = {message.topic for part, message in parts.items() if part in self._wanted}
        self._dropped.setdefault(stamp_ns, set()).update(topics)

    def _ready(self) -> Iterator[Match]:
        while self._waiting:
            stamp_ns, match = next(iter(self._waiting.items()))
            missing = self._wanted - set(match.parts)
            hopeful = any(self._latest_ns.get(part, stamp_ns) <= stamp_ns for part in missing)
            if hopeful and not _too_many(len(self._waiting), match.parts):
                return
            del self._waiting[stamp_ns]
            yield match


def _too_many(count: int, first: Dict[str, RawMessage]) -> bool:
    """Whether so many wait that ``WINDOW`` and, all being like the first, ``WINDOW_BYTES`` pass."""
    return count > WINDOW and count * sum(len(m.data) for m in first.values()) > WINDOW_BYTES


BoxLabels = Mapping[str, LabelSet]
"""What the class names of ``true_boxes`` and ``boxes`` are of; a part that is not there is left."""


def camera_frames(
    messages: Iterable[RawMessage],
    topics: Topics,
    labels: BoxLabels,
    drives: DriveCounter,
    report: Report,
) -> Iterator[Union[Frame, Problem]]:
    """Frames of an image and its truth, in the order of the images."""
    for match in _decoded_matches(messages, topics, "image", report):
        if isinstance(match, Problem):
            yield match
            continue
        yield Frame(
            match.name,
            match.arrays["image"],
            match.arrays.get("truth"),
            stamp_ns=match.stamp_ns,
            position=_position(match, drives),
            message=match.lead.data,
            recorded_ns=match.lead.recorded_ns,
            frame_id=match.frame_id,
            true_boxes=_boxes(match, "true_boxes", true_boxes_of, labels, report),
        )


def recorded_frames(
    messages: Iterable[RawMessage],
    topics: Topics,
    labels: BoxLabels,
    drives: DriveCounter,
    report: Report,
) -> Iterator[Union[ScoredFrame, Problem]]:
    """Frames with the prediction that was recorded; ``Lost`` where there is none.

    The images say which frames there were, without images the ground truth where it is as dense.
    """
    assert topics.prediction is not None
    for match in _decoded_matches(messages, topics, _leading(topics), report):
        if isinstance(match, Problem):
            yield match
            continue
        position = _position(match, drives)
        if "prediction" not in match.arrays:
            yield Lost(match.name, "no message of this stamp on %s" % topics.prediction.name)
            continue
        yield ScoredFrame(
            match.name,
            match.arrays["prediction"],
            match.stamp_ns,
            match.arrays.get("image"),
            match.arrays.get("truth"),
            stages_ms=_stages_ms(match.parts.get("latency"), report),
            position=position,
            true_boxes=_boxes(match, "true_boxes", true_boxes_of, labels, report),
            boxes=_boxes(match, "boxes", boxes_of, labels, report),
        )


def _decoded_matches(
    messages: Iterable[RawMessage], topics: Topics, leading: str, report: Report
) -> Iterator[Union[Match, Problem]]:
    parts = {topic.name: part for part, topic in topics._asdict().items() if topic is not None}
    matcher = Matcher([part for part in parts.values() if part != leading], leading, report)
    found = (matcher.add(parts[message.topic], message) for message in messages)
    for match in chain(chain.from_iterable(found), matcher.finish()):
        yield match if isinstance(match, Problem) else _decoded(match)


def _leading(topics: Topics) -> str:
    if topics.image is not None:
        return "image"
    assert topics.prediction is not None
    dense = topics.truth is not None and topics.truth.count >= topics.prediction.count
    return "truth" if dense else "prediction"


def _position(match: Match, drives: DriveCounter) -> Optional[DrivePosition]:
    # Some drivers leave the stamp zero.
    return drives.position(match.number, match.stamp_ns or match.lead.recorded_ns)


_DECODERS: Dict[str, Callable[[bytes, str], np.ndarray]] = {
    "image": image_of,
    "truth": ids_of,
    "prediction": ids_of,
}


def _decoded(match: Match) -> Union[Match, Problem]:
    for part, decode in _DECODERS.items():
        message = match.parts.get(part)
        if message is None:
            continue
        try:
            match.arrays[part] = decode(message.data, message.type)
        except ImageError as error:
            return _problem("frame %s on %s" % (match.name, message.topic), str(error))
    sizes = {part: array.shape[:2] for part, array in match.arrays.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join("%s %dx%d" % (part, s[1], s[0]) for part, s in sizes.items())
        return _problem("frame " + match.name, "its parts have different sizes: " + found)
    return match


def _stages_ms(latency: Optional[RawMessage], report: Report) -> Dict[str, float]:
    if latency is None:
        return {}
    try:
        return stages_of(latency.data)
    except ImageError as error:
        report("%s: %s" % (_where(latency), error))
        return {}


def _boxes(
    match: Match,
    part: str,
    decode: Callable[[bytes, LabelSet], Any],
    labels: BoxLabels,
    report: Report,
) -> Any:
    """What the message of this part says; None without one, or where it cannot be read."""
    message = match.parts.get(part)
    if message is None or part not in labels:
        return None
    try:
        return decode(message.data, labels[part])
    except ImageError as error:
        report("%s: %s" % (_where(message), error))
        return None


def _unusable(message: RawMessage, reason: str) -> Problem:
    return _problem(_where(message), reason)


def _where(message: RawMessage) -> str:
    return "message on %s recorded at %s" % (message.topic, stamp_text(message.recorded_ns))


def _problem(where: str, reason: str) -> Problem:
    return Problem(where, "%s: %s" % (where, reason))
