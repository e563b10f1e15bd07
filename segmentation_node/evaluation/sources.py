"""A bag's frames for scoring: to be segmented, or with the predictions that were recorded."""

from typing import Any, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Union

from segmentation_node.errors import BagError, DatasetError
from segmentation_node.evaluation.bags.frames import BagFrame, Topics, listed
from segmentation_node.evaluation.bags.reader import Bag
from segmentation_node.evaluation.bags.record import DATASET, SINGLE, SPLIT
from segmentation_node.evaluation.bags.records import Topic
from segmentation_node.evaluation.offline import InputFrame
from segmentation_node.evaluation.read_ahead import iterate_ahead
from segmentation_node.evaluation.run.consistency import DrivePosition
from segmentation_node.evaluation.run.run import Problem, Run, ScoredFrame
from segmentation_node.labels import LABEL_SETS, LabelSet, label_set_by_name

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

    def position(self, frame: BagFrame) -> Optional[DrivePosition]:
        """The frame's place; None where the bag says that its frames are single images."""
        if self._single:
            return None
        time_ns = frame.stamp_ns or frame.recorded_ns  # some drivers leave the stamp zero
        if self._last_ns is not None:
            if not 0 < time_ns - self._last_ns <= LARGEST_GAP_NS:
                self._drive += 1
        self._last_ns = time_ns
        return str(self._drive), frame.number


def is_single_images(bag: Bag) -> bool:
    """Whether the bag says that its frames are no drive."""
    return bag.custom_data.get(SINGLE) == "true"


def label_set_for(
    bag: Bag, topic: Optional[Topic], given: Optional[str], option: str = "--labels"
) -> Optional[LabelSet]:
    """The label set of a topic of class maps; ``given`` by an option, it overrides the bag's.

    None without a topic. Raises BagError where nothing says it.
    """
    if topic is None:
        return None
    found = label_set_by_name(given) if given else bag.label_set_of(topic)
    if found is None:
        raise BagError(
            "%s: nothing in it says what the ids on %s mean; %s names their label set (%s)"
            % (bag.path, topic.name, option, ", ".join(sorted(LABEL_SETS)))
        )
    return found


def input_frames(bag: Bag, topics: Topics) -> Generator[Union[InputFrame, Problem], None, None]:
    """Images with their truth, read and decoded ahead on a thread; broken ones as problems."""
    counter = DriveCounter(is_single_images(bag))
    for frame in _ahead(bag, topics._replace(prediction=None), "image"):
        if isinstance(frame, Problem):
            yield frame
            continue
        assert frame.image_hwc is not None
        yield InputFrame(
            frame.name,
            frame.image_hwc,
            frame.truth_hw,
            stamp_ns=frame.stamp_ns,
            position=counter.position(frame),
        )


class Lost(NamedTuple):
    """A frame that was recorded without a prediction."""

    name: str
    reason: str


Recorded = Union[ScoredFrame, Problem, Lost]


def recorded_frames(bag: Bag, topics: Topics) -> Generator[Recorded, None, None]:
    """The predictions that a bag holds, with their truth, and images for the report.

    The images say which frames there were, without images the ground truth where it is as dense.
    """
    counter = DriveCounter(is_single_images(bag))
    for frame in _ahead(bag, topics, _leading(topics)):
        if isinstance(frame, Problem):
            yield frame
            continue
        position = counter.position(frame)
        if frame.prediction_hw is None:
            assert topics.prediction is not None
            yield Lost(frame.name, "no message of this stamp on %s" % topics.prediction.name)
            continue
        yield ScoredFrame(
            frame.name,
            frame.prediction_hw,
            frame.stamp_ns,
            frame.image_hwc,
            frame.truth_hw,
            stages_ms=frame.stages_ms,
            position=position,
        )


def score_recorded(frames: Iterable[Recorded], run: Run, strict: bool = False) -> None:
    """Count recorded predictions in ``run``; one that cannot be counted is skipped.

    Under ``strict`` that, or a frame without a prediction, raises DatasetError instead.
    """
    for frame in frames:
        if isinstance(frame, ScoredFrame):
            try:
                run.add(frame)
            except DatasetError as error:
                if strict:
                    raise
                run.skip(frame.name, str(error))
        elif isinstance(frame, Lost):
            if strict:
                raise DatasetError("%s: %s" % (frame.name, frame.reason))
            run.lost(frame.name, frame.reason)
        else:
            run.skip(frame.name, frame.reason)


def _leading(topics: Topics) -> str:
    if topics.image is not None:
        return "image"
    assert topics.prediction is not None
    dense = topics.truth is not None and topics.truth.count >= topics.prediction.count
    return "truth" if dense else "prediction"


def bag_facts(bag: Bag, topics: Topics) -> Dict[str, Any]:
    """What was evaluated, for the report."""
    facts: Dict[str, Any] = {"bag": bag.path}
    for part, topic in topics._asdict().items():
        if topic is not None and part != "camera_info":
            facts[part + "_topic"] = topic.name
    for name, key in (("dataset", DATASET), ("split", SPLIT)):
        if key in bag.custom_data:
            facts[name] = bag.custom_data[key]
    return facts


def warnings(bag: Bag, topics: Topics) -> List[str]:
    """What a reader of the score has to know about the bag: damage, and labels that it lacks."""
    lines = [str(problem) for problem in bag.problems if not problem.is_frame]
    if topics.truth is None:
        lines.append("%s: no ground truth; it has %s" % (bag.path, listed(bag.topics)))
    return lines


def _ahead(
    bag: Bag, topics: Topics, leading: str
) -> Generator[Union[BagFrame, Problem], None, None]:
    yield from iterate_ahead(frames_and_problems(bag, topics, leading))


def frames_and_problems(
    bag: Bag, topics: Topics, leading: str
) -> Iterator[Union[BagFrame, Problem]]:
    """A bag's frames, and in their places those that are broken."""
    image, truth, prediction = (topic.name if topic else "" for topic in topics[:3])
    seen = 0
    for frame in bag.frames(image, truth, prediction, leading):
        found, seen = bag.problems[seen:], len(bag.problems)
        yield from _skipped(found)
        yield frame
    yield from _skipped(bag.problems[seen:])


def _skipped(problems: List[Any]) -> Iterator[Problem]:
    for problem in problems:
        if problem.is_frame:
            yield Problem(problem.name, str(problem))
