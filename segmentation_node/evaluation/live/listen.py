"""Count what the node makes of images that somebody else plays, ``ros2 bag play`` or a camera."""

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, Optional, Set

from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.live.node import (
    READY_TIMEOUT_S,
    base_topic,
    facts,
    node_of,
    predicted_labels,
    target_name,
    truth_labels,
)
from segmentation_node.evaluation.live.play import Finish
from segmentation_node.evaluation.live.scorer import LiveScorer, heard_stages
from segmentation_node.evaluation.offline import InputFrame
from segmentation_node.evaluation.scoring import Problem, Run
from segmentation_node.labels import LabelSet


@dataclass
class Expected:
    """What to listen to; from a bag also what has to come."""

    image_topic: str
    truth_topic: str
    truth: Optional[LabelSet] = None
    length: Optional[int] = None
    facts: Dict[str, Any] = field(default_factory=dict)


def listen(arguments: argparse.Namespace, progress: Callable[[Any], Any], finish: Finish) -> int:
    """Start or find the node, and give ``finish`` the run, what fills it, and the pairing."""
    from segmentation_node.ros.listening import Listening

    expected = _expected(arguments)
    truth = truth_labels(arguments, expected.truth_topic, expected.truth)
    base = base_topic(expected.image_topic)
    compressed = expected.image_topic.endswith("/compressed")
    listening = Listening(
        target_name(arguments), base, compressed, expected.truth_topic, arguments.timeout
    )
    try:
        with node_of(arguments, listening, base, compressed) as (process, pids):
            listening.wait_until_ready(process, READY_TIMEOUT_S)
            found = dict(facts(arguments, listening.status), **expected.facts)
            run = Run(predicted_labels(listening.status), truth, found)

            def fill() -> None:
                bar = progress(expected.length)
                with LiveScorer(run, arguments.strict, bar, pids) as scorer:
                    _fill(arguments, listening, process, scorer)

            return finish(run, fill, listening.pairing)
    finally:
        listening.destroy_node()


def _fill(arguments: argparse.Namespace, listening: Any, process: Any, scorer: LiveScorer) -> None:
    seen: Set[int] = set()

    def take(result: Any) -> None:
        seen.add(result.stamp_ns)
        heard = result.payload
        if heard.image_error:
            scorer.skip(Problem(_name(result.stamp_ns), heard.image_error))
            return
        frame = InputFrame(
            _name(result.stamp_ns),
            result.image_hwc,
            heard.truth_hw,
            stamp_ns=result.stamp_ns,
            position=("", result.index),
        )
        scorer.take(result, frame, heard_stages(result))

    def lose(result: Any, reason: str) -> None:
        seen.add(result.stamp_ns)
        scorer.lose(_name(result.stamp_ns), reason)

    listening.on_result, listening.on_lost = take, lose
    print("listening: play the images now", file=sys.stderr)
    try:
        listening.listen(process, arguments.idle)
        for stamp_ns in _stamps(arguments):
            if stamp_ns not in seen:
                scorer.lose(_name(stamp_ns), "neither its image nor a result came")
    finally:
        scorer.note(
            listener_lost=listening.middleware_lost, unusable_truths=listening.unusable_truths
        )


def _expected(arguments: argparse.Namespace) -> Expected:
    if not arguments.bag:
        return Expected(arguments.image_topic, arguments.truth_topic or "")
    from segmentation_node.evaluation.bags import open_bag

    with open_bag(arguments.bag) as bag:
        topics = bag.choose_topics(arguments.image_topic, arguments.truth_topic, "")
        if topics.image is None:
            raise SegmentationError("%s: no image topic to listen to" % arguments.bag)
        truth = topics.truth
        return Expected(
            topics.image.name,
            truth.name if truth is not None else "",
            bag.label_set_of(truth) if truth is not None else None,
            topics.image.count,
            {"bag": arguments.bag},
        )


def _stamps(arguments: argparse.Namespace) -> Iterator[int]:
    """The stamps in ns of the bag's images; none without a bag."""
    if not arguments.bag:
        return
    from segmentation_node.evaluation.bags import open_bag
    from segmentation_node.evaluation.bags.messages import header_of

    with open_bag(arguments.bag) as bag:
        topics = bag.choose_topics(arguments.image_topic, "", "")
        if topics.image is not None:
            for message in bag.messages([topics.image.name]):
                yield header_of(message.data).stamp_ns


def _name(stamp_ns: int) -> str:
    return "%d.%09d" % divmod(stamp_ns, 10**9)
