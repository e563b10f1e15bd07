"""How well boxes fit the true ones: KITTI's and COCO's average precision, recall of proposals."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from segmentation_node.boxes import Boxes, iou_matrix
from segmentation_node.evaluation.run.accuracy import defined
from segmentation_node.evaluation.run.coco_ap import CocoPrecision
from segmentation_node.evaluation.run.instances import AVERAGE_SIZE_PX
from segmentation_node.evaluation.run.kitti_ap import (
    DIFFICULTIES,
    LEAST_IOU,
    RECALLS,
    KittiPrecision,
)
from segmentation_node.evaluation.run.true_boxes import ANY_CLASS, THING, TrueBoxes
from segmentation_node.labels import LabelSet

# Of one kind of thing, by the names that label sets give it.
SAME = {"pedestrian": "person", "bicyclist": "rider", "cyclist": "rider"}
RECALL_IOUS = (0.5, 0.7)
FIGURES = ("ap_kitti", "ap_coco", "proposal_recall", "true_boxes")


class DetectionScores:
    """Counts the boxes of frames, of a network's label set, against those of the data's.

    ``classes`` names the truth's classes that have true boxes; scored are those that the network
    has too, ``names``. ``predicted_ids`` are the network's train ids of them, ``truth_ids`` the
    data's.
    """

    def __init__(self, predicted: LabelSet, truth: LabelSet, classes: Sequence[str]) -> None:
        kinds = [_kind(name) for name in predicted.names]
        self.names = tuple(name for name in classes if _kind(name) in kinds)
        scored = [_kind(name) for name in self.names]
        self.predicted_ids = tuple(i for i, kind in enumerate(kinds) if kind in scored)
        self.truth_ids = truth.ids_of(self.names)
        self._predicted = [scored.index(k) if k in scored else -1 for k in kinds]
        self._truth = [
            scored.index(_kind(name)) if name in self.names else -1 for name in truth.names
        ]
        self._coco = [CocoPrecision() for _ in self.names]
        self._kitti = {
            name: KittiPrecision(LEAST_IOU[_kind(name)])
            for name in self.names
            if _kind(name) in LEAST_IOU
        }
        self._things = [0] * len(self.names)
        self._proposed = dict.fromkeys(RECALL_IOUS, 0)
        self.frames = 0

    def add(
        self, true: TrueBoxes, boxes: Boxes, proposals_xyxy: Optional[np.ndarray] = None
    ) -> None:
        """Count one frame's boxes, which are where the true ones are: in pixels of the image.

        Without ``proposals_xyxy``, float32 (P, 4), the boxes themselves are what was proposed.
        """
        self.frames += 1
        true_classes = _looked_up(true.class_ids, self._truth)
        classes = _looked_up(boxes.class_ids, self._predicted)
        is_everywhere = true.class_ids == ANY_CLASS
        for index, name in enumerate(self.names):
            own = true.take((true_classes == index) | is_everywhere)
            is_class = classes == index
            self._things[index] += int((own.kinds == THING).sum())
            self._coco[index].add(own, boxes.take(is_class))
            if name in self._kitti:
                self._kitti[name].add(own, boxes, is_class)
        things = true.boxes_xyxy[(true.kinds == THING) & (true_classes >= 0)]
        proposals = boxes.boxes_xyxy if proposals_xyxy is None else proposals_xyxy
        if len(things) and len(proposals):
            best = iou_matrix(things, proposals).max(axis=1)
            for iou in RECALL_IOUS:
                self._proposed[iou] += int((best >= iou).sum())

    def as_json(self) -> Dict[str, Any]:
        """The figures; undefined ones are None. ``docs/evaluation.md`` defines them."""
        things = sum(self._things)
        kitti = {
            name: {level: defined(precision.average(level)) for level in DIFFICULTIES}
            for name, precision in self._kitti.items()
        }
        recall = {
            "%g" % iou: count / things if things else None for iou, count in self._proposed.items()
        }
        counts = dict(zip(self.names, self._things))
        return dict(zip(FIGURES, (kitti, self._coco_json(), recall, counts)))

    def _coco_json(self) -> Dict[str, Any]:
        # A class without a true box plays no part in the means.
        values = np.array([precision.by_threshold() for precision in self._coco])
        known = values[~np.isnan(values[:, 0])]

        def mean(columns: Any) -> Optional[float]:
            return float(known[:, columns].mean()) if len(known) else None

        return {
            "ap": mean(slice(None)),
            "ap50": mean([0]),  # of THRESHOLDS
            "ap75": mean([5]),
            "class_ap": {name: defined(row.mean()) for name, row in zip(self.names, values)},
        }

    def notes(self) -> List[str]:
        """What a reader has to know before the figures, one line each."""
        few = [
            "%s (%d)" % (name, count)
            for name, count in zip(self.names, self._things)
            if name in self._kitti and 0 < count <= RECALLS
        ]
        if not few:
            return []
        return [
            "ap_kitti counts in steps of 1/%d of recall: of fewer things than that, %s, even the "
            "best has less than 100 %%" % (RECALLS, ", ".join(few))
        ]


def things_among(labels: LabelSet) -> Tuple[str, ...]:
    """Names of the classes that boxes are usually drawn around."""
    return tuple(name for name in labels.names if _kind(name) in AVERAGE_SIZE_PX)


def _kind(name: str) -> str:
    return SAME.get(name, name)


def _looked_up(ids: np.ndarray, table: List[int]) -> np.ndarray:
    """The scored class of each id; -1: none."""
    if not len(ids):
        return np.zeros(0, np.int64)
    # The last entry is what ANY_CLASS finds.
    return np.array(table + [-1], np.int64)[ids]
