"""Whether the confidence means what it says: counts by confidence value, and what follows."""

from typing import Any, Dict, List, Optional

import cv2
import numpy as np

from segmentation_node.evaluation.run.confusion import joint_histogram
from segmentation_node.labels import UNLABELLED

CONFIDENCES = np.arange(256) / 255.0
"""By value in the confidence map."""
BINS = 15
"""As many as Guo et al. have; 255 values divide into 15 bins evenly."""
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Calibration:
    """By confidence 0-255, int64 (256,) each: ``pixels`` counted, and those that are ``right``.

    Pixels count that have a label and were given a class.
    """

    def __init__(self) -> None:
        self.pixels = np.zeros(len(CONFIDENCES), np.int64)
        self.right = np.zeros(len(CONFIDENCES), np.int64)

    def add(
        self, truth_hw: np.ndarray, predicted_hw: np.ndarray, confidence_hw: np.ndarray
    ) -> None:
        """Count one image: train ids and confidence 0-255, uint8 (H, W) each, of one size."""
        is_right = cv2.compare(truth_hw, predicted_hw, cv2.CMP_EQ)  # 255 or 0
        has_no_class = cv2.max(truth_hw, predicted_hw) == UNLABELLED
        counts = joint_histogram(np.where(has_no_class, np.uint8(1), is_right), confidence_hw)
        self.right += counts[255]
        self.pixels += counts[0] + counts[255]

    def add_counts(self, pixels: Any, right: Any) -> None:
        """Add counts by confidence, as ``as_json`` gives them."""
        self.pixels += np.array(pixels, np.int64)
        self.right += np.array(right, np.int64)

    def expected_error(self) -> float:
        """Expected calibration error, 0-1 (Guo et al. 2017, equation 3); NaN without a pixel.

        The sum over ``BINS`` bins of equal width of the share of the pixels in the bin, times the
        distance between their share that is right and their mean confidence. Bin m holds what is
        above (m-1)/M and up to m/M.
        """
        total = int(self.pixels.sum())
        if not total:
            return float("nan")
        gaps = _by_bin(self.right) - _by_bin(self.pixels * CONFIDENCES)
        return float(np.abs(gaps).sum() / total)

    def as_json(self) -> Optional[Dict[str, Any]]:
        """All figures and the counts they follow from; None where nothing was counted."""
        total = int(self.pixels.sum())
        if not total:
            return None
        return {
            "expected_error": self.expected_error(),
            "mean_confidence": float((self.pixels * CONFIDENCES).sum() / total),
            "right_share": float(self.right.sum() / total),
            "bins": self._bins(),
            "thresholds": [self._above(threshold) for threshold in THRESHOLDS],
            "pixels": self.pixels.tolist(),
            "right": self.right.tolist(),
        }

    def _bins(self) -> List[Dict[str, Any]]:
        pixels, right = _by_bin(self.pixels), _by_bin(self.right)
        confidence = _by_bin(self.pixels * CONFIDENCES)
        return [
            {
                "above": index / BINS,
                "up_to": (index + 1) / BINS,
                "pixels_share": float(pixels[index] / pixels.sum()),
                "mean_confidence": _share(confidence[index], pixels[index]),
                "right_share": _share(right[index], pixels[index]),
            }
            for index in range(BINS)
        ]

    def _above(self, threshold: float) -> Dict[str, Any]:
        """What the node's ``confidence.threshold`` leaves."""
        kept = np.arange(256) >= threshold * 255.0
        pixels = int(self.pixels[kept].sum())
        return {
            "threshold": threshold,
            "kept_share": float(pixels / self.pixels.sum()),
            "right_share": _share(self.right[kept].sum(), pixels),
        }


def _by_bin(values: np.ndarray) -> np.ndarray:
    """Sums over the values of each bin; 0 is in the first, though above nothing."""
    width = 255 // BINS
    return np.add.reduceat(values, [0] + [1 + width * index for index in range(1, BINS)])


def _share(part: float, whole: float) -> Optional[float]:
    return float(part / whole) if whole else None
