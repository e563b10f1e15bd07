"""Where frames come from, a data set or a bag: labels, provenance, and the frames themselves."""

from dataclasses import dataclass, field
from typing import Any, Dict, Generator, List, NamedTuple, Optional, Sequence, Tuple, Union

from segmentation_node.errors import BagError, DatasetError
from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.frame import Frame, Problem, ScoredFrame
from segmentation_node.evaluation.read_ahead import iterate_ahead, read_ahead
from segmentation_node.evaluation.run.detection_scores import DetectionScores, things_among
from segmentation_node.evaluation.run.run import Run
from segmentation_node.geometry import WHOLE_IMAGE, Geometry
from segmentation_node.labels import LABEL_SETS, Grouping, LabelSet, label_set_by_name

Frames = Generator[Union[Frame, Problem], None, None]
RecordedFrames = Generator[Union[ScoredFrame, Problem], None, None]


class BoxTruth(NamedTuple):
    """The label set of true boxes, None where there are none, and the classes that have them."""

    labels: Optional[LabelSet] = None
    classes: Tuple[str, ...] = ()

    def scores(
        self, predicted: LabelSet, grouping: Optional[Grouping]
    ) -> Optional[DetectionScores]:
        """What counts a network's boxes against them; None where there is nothing to count.

        Groups of classes have no things.
        """
        if self.labels is None or not self.classes or grouping is not None:
            return None
        return DetectionScores(predicted, self.labels, self.classes)


@dataclass
class Source:
    """Frames to be scored, and what is known of them before the first is read.

    ``truth`` is the label set of their ground truth, None where there is none; ``length`` is None
    where nobody knows it; ``facts`` go into the report as they are.
    """

    truth: Optional[LabelSet] = None
    length: Optional[int] = None
    facts: Dict[str, Any] = field(default_factory=dict)
    instance_classes: Tuple[str, ...] = ()
    box_truth: BoxTruth = BoxTruth()

    def warnings(self) -> List[str]:
        """What a reader of the score has to know of the data, once its frames were read."""
        return []

    def new_run(
        self,
        predicted: LabelSet,
        facts: Dict[str, Any],
        grouping: Optional[Grouping] = None,
        geometry: Geometry = WHOLE_IMAGE,
    ) -> Run:
        """A run without frames; ``facts`` say what segments them."""
        facts = dict(facts, **self.facts)
        boxes = self.box_truth.scores(predicted, grouping)
        return Run(predicted, self.truth, facts, self.instance_classes, grouping, geometry, boxes)


class DatasetSource(Source):
    """A data set's split; ``name`` is what ``datasets.DATASETS`` calls it."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._dataset = dataset
        self.truth = dataset.label_set if dataset.has_labels else None
        self.box_truth = BoxTruth(dataset.label_set, dataset.box_classes)
        self.length = len(dataset)
        self.facts = {"dataset": name, "split": dataset.split}
        self.instance_classes = dataset.instance_classes if dataset.with_instances else ()

    def warnings(self) -> List[str]:
        """What of the data set is not read."""
        return list(self._dataset.notes)

    def frames(self, indices: Optional[Sequence[int]] = None) -> Frames:
        """All frames, or those of ``indices``, read on a thread in advance."""
        wanted = range(len(self._dataset)) if indices is None else indices
        return read_ahead(self, wanted)

    def __getitem__(self, index: int) -> Union[Frame, Problem]:
        """The frame of this index, or why there is none."""
        try:
            return self._dataset[index]
        except DatasetError as error:
            return Problem(self._dataset.sample_name(index), str(error))


@dataclass(frozen=True)
class BagOptions:
    """Which topics of a bag are meant, and which label sets; None is what the bag itself says.

    An empty topic leaves it out.
    """

    image_topic: Optional[str] = None
    truth_topic: Optional[str] = None
    prediction_topic: Optional[str] = None
    labels: Optional[str] = None
    prediction_labels: Optional[str] = None


class BagSource(Source):
    """What frames of a bag have in common; ``labels`` names the truth's label set."""

    def __init__(self, bag: Any, topics: Any, labels: Optional[str]) -> None:
        self.bag = bag
        self.topics = topics
        self._has_truth = topics.truth is not None and topics.truth.count > 0
        self.truth = _label_set(bag, topics.truth, labels, "--labels") if self._has_truth else None
        if topics.true_boxes is not None:
            found = bag.label_set_of(topics.true_boxes)
            self.box_truth = BoxTruth(found, things_among(found) if found else ())
        self.facts = dict({"bag": bag.path}, **bag.origin)
        for part, topic in topics._asdict().items():
            if topic is not None:
                self.facts[part + "_topic"] = topic.name

    def warnings(self) -> List[str]:
        """Damage of the bag, and that it has no ground truth."""
        lines = list(self.bag.damage)
        if not self._has_truth:
            lines.append("%s: no ground truth; it has %s" % (self.bag.path, self.bag.listing()))
        return lines


