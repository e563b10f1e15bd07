"""What a live evaluation plays: a bag as it was recorded, or the images of a data set."""

import argparse
import heapq
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from segmentation_node.errors import BagError
from segmentation_node.evaluation.dataset import read_frames
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.offline import InputFrame
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.scoring import Problem
from segmentation_node.labels import LabelSet

COMPRESSED = "sensor_msgs/msg/CompressedImage"
# A data set's images have no topic of their own.
DATASET_TOPIC = "/camera/image_raw"
ALL = "all"


@dataclass
class LiveSource:
    """Frames to play and what is known of them.

    ``items`` gives ``PlayedImage`` (its payload an ``InputFrame``), ``PlayedMessage`` and
    ``Problem``; ``problems`` gives what was found beside those, once the items are through.
    ``image_topic`` is in full, ``/compressed`` included; ``truth_topic`` is empty where there is
    none. ``other_topics``: name -> type, latched.
    """

    items: Iterator[Any]
    length: Optional[int]
    truth: Optional[LabelSet]
    facts: Dict[str, Any]
    image_topic: str
    compressed: bool = False
    truth_topic: str = ""
    instance_classes: Sequence[str] = ()
    other_topics: Dict[str, Tuple[str, bool]] = field(default_factory=dict)
    problems: Callable[[], List[Problem]] = list


@contextmanager
def open_source(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    """The bag or the data set that the command line names."""
    with _open_bag(arguments) if arguments.bag else _open_dataset(arguments) as source:
        yield source


@contextmanager
def _open_dataset(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    from segmentation_node.ros.replay import PlayedImage

    dataset = open_dataset(
        arguments.dataset, arguments.root, arguments.split, with_instances=arguments.iiou
    )
    with closing(read_frames(dataset, range(len(dataset)))) as frames:
        yield LiveSource(
            (
                PlayedImage(item.image_hwc, item) if isinstance(item, InputFrame) else item
                for item in frames
            ),
            len(dataset),
            dataset.label_set,
            {"dataset": arguments.dataset, "split": arguments.split},
            arguments.image_topic or DATASET_TOPIC,
            instance_classes=dataset.instance_classes if dataset.with_instances else (),
        )


@contextmanager
def _open_bag(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    from segmentation_node.evaluation.bags import open_bag

    with open_bag(arguments.bag, arguments.strict) as bag, open_bag(arguments.bag) as beside:
        topics = bag.choose_topics(arguments.image_topic, arguments.truth_topic, "")
        if topics.image is None:
            raise BagError(
                "%s: no image topic; it has %s"
                % (arguments.bag, ", ".join(topic.name for topic in bag.topics) or "no topics")
            )
        truth = bag.label_set_of(topics.truth) if topics.truth is not None else None
        others = _other_topics(bag, arguments.also, topics.image.name)
        truth_topic = topics.truth.name if topics.truth is not None else ""
        frames = bag.frames(topics.image.name, truth_topic, "")
        items = _played(frames, beside.messages(sorted(others)) if others else iter(()))
        with closing(iterate_ahead(items)) as ahead:
            yield LiveSource(
                ahead,
                topics.image.count,
                truth,
                {"bag": arguments.bag, "image_topic": topics.image.name},
                topics.image.name,
                topics.image.type == COMPRESSED,
                truth_topic,
                other_topics=others,
                problems=lambda: [Problem(*problem) for problem in bag.problems],
            )


def _other_topics(bag: Any, names: Sequence[str], image: str) -> Dict[str, Tuple[str, bool]]:
    """The topics that ``--also`` names, without the image's."""
    known = {topic.name: (topic.type, topic.latched) for topic in bag.topics}
    wanted = sorted(known) if ALL in names else ["/" + name.strip("/") for name in names]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise BagError(
            "%s: no topic %s; it has %s" % (bag.path, missing[0], ", ".join(sorted(known)))
        )
    return {name: known[name] for name in wanted if name != image}


def _played(frames: Iterator[Any], others: Iterator[Any]) -> Iterator[Any]:
    """Frames and other messages of a bag as a replay takes them, by their recorded times."""
    from segmentation_node.ros.replay import PlayedMessage

    messages = (
        PlayedMessage(message.topic, bytes(message.data), message.recorded_ns) for message in others
    )
    images = (_played_image(frame, number) for number, frame in enumerate(frames))
    return heapq.merge(images, messages, key=lambda item: item.recorded_ns)


def _played_image(frame: Any, number: int) -> Any:
    from segmentation_node.ros.replay import PlayedImage

    payload = InputFrame(
        frame.name,
        frame.image_hwc,
        frame.truth_hw,
        stamp_ns=frame.stamp_ns,
        position=("", number),
    )
    return PlayedImage(
        frame.image_hwc,
        payload,
        bytes(frame.image.data),
        frame.stamp_ns,
        frame.frame_id,
        frame.image.recorded_ns,
    )
