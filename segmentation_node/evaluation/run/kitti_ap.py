"""KITTI's average precision of boxes at 40 recalls, easy, moderate and hard.

As the benchmark's own program has it: what is too small, too much hidden or cut off for a
difficulty, and a neighbouring class (a van for a car), may be found or not; boxes that are too low
do not count; nor do those that lie in a DontCare area.
"""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from segmentation_node.boxes import Boxes, area, intersection_matrix, iou_matrix
from segmentation_node.evaluation.run.true_boxes import AREA, LEFT_OUT, TrueBoxes

RECALLS = 40
LEAST_IOU = {"car": 0.7, "person": 0.5, "rider": 0.5}
"""By class; KITTI's pedestrian and cyclist are called person and rider here."""


class Difficulty(NamedTuple):
    """What a thing may be like at most, and has to be higher than, in pixels."""

    least_height: float
    most_occluded: int
    most_truncated: float


DIFFICULTIES = {
    "easy": Difficulty(40, 0, 0.15),
    "moderate": Difficulty(25, 1, 0.3),
    "hard": Difficulty(25, 2, 0.5),
}


class _Image(NamedTuple):
    """``overlaps``: IoU of true boxes with boxes, ``in_area``: whether a box lies in one.

    By difficulty: ``excused`` true boxes and ``low`` boxes. ``is_class``: of this class, not
    another.
    """

    scores: List[float]
    is_class: List[bool]
    overlaps: List[List[float]]
    in_area: List[bool]
    excused: Dict[str, List[bool]]
    low: Dict[str, List[bool]]


class KittiPrecision:
    """One class's boxes; images are added one by one."""

    def __init__(self, least_iou: float) -> None:
        self._least_iou = least_iou
        self._images: List[_Image] = []

    def add(self, true: TrueBoxes, boxes: Boxes, is_class: np.ndarray) -> None:
        """Take an image: the class's true boxes and areas, and boxes, which of this class.

        Of other classes are those that are too low, which the benchmark takes as found or not.
        """
        if not len(true.kinds) and not is_class.any():
            return
        things, areas = true.take(true.kinds != AREA), true.take(true.kinds == AREA)
        shared = intersection_matrix(areas.boxes_xyxy, boxes.boxes_xyxy)
        inside = shared / np.maximum(area(boxes.boxes_xyxy), 1e-12)[None]
        heights = things.boxes_xyxy[:, 3] - things.boxes_xyxy[:, 1]
        box_heights = np.floor(boxes.boxes_xyxy[:, 3] - boxes.boxes_xyxy[:, 1])
        self._images.append(
            _Image(
                boxes.scores.tolist(),
                is_class.tolist(),
                iou_matrix(things.boxes_xyxy, boxes.boxes_xyxy).tolist(),
                (inside > self._least_iou).any(axis=0).tolist(),
                {
                    name: (
                        (things.kinds == LEFT_OUT)
                        | (things.occlusions > limits.most_occluded)
                        | (things.truncations > limits.most_truncated)
                        | (heights <= limits.least_height)
                    ).tolist()
                    for name, limits in DIFFICULTIES.items()
                },
                {
                    name: (box_heights < limits.least_height).tolist()
                    for name, limits in DIFFICULTIES.items()
                },
            )
        )

    def average(self, difficulty: str) -> float:
        """Average precision at this difficulty; NaN without a thing that counts."""
        things = sum(image.excused[difficulty].count(False) for image in self._images)
        if not things:
            return float("nan")
        found: List[float] = []
        for image in self._images:
            found += _found_scores(image, difficulty, self._least_iou)
        thresholds = _thresholds(found, things)
        right = np.zeros(len(thresholds))
        wrong = np.zeros(len(thresholds))
        for image in self._images:
            counted: Dict[int, Tuple[int, int]] = {}
            for index, threshold in enumerate(thresholds):
                # What counts depends on the boxes above the threshold, and those are few.
                active = sum(score >= threshold for score in image.scores)
                if active not in counted:
                    counted[active] = _count(image, difficulty, self._least_iou, threshold)
                right[index] += counted[active][0]
                wrong[index] += counted[active][1]
        # Recall 0 is no step of its own; fewer things than steps leave the last ones at 0.
        precision = np.zeros(RECALLS + 1)
        precision[: len(thresholds)] = right / np.maximum(right + wrong, 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float(precision[1:].mean())


def _found_scores(image: _Image, difficulty: str, least_iou: float) -> List[float]:
    """Scores of the boxes that find a thing, each thing the surest of those that overlap it."""
    low, taken, found = image.low[difficulty], set(), []
    for overlaps, excused in zip(image.overlaps, image.excused[difficulty]):
        best = -1
        for index, overlap in enumerate(overlaps):
            if index in taken or not (image.is_class[index] or low[index]):
                continue
            if overlap > least_iou and (best < 0 or image.scores[index] > image.scores[best]):
                best = index
        if best >= 0:
            taken.add(best)
            if not excused and not low[best]:
                found.append(image.scores[best])
    return found


def _count(image: _Image, difficulty: str, least_iou: float, threshold: float) -> Tuple[int, int]:
    """Right and wrong boxes among those of this score or a higher one."""
    low, taken, right = image.low[difficulty], set(), 0
    active = [
        index
        for index, score in enumerate(image.scores)
        if score >= threshold and (image.is_class[index] or low[index])
    ]
    for overlaps, excused in zip(image.overlaps, image.excused[difficulty]):
        # The box that overlaps most; one that is too low only where there is no other.
        fitting = [i for i in active if i not in taken and overlaps[i] > least_iou]
        high = [index for index in fitting if not low[index]]
        if high:
            best = max(high, key=lambda index: overlaps[index])
            right += not excused
            taken.add(best)
        elif fitting:
            taken.add(fitting[0])
    wrong = [i for i in active if i not in taken and not low[i] and not image.in_area[i]]
    return right, len(wrong)


def _thresholds(scores: List[float], things: int) -> List[float]:
    """The scores at which recall comes nearest to each step of 1 / ``RECALLS``."""
    found: List[float] = []
    recall = 0.0
    scores = sorted(scores, reverse=True)
    for index, score in enumerate(scores):
        here, there = (index + 1) / things, (index + 2) / things
        is_last = index == len(scores) - 1
        if not is_last and there - recall < recall - here:
            continue
        found.append(score)
        recall += 1.0 / RECALLS
    return found[: RECALLS + 1]
