"""Exact counts of right and wrong pixels, and every accuracy figure that follows from them."""

from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.errors import LabelsError
from segmentation_node.evaluation.run.calibration import Calibration
from segmentation_node.evaluation.run.confusion import ConfusionMatrix, mean_of_defined, no_class
from segmentation_node.evaluation.run.instances import InstanceWeightedCounts
from segmentation_node.labels import CATEGORIES, UNLABELLED, LabelSet

Scores = Dict[str, Optional[float]]


class CommonLevel:
    """The level on which a prediction and a truth can be compared.

    Classes where both have the same ones; Cityscapes' 7 categories where they differ. Raises
    LabelsError where they differ and have no categories.
    """

    def __init__(self, predicted: LabelSet, truth: LabelSet) -> None:
        self.is_class_level = predicted.names == truth.names
        self.has_categories = predicted.has_categories and truth.has_categories
        if not self.is_class_level and not self.has_categories:
            raise LabelsError(
                "the network's classes (%s) are not the data's (%s), and they have no categories "
                "to be compared by: fold both into the same groups with --grouping FILE"
                % (predicted.name, truth.name)
            )
        self.name = "class" if self.is_class_level else "category"
        self.names = truth.names if self.is_class_level else CATEGORIES
        self._predicted_lut = predicted.category_lut()
        self._truth_lut = truth.category_lut()
        self._class_counts = len(truth), len(predicted)

    def bring(self, truth_hw: np.ndarray, predicted_hw: np.ndarray) -> Tuple[Any, Any]:
        """Both label images on the common level: uint8 (H, W) each.

        Raises ValueError on ids that have no category because they are no class.
        """
        if self.is_class_level:
            return truth_hw, predicted_hw
        of_truth, of_prediction = self._class_counts
        return (
            folded(truth_hw, self._truth_lut, "truth", of_truth),
            folded(predicted_hw, self._predicted_lut, "prediction", of_prediction),
        )

    def by_category(self, matrix: ConfusionMatrix) -> ConfusionMatrix:
        """Counts on this level as counts of categories."""
        if not self.is_class_level:
            return matrix
        return matrix.grouped(self._truth_lut, len(CATEGORIES))


class Accuracy:
    """Counts of labelled frames: train ids of a prediction's and of a truth's label set.

    ``instance_classes`` are those that the data set numbers the instances of; without any there
    is no iIoU.
    """

    def __init__(
        self, predicted: LabelSet, truth: LabelSet, instance_classes: Sequence[str] = ()
    ) -> None:
        self.level = CommonLevel(predicted, truth)
        self.matrix = ConfusionMatrix(len(self.level.names))
        self.instances: Optional[InstanceWeightedCounts] = None
        if instance_classes:
            self.instances = InstanceWeightedCounts(truth, predicted, instance_classes)
        self.calibration = Calibration()
        self.frames = 0

    def add(
        self,
        truth_hw: np.ndarray,
        predicted_hw: np.ndarray,
        instances_hw: Optional[np.ndarray] = None,
        confidence_hw: Optional[np.ndarray] = None,
    ) -> ConfusionMatrix:
        """Count one frame and give its own counts: uint8 (H, W) each, instances int32.

        Raises ValueError, and counts nothing, on sizes that differ and on ids that are no class.
        """
        frame = ConfusionMatrix(self.matrix.classes)
        brought = self.level.bring(truth_hw, predicted_hw)
        frame.add(*brought)
        self.matrix.counts += frame.counts
        if confidence_hw is not None:
            self.calibration.add(*brought, confidence_hw)
        if self.instances is not None and instances_hw is not None:
            self.instances.add(instances_hw, predicted_hw)
        self.frames += 1
        return frame

    def class_iou(self) -> Scores:
        """IoU by name on the common level; None where it is undefined."""
        return _scores(zip(self.level.names, self.matrix.class_iou()))

    def category_iou(self) -> Scores:
        """IoU by category, whatever the common level."""
        return _scores(zip(CATEGORIES, self.level.by_category(self.matrix).class_iou()))

    def class_iiou(self) -> Scores:
        """iIoU of the classes that have one; empty without instances or on category level."""
        if self.instances is None:
            return {}
        return _scores(self.instances.class_iiou(self.matrix).items())

    def category_iiou(self) -> Scores:
        """iIoU of the categories that have one; empty without instances."""
        if self.instances is None:
            return {}
        categories = self.level.by_category(self.matrix)
        return _scores(self.instances.category_iiou(categories).items())

    def as_json(self) -> Dict[str, Any]:
        """All figures; undefined ones are None, those of categories are there where there are any.

        ``docs/evaluation.md`` defines them.
        """
        class_iiou = self.class_iiou()
        figures = {
            "mean_iou": defined(self.matrix.mean_iou()),
            "class_iou": self.class_iou(),
            "global_accuracy": defined(self.matrix.global_accuracy()),
            "mean_accuracy": defined(self.matrix.mean_accuracy()),
            "frequency_weighted_iou": defined(self.matrix.frequency_weighted_iou()),
            "frames": self.frames,
            "level": self.level.name,
            "class_accuracy": _scores(zip(self.level.names, self.matrix.class_accuracy())),
            "mean_class_iiou": _mean(class_iiou),
            "class_iiou": class_iiou,
            "calibration": self.calibration.as_json(),
            "confusion_matrix": {
                "truth": list(self.level.names),
                "predicted": list(self.level.names) + ["unlabelled"],
                "pixels": self.matrix.counts.tolist(),
            },
        }
        if self.level.has_categories:
            category_iou, category_iiou = self.category_iou(), self.category_iiou()
            figures.update(
                mean_category_iou=_mean(category_iou),
                category_iou=category_iou,
                mean_category_iiou=_mean(category_iiou),
                category_iiou=category_iiou,
            )
        return figures


def folded(ids_hw: np.ndarray, lut: np.ndarray, what: str, classes: int) -> np.ndarray:
    """Categories or groups of train ids, uint8 (H, W), by a table of their label set.

    Raises ValueError on ids of ``what`` that are none of so many classes.
    """
    folded_hw = cv2.LUT(ids_hw, lut)
    is_none = folded_hw == UNLABELLED - 1
    if is_none.any():
        raise no_class(what, ids_hw[is_none].max(), classes)
    return folded_hw


def defined(value: float) -> Optional[float]:
    """The value, or None for NaN: JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _scores(pairs: Iterable[Tuple[str, float]]) -> Scores:
    return {name: defined(score) for name, score in pairs}


def _mean(scores: Scores) -> Optional[float]:
    values = [np.nan if score is None else score for score in scores.values()]
    return defined(mean_of_defined(np.array(values, np.float64)))
