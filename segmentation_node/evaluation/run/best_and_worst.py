"""The frames of a run with the highest and the lowest scores: only these keep their pictures."""

import bisect
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


class Examples:
    """Keeps few frames of the highest and of the lowest scores."""

    def __init__(self, count: int = FRAMES_KEPT) -> None:
        self._count = count
        self._kept: List[Tuple[float, int, Example]] = []  # from the lowest to the highest
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
        # Of equal scores the earlier frame's counts as the higher one.
        key = (score, -self._seen)
        place = bisect.bisect(self._kept, key)
        is_full = len(self._kept) == 2 * self._count
        if is_full and place == self._count:
            return
        example = Example(
            name,
            score,
            None if image_hwc is None else reduced(image_hwc),
            reduced(class_map_hw),
            None if truth_hw is None else reduced(truth_hw),
            None if before_hw is None else reduced(before_hw),
        )
        self._kept.insert(place, (*key, example))
        if is_full:
            del self._kept[self._count]  # the one in the middle

    def highest(self) -> List[Example]:
        """The upper half of what is kept, from the highest score."""
        return [example for _, _, example in self._kept[len(self._kept) // 2 :][::-1]]

    def lowest(self) -> List[Example]:
        """The lower half of what is kept, from the lowest score."""
        return [example for _, _, example in self._kept[: len(self._kept) // 2]]


def reduced(array: np.ndarray) -> np.ndarray:
    """A copy with at most 640 pixels a side: images averaged, class maps by the nearest pixel."""
    height, width = array.shape[:2]
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale >= 1.0:
        return array.copy()
    size_wh = (max(1, int(round(width * scale))), max(1, int(round(height * scale))))
    interpolation = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(array, size_wh, interpolation=interpolation)
