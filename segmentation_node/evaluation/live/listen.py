"""Count what the node makes of images that somebody else plays, ``ros2 bag play`` or a camera."""

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Set, Tuple

from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.frame import DrivePosition, Frame, Problem
from segmentation_node.evaluation.live.evaluate import Finish
from segmentation_node.evaluation.live.node import (
    READY_TIMEOUT_S,
    base_topic,
    facts,
    node_of,
    predicted_labels,
    target_name,
)
from segmentation_node.evaluation.live.played import bag_options
from segmentation_node.evaluation.live.scorer import LiveScorer, heard_stages
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import CameraSource, import_bags
from segmentation_node.labels import LABEL_SETS, LabelSet

ExpectedFrame = Tuple[str, Optional[DrivePosition]]


@dataclass
class Expected:
    """What to listen to; from a bag also what has to come: stamp in ns -> name and place."""

    image_topic: str
    truth_topic: str
    truth: Optional[LabelSet] = None
    facts: Dict[str, Any] = field(default_factory=dict)
    frames: Dict[int, ExpectedFrame] = field(default_factory=dict)

    def frame(self, stamp_ns: int, index: int) -> ExpectedFrame:
        """Name and place of an image heard; without a bag frames follow as they come."""
        name = "%d.%09d" % divmod(stamp_ns, 10**9)
        without = (name, None if self.frames else ("", index))
        return self.frames.get(stamp_ns, without)


def listen(arguments: argparse.Namespace, progress: Callable[[Any], Any], finish: Finish) -> int:
    """Start or find the node, and give ``finish`` the run, what fills it, and the pairing."""
    from segmentation_node.evaluation.live.listening import Listening

    expected = _expected(arguments)
    base = base_topic(expected.image_topic)
    compressed = expected.image_topic.endswith("/compressed")
    listening = Listening(
        target_name(arguments), base, compressed, expected.truth_topic, arguments.timeout
    )
    try:
        with node_of(arguments, listening, base, compressed) as (process, pids):
            listening.wait_until_ready(process, READY_TIMEOUT_S)
            found = dict(facts(arguments, listening.status), **expected.facts)
            run = Run(predicted_labels(listening.status), expected.truth, found)

            def fill() -> None:
                bar = progress(len(expected.frames) or None)
                with LiveScorer(run, arguments.strict, bar, pids) as scorer:
                    _fill(arguments, expected, listening, process, scorer)

            return finish(run, fill, listening.pairing)
    finally:
        listening.destroy_node()


def _fill(
    arguments: argparse.Namespace,
    expected: Expected,
    listening: Any,
    process: Any,
    scorer: LiveScorer,
) -> None:
    seen: Set[int] = set()

    def take(result: Any) -> None:
        seen.add(result.stamp_ns)
        heard = result.payload
        name, position = expected.frame(result.stamp_ns, result.index)
        if heard.image_error:
            scorer.skip(Problem(name, heard.image_error))
            return
        frame = Frame(
            name, result.image_hwc, heard.truth_hw, stamp_ns=result.stamp_ns, position=position
        )
        scorer.take(result, frame, heard_stages(result))

    def lose(result: Any, reason: str) -> None:
        seen.add(result.stamp_ns)
        scorer.lose(expected.frame(result.stamp_ns, result.index)[0], reason)

    listening.on_result, listening.on_lost = take, lose
    print("listening: play the images now", file=sys.stderr)
    try:
        listening.listen(process, arguments.idle)
        for stamp_ns, (name, _) in expected.frames.items():
            if stamp_ns not in seen:
                scorer.lose(name, "neither its image nor a result came")
    finally:
        scorer.note(
            listener_lost=listening.middleware_lost, unusable_truths=listening.unusable_truths
        )


def _expected(arguments: argparse.Namespace) -> Expected:
    if not arguments.bag:
        return _expected_without_bag(arguments)
    with import_bags().open_bag(arguments.bag) as bag:
        source = CameraSource(bag, bag_options(arguments))
        topics = source.topics
        return Expected(
            topics.image.name,
            topics.truth.name if topics.truth is not None else "",
            source.truth,
            source.facts,
            _expected_frames(bag, topics.image.name),
        )


def _expected_without_bag(arguments: argparse.Namespace) -> Expected:
    if arguments.truth_topic and not arguments.labels:
        raise SegmentationError(
            "nothing says what the ids on %s mean: give --labels, or --bag" % arguments.truth_topic
        )
    labels = LABEL_SETS[arguments.labels] if arguments.labels else None
    return Expected(arguments.image_topic, arguments.truth_topic or "", labels)


def _expected_frames(bag: Any, image_topic: str) -> Dict[int, ExpectedFrame]:
    """Every image of the bag as ``bag.frames`` calls and places it, without decoding one."""
    from segmentation_node.evaluation.bags.frames import frame_name
    from segmentation_node.evaluation.bags.messages import header_of

    counter = bag.drive_counter()
    found: Dict[int, ExpectedFrame] = {}
    for number, message in enumerate(bag.messages([image_topic])):
        stamp_ns, _ = header_of(message.data)
        position = counter.position(number, stamp_ns or message.recorded_ns)
        found.setdefault(stamp_ns, (frame_name(number, stamp_ns), position))
    return found
