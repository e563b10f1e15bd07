"""The frames of a run with the highest and the lowest scores: only these keep their pictures."""

import heapq
from dataclasses import dataclass
from typing import List, Optional, Tuple

import cv2
import numpy as np

FRAMES_KEPT = 4
"""Of the highest scores, and of the lowest."""
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
    """Keeps few frames of the highest and of the lowest scores."""

    def __init__(self, count: int = FRAMES_KEPT) -> None:
        self._count = count
        self._highest: List[Entry] = []
        self._lowest: List[Entry] = []  # scores negated: heapq keeps the smallest in front
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
        """Keep a reduced copy if the frame is among the highest or the lowest so far."""
        self._seen += 1
        # Of equal scores the earlier frame's counts as the higher one: no frame is both.
        is_high = self._enters(self._highest, (score, -self._seen))
        is_low = self._enters(self._lowest, (-score, self._seen))
        if not is_high and not is_low:
            return
        example = Example(
            name,
            score,
            None if image_hwc is None else reduced(image_hwc),
            reduced(class_map_hw),
            None if truth_hw is None else reduced(truth_hw),
            None if before_hw is None else reduced(before_hw),
        )
        if is_high:
            self._push(self._highest, (score, -self._seen, example))
        if is_low:
            self._push(self._lowest, (-score, self._seen, example))

    def highest(self) -> List[Example]:
        """The upper half of what is kept, from the highest score."""
        kept = self._kept()
        return kept[len(kept) // 2 :][::-1]

    def lowest(self) -> List[Example]:
        """The lower half of what is kept, from the lowest score."""
        kept = self._kept()
        return kept[: len(kept) // 2]

    def _kept(self) -> List[Example]:
        """From the lowest to the highest; a run of few frames has some of them in both heaps."""
        entries = self._highest + [
            (-score, -order, example) for score, order, example in self._lowest
        ]
        by_order = {entry[1]: entry for entry in entries}
        return [entry[2] for entry in sorted(by_order.values(), key=lambda entry: entry[:2])]

    def _enters(self, heap: List[Entry], key: Tuple[float, int]) -> bool:
        return len(heap) < self._count or key > heap[0][:2]

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
