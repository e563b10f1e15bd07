"""What a live evaluation plays: a bag as it was recorded, or the images of a data set."""

import argparse
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from segmentation_node.errors import BagError
from segmentation_node.evaluation.dataset import read_frames
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.offline import InputFrame
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.run.consistency import DrivePosition
from segmentation_node.evaluation.run.run import Problem
from segmentation_node.labels import LabelSet

COMPRESSED = "sensor_msgs/msg/CompressedImage"
# A data set's images have no topic of their own.
DATASET_TOPIC = "/camera/image_raw"
ALL = "all"


@dataclass
class LiveSource:
    """Frames to play and what is known of them.

    ``items`` gives ``PlayedImage`` (its payload an ``InputFrame``), ``PlayedMessage`` and
    ``Problem``; ``warnings`` gives what else a reader of the score has to know, once they are
    through. ``image_topic`` is in full, ``/compressed`` included. ``other_topics``: name -> type,
    latched.
    """

    items: Iterator[Any]
    length: Optional[int]
    truth: Optional[LabelSet]
    facts: Dict[str, Any]
    image_topic: str
    compressed: bool = False
    instance_classes: Sequence[str] = ()
    other_topics: Dict[str, Tuple[str, bool]] = field(default_factory=dict)
    warnings: Callable[[], List[str]] = list


@contextmanager
def open_source(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    """The bag or the data set that the command line names."""
    with _open_bag(arguments) if arguments.bag else _open_dataset(arguments) as source:
        yield source


@contextmanager
def _open_dataset(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    from segmentation_node.evaluation.live.replay import PlayedImage

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
    from segmentation_node.evaluation.commands.lazily import import_bags

    bags = import_bags()
    from segmentation_node.evaluation import sources as scoring

    with bags.open_bag(arguments.bag, arguments.strict) as bag, bags.open_bag(
        arguments.bag
    ) as beside:
        topics = camera_topics(bag, arguments)
        truth = scoring.label_set_for(bag, topics.truth, arguments.labels)
        others = _other_topics(bag, arguments.also, topics.image.name)
        items = _played(bag, topics, beside.messages(sorted(others)) if others else iter(()))
        with closing(iterate_ahead(items)) as ahead:
            yield LiveSource(
                ahead,
                topics.image.count,
                truth,
                scoring.bag_facts(bag, topics),
                topics.image.name,
                topics.image.type == COMPRESSED,
                other_topics=others,
                warnings=lambda: scoring.warnings(bag, topics),
            )


def camera_topics(bag: Any, arguments: argparse.Namespace) -> Any:
    """The bag's camera and ground truth. Raises BagError, with what it has, without a camera."""
    from segmentation_node.evaluation.bags.frames import listed

    topics = bag.choose_topics(arguments.image_topic, arguments.truth_topic, "")
    if topics.image is None or topics.image.count == 0:
        raise BagError(
            "%s: no camera image; --image-topic names its topic; the bag has %s"
            % (bag.path, listed(bag.topics))
        )
    return topics


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


def _played(bag: Any, topics: Any, others: Iterator[Any]) -> Iterator[Any]:
    """Frames and other messages of a bag as a replay takes them, by their recorded times."""
    from segmentation_node.evaluation.live.replay import PlayedMessage
    from segmentation_node.evaluation.sources import (
        DriveCounter,
        frames_and_problems,
        is_single_images,
    )

    counter = DriveCounter(is_single_images(bag))
    other = next(others, None)
    for frame in frames_and_problems(bag, topics, "image"):
        if isinstance(frame, Problem):
            yield frame
            continue
        assert frame.image is not None
        while other is not None and other.recorded_ns <= frame.image.recorded_ns:
            yield PlayedMessage(other.topic, bytes(other.data), other.recorded_ns)
            other = next(others, None)
        yield _played_image(frame, counter.position(frame))
    while other is not None:
        yield PlayedMessage(other.topic, bytes(other.data), other.recorded_ns)
        other = next(others, None)


def _played_image(frame: Any, position: Optional[DrivePosition]) -> Any:
    from segmentation_node.evaluation.live.replay import PlayedImage

    payload = InputFrame(
        frame.name, frame.image_hwc, frame.truth_hw, stamp_ns=frame.stamp_ns, position=position
    )
    return PlayedImage(
        frame.image_hwc,
        payload,
        bytes(frame.image.data),
        frame.stamp_ns,
        frame.frame_id,
        frame.image.recorded_ns,
    )
