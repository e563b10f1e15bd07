"""The boxes of a frame's ground truth: things, what counts neither way, and areas of many."""

from typing import NamedTuple, Sequence, TypeVar

import cv2
import numpy as np

from segmentation_node.boxes import Boxes, area, component_boxes
from segmentation_node.evaluation.run.instances import CLASS_SHIFT
from segmentation_node.labels import UNLABELLED

AnyBoxes = TypeVar("AnyBoxes", Boxes, "TrueBoxes")

ANY_CLASS = -1
THING, LEFT_OUT, AREA = 0, 1, 2
"""A thing to be found; one that may be found or not; an area in which boxes do not count."""


class TrueBoxes(NamedTuple):
    """``boxes_xyxy``: float32 (N, 4) as in ``boxes.Boxes``; ``class_ids``: int64 (N,), train ids.

    ``kinds``: uint8 (N,), ``THING``, ``LEFT_OUT`` or ``AREA``, which may be of ``ANY_CLASS``.
    KITTI's ``occlusions``, int64 (N,), 0 (none) to 3 (unknown), and ``truncations``, float64 (N,),
    the share outside the image, 0-1.
    """

    boxes_xyxy: np.ndarray
    class_ids: np.ndarray
    kinds: np.ndarray
    occlusions: np.ndarray
    truncations: np.ndarray

    def take(self, indices: np.ndarray) -> "TrueBoxes":
        """Some of them: by index, or by a bool (N,)."""
        return TrueBoxes(*(values[indices] for values in self))

    def outside(self, left_out_hw: np.ndarray) -> "TrueBoxes":
        """Those that are hidden become areas; see ``are_hidden``."""
        is_hidden = are_hidden(self.boxes_xyxy, left_out_hw)
        return self._replace(kinds=np.where(is_hidden, AREA, self.kinds).astype(np.uint8))


def inside(boxes: AnyBoxes, roi: Sequence[int]) -> AnyBoxes:
    """What lies in a roi (x, y, width, height) of the image, cut at its edge; empty: all."""
    if not roi:
        return boxes
    x, y, width, height = roi
    ends = np.array([x, y, x + width, y + height], np.float32)
    cut = np.clip(boxes.boxes_xyxy, ends[[0, 1, 0, 1]], ends[[2, 3, 2, 3]])
    return boxes._replace(boxes_xyxy=cut).take(area(cut) > 0)


def are_hidden(boxes_xyxy: np.ndarray, left_out_hw: np.ndarray) -> np.ndarray:
    """Of which boxes (N, 4) more than half is left out, where uint8 (H, W) is not 0: bool (N,)."""
    sums = cv2.integral((left_out_hw != 0).astype(np.uint8))
    height, width = left_out_hw.shape
    corners = np.clip(np.rint(boxes_xyxy), 0, [width, height] * 2).astype(np.int64)
    left, top, right, bottom = corners.T
    hidden = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return 2 * hidden > (right - left) * (bottom - top)


def true_boxes(
    boxes_xyxy: Sequence[Sequence[float]],
    class_ids: Sequence[int],
    kinds: Sequence[int] = (),
    occlusions: Sequence[int] = (),
    truncations: Sequence[float] = (),
) -> TrueBoxes:
    """True boxes of these; by default things in full view."""
    zeros = [0] * len(class_ids)
    return TrueBoxes(
        np.asarray(boxes_xyxy, np.float32).reshape(-1, 4),
        np.asarray(class_ids, np.int64).reshape(-1),
        np.asarray(kinds or zeros, np.uint8).reshape(-1),
        np.asarray(occlusions or zeros, np.int64).reshape(-1),
        np.asarray(truncations or zeros, np.float64).reshape(-1),
    )


def boxes_of_instances(
    instances_hw: np.ndarray, truth_hw: np.ndarray, class_ids: Sequence[int]
) -> TrueBoxes:
    """A box around each instance of these classes, and around each area of theirs without number.

    ``instances_hw``: int32 (H, W) as ``run.instances`` defines it; ``truth_hw``: train ids, uint8
    (H, W). In such an area the data tells things apart no further.
    """
    spots = np.flatnonzero(instances_hw)
    order = np.argsort(instances_hw.flat[spots], kind="stable")
    spots = spots[order]
    ids, starts = np.unique(instances_hw.flat[spots], return_index=True)
    boxes = np.zeros((0, 4), np.float32)
    if len(ids):
        rows, columns = np.divmod(spots, instances_hw.shape[1])
        sides = [
            np.minimum.reduceat(columns, starts),
            np.minimum.reduceat(rows, starts),
            np.maximum.reduceat(columns, starts) + 1,
            np.maximum.reduceat(rows, starts) + 1,
        ]
        boxes = np.stack(sides, axis=1).astype(np.float32)
    classes = (ids >> CLASS_SHIFT).astype(np.int64)
    wanted = np.isin(classes, class_ids)
    boxes, classes = boxes[wanted], classes[wanted]
    unnumbered = np.where(instances_hw > 0, np.uint8(UNLABELLED), truth_hw)
    areas = component_boxes(unnumbered, None, class_ids, 1)
    count = len(classes) + len(areas.class_ids)
    kinds = np.full(count, AREA, np.uint8)
    kinds[: len(classes)] = THING
    return TrueBoxes(
        np.concatenate([boxes, areas.boxes_xyxy]),
        np.concatenate([classes, areas.class_ids]),
        kinds,
        np.zeros(count, np.int64),
        np.zeros(count, np.float64),
    )
