"""Fast R-CNN on the host: proposals in, boxes out; the backends run what is between.

Source: Girshick 2015, "Fast R-CNN". Coordinates are pixels of the network's input.
"""

from typing import Sequence, Tuple

import numpy as np

from segmentation_node.backends import Backend
from segmentation_node.boxes import Boxes, make_boxes, non_maximum_suppression
from segmentation_node.proposals import propose

LEAST_SCORE = 0.05
SUPPRESSION_IOU = 0.5
MOST_BOXES = 100
LARGEST_GROWTH = 4.0
"""A box is at most so many times as wide and high as its proposal, or that part of it."""


class BoxFinder:
    """Finds things by a backend's box head, of runs with features."""

    def __init__(self, backend: Backend) -> None:
        card = backend.card
        assert card.boxes is not None
        names, shapes = card.boxes.classes, card.boxes.shapes
        self._backend = backend
        self._count = card.boxes.proposals
        self._class_ids = [card.labels.names.index(name) for name in names]
        self._shapes = [shapes[name] for name in names]

    def find(self, class_map_hw: np.ndarray, features_1chw: np.ndarray) -> Boxes:
        """Boxes of one image, the most certain first, of train ids of the card's labels.

        ``class_map_hw``, uint8 (H, W), and features are what the network gave. Raises BackendError.
        """
        proposals = self.propose(class_map_hw)
        if not len(proposals):
            return make_boxes([], [], [])
        scores, deltas = self._backend.run_boxes(features_1chw, pad_rois(proposals, self._count))
        return decode_boxes(proposals, scores, deltas, self._class_ids, class_map_hw.shape)

    def propose(self, class_map_hw: np.ndarray) -> np.ndarray:
        """The regions that the head looks at, float32 (N, 4)."""
        return propose(class_map_hw, self._class_ids, self._shapes, self._count)


def pad_rois(proposals_xyxy: np.ndarray, count: int) -> np.ndarray:
    """Proposals (N, 4) as the box head takes them: float32 (count, 4), empty boxes at the end."""
    rois = np.zeros((count, 4), np.float32)
    rois[: len(proposals_xyxy)] = proposals_xyxy
    return rois


def decode_boxes(
    proposals_xyxy: np.ndarray,
    scores: np.ndarray,
    deltas: np.ndarray,
    class_ids: Sequence[int],
    size: Tuple[int, int],
    least_score: float = LEAST_SCORE,
) -> Boxes:
    """Boxes of the head's outputs for these proposals, the best first, at most ``MOST_BOXES``.

    ``scores`` are (R, 1 + classes), the background first, and ``deltas`` (R, 4 * classes); rows
    beyond the proposals count for nothing. ``class_ids`` are those that the boxes get, by the
    order of the classes; ``size`` is the height and width that boxes are cut at.
    """
    count = len(proposals_xyxy)
    chances = scores[:count, 1:]
    rows, columns = np.nonzero(chances >= least_score)
    found = moved(proposals_xyxy[rows], deltas.reshape(len(deltas), -1, 4)[rows, columns])
    height, width = size
    found = np.clip(found, 0.0, np.array([width, height, width, height], np.float32))
    ids = np.asarray(class_ids, np.int64)[columns]
    boxes = Boxes(found.astype(np.float32), ids, chances[rows, columns])
    boxes = boxes.take((boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]).min(axis=1) >= 1.0)
    boxes = non_maximum_suppression(boxes, SUPPRESSION_IOU)
    return boxes.take(np.arange(min(len(boxes.scores), MOST_BOXES)))


def moved(boxes_xyxy: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) moved and resized by deltas (N, 4): float32 (N, 4)."""
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    centres = boxes_xyxy[:, :2] + 0.5 * sizes + deltas[:, :2] * sizes
    limit = np.log(LARGEST_GROWTH)
    half = 0.5 * sizes * np.exp(np.clip(deltas[:, 2:], -limit, limit))
    return np.concatenate((centres - half, centres + half), axis=1).astype(np.float32)


def deltas_between(boxes_xyxy: np.ndarray, targets_xyxy: np.ndarray) -> np.ndarray:
    """The deltas (N, 4) that move boxes onto targets: what ``moved`` takes."""
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    wanted = targets_xyxy[:, 2:] - targets_xyxy[:, :2]
    centres = (targets_xyxy[:, :2] + 0.5 * wanted) - (boxes_xyxy[:, :2] + 0.5 * sizes)
    return np.concatenate((centres / sizes, np.log(wanted / sizes)), axis=1).astype(np.float32)
