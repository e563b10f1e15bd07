"""COCO's average precision of boxes: IoU 0.5 to 0.95, all areas, 100 boxes of a class an image.

The mean, over ten IoU thresholds, of the precision at 101 recalls. Boxes in an area of many count
neither way, however many there are.
"""

from typing import List, NamedTuple

import numpy as np

from segmentation_node.boxes import Boxes, area, intersection_matrix, iou_matrix
from segmentation_node.evaluation.run.true_boxes import THING, TrueBoxes

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_BOXES = 100


class _Image(NamedTuple):
    """Scores (D,), and by threshold whether a box found a thing, and whether it counts (10, D)."""

    scores: np.ndarray
    found: np.ndarray
    counts: np.ndarray


class CocoPrecision:
    """One class's boxes; images are added one by one."""

    def __init__(self) -> None:
        self._images: List[_Image] = []
        self._things = 0

    def add(self, true: TrueBoxes, boxes: Boxes) -> None:
        """Match the boxes of one image, all of this class."""
        order = np.argsort(-boxes.scores, kind="stable")[:MOST_BOXES]
        boxes = boxes.take(order)
        # Things first: an area takes what found none.
        true = true.take(np.argsort(true.kinds != THING, kind="stable"))
        is_thing = true.kinds == THING
        self._things += int(is_thing.sum())
        if not len(boxes.scores):
            return
        overlaps = iou_matrix(boxes.boxes_xyxy, true.boxes_xyxy)
        shared = intersection_matrix(boxes.boxes_xyxy, true.boxes_xyxy)
        inside = shared / np.maximum(area(boxes.boxes_xyxy), 1e-12)[:, None]
        overlaps[:, ~is_thing] = inside[:, ~is_thing]
        found = np.zeros((len(THRESHOLDS), len(boxes.scores)), bool)
        counts = np.ones_like(found)
        for row, threshold in enumerate(THRESHOLDS):
            free = np.ones(len(is_thing), bool)
            for column, candidates in enumerate(overlaps):
                best = _best(candidates, threshold, free & is_thing)
                if best < 0:
                    best = _best(candidates, threshold, ~is_thing)
                    counts[row, column] = best < 0
                elif best >= 0:
                    found[row, column], free[best] = True, False
        self._images.append(_Image(boxes.scores, found, counts))

    def by_threshold(self) -> np.ndarray:
        """Average precision at each of ``THRESHOLDS``, float64 (10,); NaN without a thing."""
        if not self._things:
            return np.full(len(THRESHOLDS), np.nan)
        if not self._images:
            return np.zeros(len(THRESHOLDS))
        scores = np.concatenate([image.scores for image in self._images])
        order = np.argsort(-scores, kind="stable")
        found = np.concatenate([image.found for image in self._images], axis=1)[:, order]
        counts = np.concatenate([image.counts for image in self._images], axis=1)[:, order]
        precisions = [self._precision(*row) for row in zip(found, counts)]
        return np.array(precisions)

    def _precision(self, found: np.ndarray, counts: np.ndarray) -> float:
        """The mean over ``RECALLS`` of the best precision at that recall or a higher one."""
        right = np.cumsum(found & counts)
        wrong = np.cumsum(~found & counts)
        precision = right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        indices = np.searchsorted(right / self._things, RECALLS, side="left")
        reached = indices < len(precision)
        return float(precision[indices[reached]].sum() / len(RECALLS))


def _best(overlaps: np.ndarray, threshold: float, allowed: np.ndarray) -> int:
    """The last of the allowed with the largest overlap of the threshold or more; -1: none."""
    fits = np.where(allowed, overlaps, -1.0)
    if not len(fits) or fits.max() < min(threshold, 1 - 1e-10):
        return -1
    return int(np.flatnonzero(fits == fits.max())[-1])
