"""Boxes around things: their overlap, and those that a class map gives without training."""

from typing import List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

LEAST_SHARE = 1e-4
"""Of a class map's pixels: connected areas of fewer are no things of their own."""


class Boxes(NamedTuple):
    """Boxes of one image, the most certain first.

    ``boxes_xyxy``: float32 (N, 4), left, top, right, bottom in pixels of the image, right and
    bottom being the first beyond the box; ``class_ids``: int64 (N,), train ids of the label set;
    ``scores``: float32 (N,), 0-1.
    """

    boxes_xyxy: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray

    def take(self, indices: np.ndarray) -> "Boxes":
        """Some of them: by index, or by a bool (N,)."""
        return Boxes(*(values[indices] for values in self))


def make_boxes(
    boxes_xyxy: Sequence[Sequence[float]], class_ids: Sequence[int], scores: Sequence[float]
) -> Boxes:
    """Boxes of these, sorted by score; equal ones keep their order."""
    boxes = Boxes(
        np.asarray(boxes_xyxy, np.float32).reshape(-1, 4),
        np.asarray(class_ids, np.int64).reshape(-1),
        np.asarray(scores, np.float32).reshape(-1),
    )
    return boxes.take(np.argsort(-boxes.scores, kind="stable"))


def area(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Area in pixels, float64 (N,), of boxes (N, 4); 0 where a box is turned inside out."""
    boxes = np.asarray(boxes_xyxy, np.float64)
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1)


def intersection_matrix(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Shared area in pixels of every box of one with every one of the other: float64 (A, B)."""
    a, b = np.asarray(a_xyxy, np.float64)[:, None], np.asarray(b_xyxy, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.prod(np.maximum(sides, 0.0), axis=2)


def iou_matrix(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union of (A, 4) with (B, 4): float64 (A, B); 0 where both are empty."""
    shared = intersection_matrix(a_xyxy, b_xyxy)
    union = area(a_xyxy)[:, None] + area(b_xyxy)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0)


def non_maximum_suppression(boxes: Boxes, iou_threshold: float) -> Boxes:
    """Boxes without those that overlap a better one of their class by more than the threshold.

    Sorted by score.
    """
    boxes = boxes.take(np.argsort(-boxes.scores, kind="stable"))
    overlaps = iou_matrix(boxes.boxes_xyxy, boxes.boxes_xyxy) > iou_threshold
    overlaps &= boxes.class_ids[:, None] == boxes.class_ids[None]
    kept = np.ones(len(boxes.scores), bool)
    for index in range(len(kept)):
        if kept[index]:
            kept[index + 1 :] &= ~overlaps[index, index + 1 :]
    return boxes.take(kept)


def things_of(
    class_map_hw: np.ndarray, confidence_hw: Optional[np.ndarray], class_ids: Sequence[int]
) -> Boxes:
    """``component_boxes`` without the areas that are too small for a thing in such a map."""
    least_pixels = max(1, int(LEAST_SHARE * class_map_hw.size))
    return component_boxes(class_map_hw, confidence_hw, class_ids, least_pixels)


def component_boxes(
    class_map_hw: np.ndarray,
    confidence_hw: Optional[np.ndarray],
    class_ids: Sequence[int],
    least_pixels: int,
) -> Boxes:
    """A box around each connected area of these classes in a class map, uint8 (H, W).

    Pixels connect to all eight beside them; areas of fewer than ``least_pixels`` are left out.
    The score is the mean of the confidence, uint8 (H, W), over the area, 1.0 without one. Things
    that touch in the image are one box.
    """
    found: List[List[float]] = []
    ids: List[int] = []
    scores: List[float] = []
    for class_id in class_ids:
        mask = (class_map_hw == class_id).view(np.uint8)
        # To label a part of the map takes that much less time.
        x, y, width, height = cv2.boundingRect(mask)
        if width == 0:
            continue
        part = slice(y, y + height), slice(x, x + width)
        _, areas, stats, _ = cv2.connectedComponentsWithStats(mask[part], connectivity=8)
        pixels = stats[:, cv2.CC_STAT_AREA]
        large = 1 + np.flatnonzero(pixels[1:] >= least_pixels)
        for left, top, width, height in stats[large, :4].tolist():
            found.append([x + left, y + top, x + left + width, y + top + height])
            ids.append(int(class_id))
        if confidence_hw is None:
            scores += [1.0] * len(large)
        else:
            is_any = mask[part] > 0
            sums = np.bincount(areas[is_any], confidence_hw[part][is_any], len(stats))
            scores += (sums[large] / pixels[large] / 255.0).tolist()
    return make_boxes(found, ids, scores)
