"""Score a model on a data set through the pipeline that the node runs."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.metrics import ConfusionMatrix
from segmentation_node.labels import CATEGORIES, LabelSet
from segmentation_node.pipeline import Segmenter
from segmentation_node.timing import RollingPercentiles


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


@dataclass
class Evaluation:
    """The counts of a run and what they are counts of."""

    level: CommonLevel
    matrix: ConfusionMatrix
    frames: int = 0
    stages: Dict[str, RollingPercentiles] = field(default_factory=dict)

    def add(self, truth_hw: np.ndarray, predicted_hw: np.ndarray) -> None:
        """Count one frame: train ids of the truth's and of the prediction's label set."""
        self.matrix.add(*self.level.bring(truth_hw, predicted_hw))
        self.frames += 1

    def add_stages(self, stages_ms: Dict[str, float]) -> None:
        """Take one frame's stage times in ms."""
        for stage, value_ms in stages_ms.items():
            self.stages.setdefault(stage, RollingPercentiles(window=100000)).add(value_ms)

    def class_iou(self) -> Dict[str, Optional[float]]:
        """IoU by name; None where it is undefined."""
        return {
            name: None if np.isnan(iou) else float(iou)
            for name, iou in zip(self.level.names, self.matrix.class_iou())
        }

    def as_json(self) -> Dict[str, Any]:
        """What the commands write: undefined figures are null."""
        return {
            "mean_iou": _defined(self.matrix.mean_iou()),
            "class_iou": self.class_iou(),
            "global_accuracy": _defined(self.matrix.global_accuracy()),
            "mean_accuracy": _defined(self.matrix.mean_accuracy()),
            "frames": self.frames,
            "level": self.level.name,
            "stages_ms": {
                stage: {"p%d" % rank: value for rank, value in values.percentiles().items()}
                for stage, values in self.stages.items()
            },
        }


def new_evaluation(predicted: LabelSet, truth: LabelSet) -> Evaluation:
    """Empty counts on the common level of two label sets."""
    level = CommonLevel(predicted, truth)
    return Evaluation(level, ConfusionMatrix(len(level.names)))


def evaluate_dataset(
    segmenter: Segmenter, dataset: Dataset, indices: Optional[Sequence[int]] = None
) -> Evaluation:
    """Segment every sample (or those of ``indices``) at its own size and count."""
    evaluation = new_evaluation(segmenter.card.labels, dataset.label_set)
    for index in range(len(dataset)) if indices is None else indices:
        sample = dataset[index]
        result = segmenter.segment(sample.image_hwc)
        evaluation.add(sample.labels_hw, result.class_map_hw)
        evaluation.add_stages(result.stages_ms)
    return evaluation


def _defined(value: float) -> Optional[float]:
    return None if np.isnan(value) else value
