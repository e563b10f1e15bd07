"""What a live evaluation plays, a bag or a data set; or what it expects somebody else to play."""

from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from segmentation_node.errors import BagError, SegmentationError
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.frame import DrivePosition, Frame, Problem, stamp_text
from segmentation_node.evaluation.live.replay import PlayedMessage
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.sources import (
    BagOptions,
    CameraSource,
    DatasetSource,
    import_bags,
)
from segmentation_node.labels import LabelSet, label_set_by_name

COMPRESSED = "sensor_msgs/msg/CompressedImage"
# A data set's images have no topic of their own.
DATASET_TOPIC = "/camera/image_raw"
ALL = "all"

Played = Union[Frame, PlayedMessage, Problem]
ExpectedFrame = Tuple[str, Optional[DrivePosition]]


@dataclass(frozen=True)
class SourceOptions:
    """A bag, or a data set; without either, images that somebody else plays.

    ``topics`` are those of the bag, or of whoever plays. ``also`` names other topics of the bag
    to play, or says ``all``.
    """

    bag: str = ""
    dataset: str = ""
    root: str = ""
    split: str = "val"
    iiou: bool = True
    topics: BagOptions = BagOptions()
    also: Sequence[str] = ()
    strict: bool = False


@dataclass
class LiveSource:
    """What is known of the images before the first one comes.

    ``image_topic`` is in full, without ``/compressed``; ``truth`` is the label set of the ground
    truth, None where there is none; ``length`` is None where nobody knows it.
    """

    image_topic: str
    compressed: bool
    truth: Optional[LabelSet]
    length: Optional[int]
    facts: Dict[str, Any]
    instance_classes: Sequence[str] = ()


@dataclass
class PlayedSource(LiveSource):
    """Images to play. ``other_topics``: name -> type, latched.

    ``warnings`` gives what else a reader of the score has to know, once ``items`` are through.
    """

    items: Iterator[Played] = iter(())
    other_topics: Dict[str, Tuple[str, bool]] = field(default_factory=dict)
    warnings: Callable[[], List[str]] = list


@dataclass
class ExpectedSource(LiveSource):
    """Images that somebody else plays; from a bag also which: stamp in ns -> name and place."""

    truth_topic: str = ""
    frames: Dict[int, ExpectedFrame] = field(default_factory=dict)

    def frame(self, stamp_ns: int, index: int) -> ExpectedFrame:
        """Name and place of an image heard; without a bag frames follow as they come."""
        without = (stamp_text(stamp_ns), None if self.frames else ("", index))
        return self.frames.get(stamp_ns, without)


@contextmanager
def open_played(options: SourceOptions) -> Iterator[PlayedSource]:
    """The bag or the data set that the options name."""
    with (_played_bag if options.bag else _played_dataset)(options) as source:
        yield source


def open_expected(options: SourceOptions) -> ExpectedSource:
    """What the bag holds, without a bag what the topics say. Raises SegmentationError."""
    if options.bag:
        return _expected_of_bag(options)
    topics = options.topics
    if topics.truth_topic and not topics.labels:
        raise SegmentationError(
            "nothing says what the ids on %s mean: give --labels, or --bag" % topics.truth_topic
        )
    image_topic = topics.image_topic or ""
    return ExpectedSource(
        base_topic(image_topic),
        image_topic.endswith("/compressed"),
        label_set_by_name(topics.labels) if topics.labels else None,
        None,
        {},
        truth_topic=topics.truth_topic or "",
    )


def base_topic(topic: str) -> str:
    """An image topic in full without ``/compressed``."""
    topic = "/" + topic.strip("/")
    return topic[: -len("/compressed")] if topic.endswith("/compressed") else topic


@contextmanager
def _played_dataset(options: SourceOptions) -> Iterator[PlayedSource]:
    dataset = open_dataset(
        options.dataset, options.root, options.split, with_instances=options.iiou
    )
    source = DatasetSource(dataset, options.dataset)
    with closing(source.frames()) as frames:
        yield PlayedSource(
            base_topic(options.topics.image_topic or DATASET_TOPIC),
            False,
            source.truth,
            source.length,
            source.facts,
            source.instance_classes,
            items=frames,
        )


@contextmanager
def _played_bag(options: SourceOptions) -> Iterator[PlayedSource]:
    bags = import_bags()
    with bags.open_bag(options.bag, options.strict) as bag, bags.open_bag(options.bag) as beside:
        source = CameraSource(bag, options.topics)
        image = source.topics.image
        others = _other_topics(bag, options.also, image.name)
        frames = bag.frames(source.topics)
        items = _in_recorded_order(frames, beside.messages(sorted(others)) if others else ())
        with closing(iterate_ahead(items)) as ahead:
            yield PlayedSource(
                base_topic(image.name),
                image.type == COMPRESSED,
                source.truth,
                source.length,
                source.facts,
                items=ahead,
                other_topics=others,
                warnings=source.warnings,
            )


def _other_topics(bag: Any, names: Sequence[str], image: str) -> Dict[str, Tuple[str, bool]]:
    """The topics that ``also`` names, without the image's."""
    known = {topic.name: (topic.type, topic.latched) for topic in bag.topics}
    wanted = sorted(known) if ALL in names else ["/" + name.strip("/") for name in names]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise BagError(
            "%s: no topic %s; it has %s" % (bag.path, missing[0], ", ".join(sorted(known)))
        )
    return {name: known[name] for name in wanted if name != image}


def _in_recorded_order(
    frames: Iterable[Union[Frame, Problem]], others: Iterable[Any]
) -> Iterator[Played]:
    """Frames, and between them what was recorded on other topics before them."""
    messages = (PlayedMessage(item.topic, bytes(item.data), item.recorded_ns) for item in others)
    message = next(messages, None)
    for frame in frames:
        recorded_ns = getattr(frame, "recorded_ns", None)  # a problem has no time
        while message and recorded_ns is not None and message.recorded_ns <= recorded_ns:
            yield message
            message = next(messages, None)
        yield frame
    if message:
        yield message
    yield from messages


def _expected_of_bag(options: SourceOptions) -> ExpectedSource:
    with import_bags().open_bag(options.bag) as bag:
        source = CameraSource(bag, options.topics)
        image, truth = source.topics.image, source.topics.truth
        frames = _expected_frames(bag, image.name)
        return ExpectedSource(
            base_topic(image.name),
            image.name.endswith("/compressed"),
            source.truth,
            len(frames),
            source.facts,
            truth_topic=truth.name if truth is not None else "",
            frames=frames,
        )


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
