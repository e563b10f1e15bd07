"""Scores from an integer confusion matrix: rows are the truth, columns the prediction.

Everything is derived from exact counts; what is undefined (a class that neither occurs nor is
predicted) is NaN and left out of means.
"""

import cv2
import numpy as np

from segmentation_node.labels import UNLABELLED

# OpenCV's histogram is float32: it counts exactly up to here.
_EXACT_PIXELS = 1 << 24


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels, as in Cityscapes' protocol.

    Pixels whose truth is ``UNLABELLED`` are not counted. A prediction that is ``UNLABELLED`` on
    a labelled pixel is a miss of the true class: it is counted in the last column.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth_hw: np.ndarray, predicted_hw: np.ndarray) -> None:
        """Count one image: train ids, uint8 (H, W) each.

        Raises ValueError on shapes that differ and on ids that are neither a class nor 255.
        """
        if truth_hw.shape != predicted_hw.shape:
            raise ValueError(
                "truth is %s but the prediction is %s; they must have one size"
                % (truth_hw.shape, predicted_hw.shape)
            )
        pairs = joint_histogram(truth_hw, predicted_hw)
        pairs[UNLABELLED] = 0
        _check_range(pairs.sum(axis=1), "truth", self.classes)
        _check_range(pairs.sum(axis=0), "prediction", self.classes)
        self.counts[:, :-1] += pairs[: self.classes, : self.classes]
        self.counts[:, -1] += pairs[: self.classes, UNLABELLED]

    def class_iou(self) -> np.ndarray:
        """Intersection over union by class: float64 (classes,), NaN where undefined."""
        return ratio(self._hits(), self.counts.sum(axis=1) + self.false_positives())

    def mean_iou(self) -> float:
        """Mean of the defined class IoUs; NaN when there is none."""
        return mean_of_defined(self.class_iou())

    def frequency_weighted_iou(self) -> float:
        """Class IoUs weighted by how many labelled pixels are of the class (Long et al. 2015)."""
        pixels = self.counts.sum(axis=1)
        occurs = pixels > 0
        return float(ratio((self.class_iou()[occurs] * pixels[occurs]).sum(), pixels.sum()))

    def false_positives(self) -> np.ndarray:
        """Labelled pixels of other classes predicted as this one: int64 (classes,)."""
        return self.counts[:, : self.classes].sum(axis=0) - self._hits()

    def class_accuracy(self) -> np.ndarray:
        """Recall by class: float64 (classes,), NaN for a class that never occurs."""
        return ratio(self._hits(), self.counts.sum(axis=1))

    def mean_accuracy(self) -> float:
        """Mean recall over the classes that occur ("class average" in SegNet's tables)."""
        return mean_of_defined(self.class_accuracy())

    def global_accuracy(self) -> float:
        """Share of labelled pixels that are right."""
        return float(ratio(self._hits().sum(), self.counts.sum()))

    def grouped(self, group_lut: np.ndarray, groups: int) -> "ConfusionMatrix":
        """The same counts with classes merged: class ``c`` counts as ``group_lut[c]``."""
        merged = ConfusionMatrix(groups)
        target = np.append(group_lut[: self.classes].astype(np.int64), groups)
        np.add.at(merged.counts, (target[:-1, None], target[None, :]), self.counts)
        return merged

    def _hits(self) -> np.ndarray:
        return np.diagonal(self.counts)


def require_classes(predicted_hw: np.ndarray, classes: int) -> None:
    """Raise ValueError where a class map, uint8 (H, W), holds ids that are no class nor 255."""
    pixels = cv2.calcHist([predicted_hw], [0], None, [256], [0, 256])
    _check_range(pixels.reshape(-1), "prediction", classes)


def _check_range(pixels: np.ndarray, what: str, classes: int) -> None:
    wrong = np.flatnonzero(pixels[classes:UNLABELLED]) + classes
    if wrong.size:
        raise no_class(what, wrong.max(), classes)


def no_class(what: str, train_id: int, classes: int) -> ValueError:
    """The error of an id that is neither one of so many classes nor unlabelled."""
    return ValueError(
        "%s holds id %d; expected 0-%d or %d" % (what, train_id, classes - 1, UNLABELLED)
    )


def joint_histogram(first_hw: np.ndarray, second_hw: np.ndarray) -> np.ndarray:
    """How often each pair of values meets: int64 (256, 256) from two uint8 (H, W) of one size.

    Raises ValueError on another dtype.
    """
    for image in (first_hw, second_hw):
        if image.dtype != np.uint8:
            raise ValueError("labels are %s; expected uint8" % image.dtype)
    first, second = first_hw.reshape(-1), second_hw.reshape(-1)
    counts = np.zeros((256, 256), np.int64)
    for start in range(0, first.size, _EXACT_PIXELS):
        part = slice(start, start + _EXACT_PIXELS)
        pairs = cv2.calcHist(
            [first[part], second[part]], [0, 1], None, [256, 256], [0, 256, 0, 256]
        )
        counts += pairs.astype(np.int64)
    return counts


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part by whole, NaN where both are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN when nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
