"""Temporal consistency: how many pixels keep their class from one frame of a drive to the next.

It needs no ground truth. Moving things and a moving camera change pixels too, so it says how much
a network flickers only in comparison with others on the same drive.
"""

from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from segmentation_node.evaluation.frame import DrivePosition
from segmentation_node.evaluation.run.confusion import joint_histogram
from segmentation_node.labels import UNLABELLED, LabelSet


class Change(NamedTuple):
    """The share of pixels that changed, 0-1, and the class map that they changed from."""

    share: float
    before_hw: np.ndarray


class TemporalConsistency:
    """Counts pixels that change class between consecutive frames.

    Two frames are consecutive when they follow each other in one drive and their class maps have
    one size: across a lost or skipped frame nothing is compared. Unlabelled counts as a class;
    pixels that a geometry leaves out count nowhere.
    """

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        self.frame_pairs = 0
        self.pixels = 0
        self.changed_pixels = 0
        self._transitions = np.zeros((256, 256), np.int64)
        self._before_hw: Optional[np.ndarray] = None
        self._before: Optional[DrivePosition] = None

    def add(
        self,
        class_map_hw: np.ndarray,
        position: Optional[DrivePosition],
        left_out: int = 0,
    ) -> Optional[Change]:
        """Compare a frame, uint8 (H, W), with the one given before it.

        ``left_out`` is how many pixels count nowhere; in both frames they are unlabelled. None
        where the two are not consecutive, or nothing counts. The array is kept until the next call.
        """
        before_hw, before = self._before_hw, self._before
        self._before_hw, self._before = class_map_hw, position
        if before_hw is None or before is None or position is None:
            return None
        if position != (before[0], before[1] + 1) or before_hw.shape != class_map_hw.shape:
            return None
        transitions = joint_histogram(before_hw, class_map_hw)
        transitions[UNLABELLED, UNLABELLED] -= left_out
        pixels = int(transitions.sum())
        if pixels == 0:
            return None
        changed = pixels - int(np.trace(transitions))
        self._transitions += transitions
        self.frame_pairs += 1
        self.pixels += pixels
        self.changed_pixels += changed
        return Change(changed / pixels, before_hw)

    def as_json(self) -> Dict[str, Any]:
        """Exact counts, the shares that follow, and the share that left each class."""
        totals, stayed = self._transitions.sum(axis=1), np.diagonal(self._transitions)
        occurring = [(index, name) for index, name in self._ids() if totals[index]]
        return consistency_figures(
            self.frame_pairs,
            self.pixels,
            self.changed_pixels,
            {name: int(totals[index]) for index, name in occurring},
            {name: int(totals[index] - stayed[index]) for index, name in occurring},
        )

    def _ids(self) -> Iterator[Tuple[int, str]]:
        yield from enumerate(self._labels.names)
        yield UNLABELLED, "unlabelled"


def consistency_figures(
    frame_pairs: int,
    pixels: int,
    changed_pixels: int,
    class_pixels: Dict[str, int],
    class_changed_pixels: Dict[str, int],
) -> Dict[str, Any]:
    """The counts of one run, or of several summed, with the shares that follow."""
    changed = changed_pixels / pixels if pixels else None
    return {
        "frame_pairs": frame_pairs,
        "pixels": pixels,
        "changed_pixels": changed_pixels,
        "changed_share": changed,
        "consistency": None if changed is None else 1.0 - changed,
        "class_pixels": class_pixels,
        "class_changed_pixels": class_changed_pixels,
        "class_changed_share": {
            name: 1.0 - float(total - class_changed_pixels[name]) / float(total)
            for name, total in class_pixels.items()
        },
    }
