"""What a live evaluation plays: a bag as it was recorded, or the images of a data set."""

import argparse
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from segmentation_node.errors import BagError
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.sources import (
    BagOptions,
    CameraSource,
    DatasetSource,
    import_bags,
)
from segmentation_node.labels import LabelSet

COMPRESSED = "sensor_msgs/msg/CompressedImage"
# A data set's images have no topic of their own.
DATASET_TOPIC = "/camera/image_raw"
ALL = "all"


@dataclass
class LiveSource:
    """Frames to play and what is known of them.

    ``items`` gives ``PlayedImage`` (its payload a ``Frame``), ``PlayedMessage`` and
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
    source = DatasetSource(dataset, arguments.dataset)
    with closing(source.frames()) as frames:
        yield LiveSource(
            (
                PlayedImage(item.image_hwc, item) if isinstance(item, Frame) else item
                for item in frames
            ),
            source.length,
            source.truth,
            source.facts,
            arguments.image_topic or DATASET_TOPIC,
            instance_classes=source.instance_classes,
        )


@contextmanager
def _open_bag(arguments: argparse.Namespace) -> Iterator[LiveSource]:
    bags = import_bags()
    with bags.open_bag(arguments.bag, arguments.strict) as bag, bags.open_bag(
        arguments.bag
    ) as beside:
        source = CameraSource(bag, bag_options(arguments))
        image = source.topics.image
        others = _other_topics(bag, arguments.also, image.name)
        frames = bag.frames(source.topics)
        items = _played(frames, beside.messages(sorted(others)) if others else iter(()))
        with closing(iterate_ahead(items)) as ahead:
            yield LiveSource(
                ahead,
                source.length,
                source.truth,
                source.facts,
                image.name,
                image.type == COMPRESSED,
                other_topics=others,
                warnings=source.warnings,
            )


def bag_options(arguments: argparse.Namespace) -> BagOptions:
    """Which topics of the bag the command line means."""
    return BagOptions(arguments.image_topic, arguments.truth_topic, labels=arguments.labels)


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
    from segmentation_node.evaluation.live.replay import PlayedMessage

    other = next(others, None)
    for frame in frames:
        if isinstance(frame, Problem):
            yield frame
            continue
        while other is not None and other.recorded_ns <= frame.recorded_ns:
            yield PlayedMessage(other.topic, bytes(other.data), other.recorded_ns)
            other = next(others, None)
        yield _played_image(frame)
    while other is not None:
        yield PlayedMessage(other.topic, bytes(other.data), other.recorded_ns)
        other = next(others, None)


def _played_image(frame: Frame) -> Any:
    from segmentation_node.evaluation.live.replay import PlayedImage

    assert frame.message is not None and frame.stamp_ns is not None
    return PlayedImage(
        frame.image_hwc,
        frame,
        bytes(frame.message),
        frame.stamp_ns,
        frame.frame_id,
        frame.recorded_ns,
    )