class CameraSource(BagSource):
    """The images of a bag, to be segmented, with their ground truth.

    Raises BagError, with what the bag has, where it is not clear what is meant or has no frame.
    """

    def __init__(self, bag: Any, options: BagOptions) -> None:
        topics = bag.choose_topics(options.image_topic, options.truth_topic, "")
        _require(bag, topics.image, "camera image", "--image-topic")
        super().__init__(bag, topics, options.labels)
        self.length = topics.image.count

    def frames(self) -> Frames:
        """All frames, read and decoded on a thread in advance."""
        return iterate_ahead(self.bag.frames(self.topics))


class RecordedSource(BagSource):
    """The predictions that were recorded in a bag, of the label set ``predicted``; and see above.

    Without ground truth there is nothing to score: that is a BagError too.
    """

    def __init__(self, bag: Any, options: BagOptions) -> None:
        topics = bag.choose_topics(
            options.image_topic, options.truth_topic, options.prediction_topic
        )
        _require(bag, topics.prediction, "recorded class map", "--model, or --prediction-topic")
        _require(bag, topics.truth, "ground truth", "--truth-topic")
        # Of the true class map the boxes may be scored: how far class maps can give boxes at all.
        has_boxes = topics.true_boxes is not None and topics.true_boxes.count
        if topics.truth.name == topics.prediction.name and not has_boxes:
            raise BagError(
                "%s: %s is both ground truth and prediction: name another with --truth-topic or "
                "--prediction-topic, or --model; the bag has %s"
                % (bag.path, topics.truth.name, bag.listing())
            )
        super().__init__(bag, topics, options.labels)
        self.predicted = _label_set(
            bag, topics.prediction, options.prediction_labels, "--prediction-labels"
        )
        self.length = topics.prediction.count

    def frames(self) -> RecordedFrames:
        """All frames, read and decoded on a thread in advance."""
        return iterate_ahead(self.bag.recorded_frames(self.topics))


def import_bags() -> Any:
    """The package ``evaluation.bags``. Raises BagError where its library is missing."""
    try:
        from segmentation_node.evaluation import bags
    except ImportError as error:
        raise BagError(
            "bags need rosbags, and that Python 3.10 or newer: run make setup (%s)" % error
        ) from error
    return bags


def _require(bag: Any, topic: Any, what: str, option: str) -> None:
    damage = "".join("; " + line for line in bag.damage[:1])
    if topic is None:
        raise BagError(
            "%s: no %s found; %s names it; the bag has %s%s"
            % (bag.path, what, option, bag.listing(), damage)
        )
    if topic.count == 0:
        raise BagError("%s: no message on %s%s" % (bag.path, topic.name, damage))


def _label_set(bag: Any, topic: Any, given: Optional[str], option: str) -> LabelSet:
    """The label set of a topic of class maps; ``given`` by an option, it overrides the bag's."""
    found = label_set_by_name(given) if given else bag.label_set_of(topic)
    if found is None:
        raise BagError(
            "%s: nothing in it says what the ids on %s mean; %s names their label set (%s)"
            % (bag.path, topic.name, option, ", ".join(sorted(LABEL_SETS)))
        )
    return found
