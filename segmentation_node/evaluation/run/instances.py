"""iIoU: IoU in which every instance of a class weighs the same, however large it is.

Cityscapes' protocol (Cordts et al. 2016): an instance's right and wrong pixels are multiplied by
the average size of its class over its own size; false positives, which belong to no instance,
stay plain pixels.
"""

from typing import Dict, Sequence

import numpy as np

from segmentation_node.evaluation.run.confusion import ConfusionMatrix, ratio
from segmentation_node.labels import CATEGORIES, UNLABELLED, LabelSet

# Average size of an instance in Cityscapes' training set, as its scorer has it.
AVERAGE_SIZE_PX = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}

CLASS_SHIFT = 16


def instance_ids(train_ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Ids that hold an instance's class and its number in the image: int32, 0 = no instance.

    Numbers count from 1 to 65535; number 0 and unlabelled pixels are no instance.
    """
    ids = (train_ids.astype(np.int32) << CLASS_SHIFT) | numbers.astype(np.int32)
    ids[(numbers == 0) | (train_ids == UNLABELLED)] = 0
    return ids


class InstanceWeightedCounts:
    """Hits and misses of instances, weighted, by class and by category.

    ``classes`` are those of the truth's classes that the data set numbers the instances of. A
    category is scored when that holds for all its classes, a class when truth and prediction
    have one label set.
    """

    def __init__(self, truth: LabelSet, predicted: LabelSet, classes: Sequence[str]) -> None:
        self._truth = truth
        self._predicted_category = predicted.category_lut()
        self._truth_category = truth.category_lut()
        self._size_px = np.zeros(256)
        for name in classes:
            self._size_px[truth.names.index(name)] = AVERAGE_SIZE_PX[name]
        self.class_names = tuple(classes) if predicted.names == truth.names else ()
        self.category_names = tuple(
            name for name in CATEGORIES if _is_numbered(name, truth, classes)
        )
        self._class_counts = np.zeros((2, 256))
        self._category_counts = np.zeros((2, 256))

    def add(self, instances_hw: np.ndarray, predicted_hw: np.ndarray) -> None:
        """Count one image: ids of ``instance_ids`` and predicted train ids, (H, W) each."""
        numbered = instances_hw > 0
        ids, predicted = instances_hw[numbered], predicted_hw[numbered]
        sizes = np.bincount(ids)
        instances = np.flatnonzero(sizes)
        train_ids = instances >> CLASS_SHIFT
        instances = instances[self._size_px[train_ids] > 0]
        train_ids, sizes = instances >> CLASS_SHIFT, sizes[instances]
        weights = self._size_px[train_ids] / sizes
        truth = ids >> CLASS_SHIFT
        categories = self._truth_category
        for counts, rows, right in (
            (self._class_counts, train_ids, predicted == truth),
            (
                self._category_counts,
                categories[train_ids],
                self._predicted_category[predicted] == categories[truth],
            ),
        ):
            hits = np.bincount(ids[right], minlength=ids.max() + 1 if ids.size else 0)[instances]
            np.add.at(counts[0], rows, hits * weights)
            np.add.at(counts[1], rows, (sizes - hits) * weights)

    def class_iiou(self, matrix: ConfusionMatrix) -> Dict[str, float]:
        """iIoU by class; NaN for one that neither occurs nor is predicted.

        ``matrix`` counts the same images by class.
        """
        ids = [self._truth.names.index(name) for name in self.class_names]
        scores = _iiou(self._class_counts[:, ids], matrix.false_positives()[ids])
        return dict(zip(self.class_names, scores))

    def category_iiou(self, matrix: ConfusionMatrix) -> Dict[str, float]:
        """The same by category; ``matrix`` counts the same images by category."""
        ids = [CATEGORIES.index(name) for name in self.category_names]
        scores = _iiou(self._category_counts[:, ids], matrix.false_positives()[ids])
        return dict(zip(self.category_names, scores))


def _is_numbered(category: str, truth: LabelSet, classes: Sequence[str]) -> bool:
    members = [item.name for item in truth.classes if item.category == category]
    return bool(members) and set(members) <= set(classes)


def _iiou(weighted: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    hits, misses = weighted
    return ratio(hits, hits + misses + false_positives)
