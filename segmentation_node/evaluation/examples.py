"""The best and the worst frames of a run: only these keep their pictures."""

import heapq
from dataclasses import dataclass
from typing import List, Optional, Tuple

import cv2
import numpy as np

BEST_AND_WORST = 4
"""Frames kept of either."""
LONGEST_SIDE_PX = 640


@dataclass(frozen=True)
class Example:
    """A frame reduced to at most 640 pixels a side.

    ``image_hwc`` is uint8 RGB; class maps are train ids of their own label sets, uint8 (H, W).
    ``before_hw`` is the class map of the frame before it, where that is consecutive.
    """

    name: str
    score: float
    image_hwc: Optional[np.ndarray]
    class_map_hw: np.ndarray
    truth_hw: Optional[np.ndarray]
    before_hw: Optional[np.ndarray]


Entry = Tuple[float, int, Example]


class Examples:
    """Keeps the frames of the highest and of the lowest scores, few of each."""

    def __init__(self, count: int = BEST_AND_WORST) -> None:
        self._count = count
        self._best: List[Entry] = []
        self._worst: List[Entry] = []  # scores negated: heapq keeps the smallest in front
        self._seen = 0

    def offer(
        self,
        name: str,
        score: float,
        image_hwc: Optional[np.ndarray],
        class_map_hw: np.ndarray,
        truth_hw: Optional[np.ndarray] = None,
        before_hw: Optional[np.ndarray] = None,
    ) -> None:
        """Keep a reduced copy if the frame is among the best or the worst so far."""
        self._seen += 1
        best = self._enters(self._best, score)
        worst = self._enters(self._worst, -score)
        if not best and not worst:
            return
        arrays = [image_hwc, class_map_hw, truth_hw, before_hw]
        example = Example(name, score, *[None if a is None else reduced(a) for a in arrays])
        if best:
            self._push(self._best, (score, -self._seen, example))
        if worst:
            self._push(self._worst, (-score, -self._seen, example))

    def best(self) -> List[Example]:
        """The upper half of what is kept, best first."""
        kept = self._kept()
        return kept[len(kept) // 2 :][::-1]

    def worst(self) -> List[Example]:
        """The lower half of what is kept, worst first."""
        kept = self._kept()
        return kept[: len(kept) // 2]

    def _kept(self) -> List[Example]:
        by_number = {-entry[1]: entry[2] for entry in self._best + self._worst}
        return [
            by_number[number]
            for number in sorted(by_number, key=lambda number: (by_number[number].score, number))
        ]

    def _enters(self, heap: List[Entry], key: float) -> bool:
        return len(heap) < self._count or key > heap[0][0]

    def _push(self, heap: List[Entry], entry: Entry) -> None:
        if len(heap) < self._count:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)


def reduced(array: np.ndarray) -> np.ndarray:
    """A copy with at most 640 pixels a side: images averaged, class maps by the nearest pixel."""
    height, width = array.shape[:2]
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale >= 1.0:
        return array.copy()
    size_wh = (max(1, int(round(width * scale))), max(1, int(round(height * scale))))
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(array, size_wh, interpolation=interpolation)
