"""Score a model on a data set through the pipeline that the node runs."""

from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from segmentation_node.evaluation.datasets import Dataset, Sample
from segmentation_node.evaluation.instances import InstanceWeightedCounts
from segmentation_node.evaluation.metrics import ConfusionMatrix, mean_of_defined
from segmentation_node.evaluation.read_ahead import read_ahead
from segmentation_node.labels import CATEGORIES, LabelSet
from segmentation_node.pipeline import Segmenter
from segmentation_node.timing import RollingPercentiles

Scores = Dict[str, Optional[float]]


class CommonLevel:
    """The level on which a prediction and a truth can be compared.

    Classes where both use one label set; Cityscapes' 7 categories where they differ.
    """

    def __init__(self, predicted: LabelSet, truth: LabelSet) -> None:
        self.is_class_level = predicted.name == truth.name
        self.name = "class" if self.is_class_level else "category"
        self.names = truth.names if self.is_class_level else CATEGORIES
        self._predicted_lut = predicted.category_lut()
        self._truth_lut = truth.category_lut()

    def bring(self, truth_hw: np.ndarray, predicted_hw: np.ndarray) -> Tuple[Any, Any]:
        """Both label images on the common level: uint8 (H, W) each."""
        if self.is_class_level:
            return truth_hw, predicted_hw
        return self._truth_lut[truth_hw], self._predicted_lut[predicted_hw]

    def by_category(self, matrix: ConfusionMatrix) -> ConfusionMatrix:
        """Counts on this level as counts of categories."""
        if not self.is_class_level:
            return matrix
        return matrix.grouped(self._truth_lut, len(CATEGORIES))


@dataclass
class Evaluation:
    """The counts of a run and what they are counts of.

    ``instances`` counts for iIoU; it stays None where no instance ids are read.
    """

    level: CommonLevel
    matrix: ConfusionMatrix
    instances: Optional[InstanceWeightedCounts] = None
    frames: int = 0
    stages: Dict[str, RollingPercentiles] = field(default_factory=dict)

    def add(
        self,
        truth_hw: np.ndarray,
        predicted_hw: np.ndarray,
        instances_hw: Optional[np.ndarray] = None,
    ) -> None:
        """Count one frame: train ids of the truth's and of the prediction's label set."""
        self.matrix.add(*self.level.bring(truth_hw, predicted_hw))
        if self.instances is not None and instances_hw is not None:
            self.instances.add(instances_hw, predicted_hw)
        self.frames += 1

    def add_stages(self, stages_ms: Dict[str, float]) -> None:
        """Take one frame's stage times in ms."""
        for stage, value_ms in stages_ms.items():
            self.stages.setdefault(stage, RollingPercentiles(window=100000)).add(value_ms)

    def class_iou(self) -> Scores:
        """IoU by name on the common level; None where it is undefined."""
        return _scores(zip(self.level.names, self.matrix.class_iou()))

    def category_iou(self) -> Scores:
        """IoU by category, whatever the common level."""
        return _scores(zip(CATEGORIES, self.level.by_category(self.matrix).class_iou()))

    def class_iiou(self) -> Scores:
        """iIoU of the classes that have one; empty without instances or on category level."""
        if self.instances is None or not self.level.is_class_level:
            return {}
        return _scores(self.instances.class_iiou(self.matrix).items())

    def category_iiou(self) -> Scores:
        """iIoU of the categories that have one; empty without instances."""
        if self.instances is None:
            return {}
        categories = self.level.by_category(self.matrix)
        return _scores(self.instances.category_iiou(categories).items())

    def as_json(self) -> Dict[str, Any]:
        """What the commands write: undefined figures are null."""
        category_iou, class_iiou = self.category_iou(), self.class_iiou()
        category_iiou = self.category_iiou()
        return {
            "mean_iou": _defined(self.matrix.mean_iou()),
            "class_iou": self.class_iou(),
            "global_accuracy": _defined(self.matrix.global_accuracy()),
            "mean_accuracy": _defined(self.matrix.mean_accuracy()),
            "frames": self.frames,
            "level": self.level.name,
            "mean_category_iou": _mean(category_iou),
            "category_iou": category_iou,
            "mean_class_iiou": _mean(class_iiou),
            "class_iiou": class_iiou,
            "mean_category_iiou": _mean(category_iiou),
            "category_iiou": category_iiou,
            "stages_ms": {
                stage: {"p%d" % rank: value for rank, value in values.percentiles().items()}
                for stage, values in self.stages.items()
            },
        }


def new_evaluation(
    predicted: LabelSet, truth: LabelSet, instance_classes: Sequence[str] = ()
) -> Evaluation:
    """Empty counts on the common level of two label sets; iIoU where classes are given for it."""
    level = CommonLevel(predicted, truth)
    instances = None
    if instance_classes:
        instances = InstanceWeightedCounts(truth, predicted, instance_classes)
    return Evaluation(level, ConfusionMatrix(len(level.names)), instances)


def evaluate_dataset(
    segmenter: Segmenter,
    dataset: Dataset,
    indices: Optional[Sequence[int]] = None,
    progress: Callable[[Iterator[Sample]], Iterable[Sample]] = iter,
) -> Evaluation:
    """Segment every sample (or those of ``indices``) at its own size and count.

    ``progress`` wraps the samples, for a bar.
    """
    evaluation = new_evaluation(
        segmenter.card.labels,
        dataset.label_set,
        dataset.instance_classes if dataset.with_instances else (),
    )
    wanted = range(len(dataset)) if indices is None else indices
    with closing(read_ahead(dataset, wanted)) as samples:
        for sample in progress(samples):
            result = segmenter.segment(sample.image_hwc)
            evaluation.add(sample.labels_hw, result.class_map_hw, sample.instances_hw)
            evaluation.add_stages(result.stages_ms)
    return evaluation


def _scores(pairs: Iterable[Tuple[str, float]]) -> Scores:
    return {name: _defined(float(score)) for name, score in pairs}


def _mean(scores: Scores) -> Optional[float]:
    return _defined(mean_of_defined(np.array(list(scores.values()), np.float64)))


def _defined(value: float) -> Optional[float]:
    return None if np.isnan(value) else value
