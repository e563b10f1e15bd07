"""What a live evaluation plays, a bag or a data set; or what it expects somebody else to play."""

from collections import OrderedDict
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import (
    Any,
    ContextManager,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from segmentation_node.errors import BagError, ImageError, SegmentationError
from segmentation_node.evaluation.clip import Clip
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.frame import Frame, Lost, Problem, stamp_text
from segmentation_node.evaluation.live.replay import PlayedMessage
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.sources import (
    BagOptions,
    CameraSource,
    DatasetSource,
    Source,
    import_bags,
)
from segmentation_node.labels import label_set_by_name

COMPRESSED = "sensor_msgs/msg/CompressedImage"
# A data set's images have no topic of their own.
DATASET_TOPIC = "/camera/image_raw"
# A camera that runs beside a demo must not reach its node.
CLIP_TOPIC = "/demo/image"
ALL = "all"
# Frames of a bag whose results may come after those of later ones.
FRAMES_KEPT = 64
NOTHING_CAME = "no result came, nor its image to this listener: lost on the way, or not played"

Played = Union[Frame, PlayedMessage, Problem]


@dataclass(frozen=True)
class SourceOptions:
    """A bag, a data set or a clip; without any, images that somebody else plays.

    ``topics`` are those of the bag, or of whoever plays. ``also`` names other topics of the bag
    to play, or says ``all``.
    """

    bag: str = ""
    dataset: str = ""
    root: str = ""
    split: str = "val"
    clip: Optional[Clip] = None
    iiou: bool = True
    topics: BagOptions = BagOptions()
    also: Sequence[str] = ()
    strict: bool = False


@dataclass
class LiveSource:
    """Images that reach the node, and ``data``: what is known before the first one comes.

    ``image_topic`` is in full, without ``/compressed``.
    """

    image_topic: str
    compressed: bool
    data: Source


@dataclass
class PlayedSource(LiveSource):
    """Images to play. ``other_topics``: name -> type, latched."""

    items: Iterator[Played] = iter(())
    other_topics: Dict[str, Tuple[str, bool]] = field(default_factory=dict)


@dataclass
class ExpectedSource(LiveSource):
    """Images that somebody else plays, of which is known what is heard.

    ``numbers`` are those of the images by stamp in ns, where a bag says what is to come; one
    number of several for a stamp in ``repeated``.
    """

    truth_topic: str = ""
    numbers: Dict[int, int] = field(default_factory=dict)
    repeated: Set[int] = field(default_factory=set)

    def frame(self, result: Any) -> Union[Frame, Problem, None]:
        """The frame of a result, or why there is none; None where ``rest`` will say it."""
        name, heard = stamp_text(result.stamp_ns), result.payload
        if result.image_hwc is None:
            return Problem(name, heard.image_error)
        place = ("", result.index)
        return Frame(
            name, result.image_hwc, heard.truth_hw, stamp_ns=result.stamp_ns, position=place
        )

    def lost(self, result: Any, reason: str) -> Optional[Problem]:
        """What became of an image without a result; None as above."""
        return Lost(stamp_text(result.stamp_ns), reason)

    def rest(self) -> Iterator[Problem]:
        """What is left in the end, all results being there."""
        return iter(())


@dataclass
class ExpectedBag(ExpectedSource):
    """A bag's frames: image and truth are taken from it, whatever the listener misses of them.

    They are read once, in their order, in which results come.
    """

    data: CameraSource

    def __post_init__(self) -> None:
        self._frames = self.data.frames()
        self._reached = -1
        self._kept: "OrderedDict[int, Frame]" = OrderedDict()
        self._given: List[Tuple[int, str]] = []
        self._problems: List[Problem] = []
        self._answered: Set[str] = set()
        self._reasons: Dict[int, str] = {}

    def frame(self, result: Any) -> Union[Frame, Problem, None]:
        stamp_ns = result.stamp_ns
        while stamp_ns not in self._kept and self._reached < self.numbers[stamp_ns]:
            if not self._read_next():
                break
        found = self._kept.pop(stamp_ns, None)
        if found is None:
            late = "its result came after those of %d later frames" % FRAMES_KEPT
            self._reasons.setdefault(stamp_ns, late)
        elif found.name not in self._answered:
            self._answered.add(found.name)
            return found
        return None

    def lost(self, result: Any, reason: str) -> Optional[Problem]:
        self._reasons[result.stamp_ns] = reason
        return None

    def rest(self) -> Iterator[Problem]:
        while self._read_next():
            pass
        yield from self._problems
        for stamp_ns, name in self._given:
            if name not in self._answered:
                yield Lost(name, self._reasons.get(stamp_ns, NOTHING_CAME))

    def close(self) -> None:
        """End the reading."""
        self._frames.close()

    def _read_next(self) -> bool:
        item = next(self._frames, None)
        if isinstance(item, Problem):
            self._problems.append(item)
        elif item is not None:
            stamp_ns = item.stamp_ns
            assert stamp_ns is not None, "a bag's frames have stamps"
            self._reached = self.numbers[stamp_ns]
            self._given.append((stamp_ns, item.name))
            self._kept[stamp_ns] = item
            if len(self._kept) > FRAMES_KEPT:
                self._kept.popitem(last=False)
        return item is not None


def open_played(options: SourceOptions) -> ContextManager[PlayedSource]:
    """What the options name."""
    if options.clip is not None:
        return _played_clip(options.clip)
    return (_played_bag if options.bag else _played_dataset)(options)


def open_expected(options: SourceOptions) -> ContextManager[ExpectedSource]:
    """What the bag holds, without a bag what the topics say. Raises SegmentationError."""
    return (_expected_bag if options.bag else _expected_topics)(options)


@contextmanager
def _expected_topics(options: SourceOptions) -> Iterator[ExpectedSource]:
    topics = options.topics
    if topics.truth_topic and not topics.labels:
        raise SegmentationError(
            "nothing says what the ids on %s mean: give --labels, or --bag" % topics.truth_topic
        )
    image_topic = topics.image_topic or ""
    yield ExpectedSource(
        base_topic(image_topic),
        image_topic.endswith("/compressed"),
        Source(label_set_by_name(topics.labels) if topics.labels else None),
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
        topic = base_topic(options.topics.image_topic or DATASET_TOPIC)
        yield PlayedSource(topic, False, source, frames)


@contextmanager
def _played_clip(clip: Clip) -> Iterator[PlayedSource]:
    yield PlayedSource(CLIP_TOPIC, False, clip, clip.frames)


@contextmanager
def _played_bag(options: SourceOptions) -> Iterator[PlayedSource]:
    bags = import_bags()
    with ExitStack() as opened:
        bag = opened.enter_context(bags.open_bag(options.bag, options.strict))
        source = CameraSource(bag, options.topics)
        image = source.topics.image
        others = _other_topics(bag, options.also, image.name)
        messages = ()
        if others:
            messages = opened.enter_context(bags.open_bag(options.bag)).messages(sorted(others))
        items = _in_recorded_order(bag.frames(source.topics), messages)
        ahead = opened.enter_context(closing(iterate_ahead(items)))
        is_compressed = image.type == COMPRESSED
        yield PlayedSource(base_topic(image.name), is_compressed, source, ahead, others)


def _other_topics(bag: Any, names: Sequence[str], image: str) -> Dict[str, Tuple[str, bool]]:
    """The topics that ``also`` names, without the image's."""
    from segmentation_node.evaluation.bags.topics import of_one_type

    known = {topic.name: topic for topic in bag.topics}
    wanted = sorted(known) if ALL in names else ["/" + name.strip("/") for name in names]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise BagError(
            "%s: no topic %s; it has %s" % (bag.path, missing[0], ", ".join(sorted(known)))
        )
    chosen = [of_one_type(known[name]) for name in wanted if name != image]
    return {topic.name: (topic.type, topic.latched) for topic in chosen}


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


@contextmanager
def _expected_bag(options: SourceOptions) -> Iterator[ExpectedSource]:
    with import_bags().open_bag(options.bag, options.strict) as bag:
        source = CameraSource(bag, options.topics)
        image = source.topics.image
        numbers, repeated = _numbers(bag, image.name)
        expected = ExpectedBag(
            base_topic(image.name),
            image.type == COMPRESSED,
            source,
            numbers=numbers,
            repeated=repeated,
        )
        with closing(expected):
            yield expected


def _numbers(bag: Any, image_topic: str) -> Tuple[Dict[int, int], Set[int]]:
    """The number of every image by its stamp, and the stamps that come again."""
    from segmentation_node.evaluation.bags.messages import header_of

    numbers: Dict[int, int] = {}
    repeated: Set[int] = set()
    for number, message in enumerate(bag.messages([image_topic])):
        try:
            stamp_ns = header_of(message.data).stamp_ns
        except ImageError:
            continue  # a problem among the frames
        if stamp_ns in numbers:
            repeated.add(stamp_ns)
        numbers.setdefault(stamp_ns, number)
    return numbers, repeated
