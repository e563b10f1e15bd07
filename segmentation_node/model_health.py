"""Whether a model is as sure of what it sees as it was on its validation data.

Confidence makes a run take up to a fifth longer: it is computed for this alone at every
``FRAMES_APART``-th frame, under 1 % of the time. Where it is computed anyway, two frames a second
are looked at.
"""

from collections import deque
from typing import Deque, NamedTuple, Optional, Tuple

import numpy as np

from segmentation_node.labels import UNLABELLED
from segmentation_node.model_card import ConfidenceInfo
from segmentation_node.timing import RateLimit

FRAMES_APART = 30
LOOKS_HZ = 2.0
LEAST_LOOKS, LOOKS_KEPT = 5, 10
SAMPLES_PER_SIDE = 64
# Validation drives of the shipped models stay within 2.5; noise, fog and darkness exceed 3.
DEVIATIONS = 3.0
LEAST_DEVIATION = 0.01
MORE_UNLABELLED = 0.1


class Certainty(NamedTuple):
    """Of one image: mean confidence and the share of pixels without a class, 0-1 both."""

    mean: float
    unlabelled_share: float


def certainty(
    ids_hw: np.ndarray, confidence_hw: np.ndarray, ignored_hw: Optional[np.ndarray] = None
) -> Optional[Certainty]:
    """Of what a network gave, uint8 (H, W) each, on a grid of its pixels.

    Those where ``ignored_hw`` is not 0 count nowhere; None where nothing else is left.
    """
    height, width = ids_hw.shape
    rows, columns = (-(-side // SAMPLES_PER_SIDE) for side in (height, width))
    grid = (slice(rows // 2, None, rows), slice(columns // 2, None, columns))
    ids, confidence = ids_hw[grid], confidence_hw[grid]
    if ignored_hw is not None:
        counts = ignored_hw[grid] == 0
        ids, confidence = ids[counts], confidence[counts]
    if ids.size == 0:
        return None
    return Certainty(float(confidence.mean()) / 255.0, float((ids == UNLABELLED).mean()))


class ModelHealth:
    """Compares the last frames looked at with the card; ``problem`` is one line, or empty.

    Of a card that does not say what is to be expected nothing is ever said. Belongs to one thread;
    ``problem`` and ``mean`` may be read from others.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.mean = float("nan")
        self._expected: Optional[ConfidenceInfo] = None
        self._looks: Deque[Tuple[float, Certainty]] = deque(maxlen=LOOKS_KEPT)
        self._rate = RateLimit()
        self._frames = FRAMES_APART  # since confidence was last computed for a look alone

    def expect(self, expected: Optional[ConfidenceInfo]) -> None:
        """What the card of the model says that runs now; of another one nothing is kept."""
        if expected is not self._expected:
            self._expected = expected
            self._looks.clear()
            self.problem, self.mean = "", float("nan")

    def wants(self, now_s: float, with_confidence: bool) -> bool:
        """Whether to look at the next frame; ``with_confidence``: it is computed anyway.

        ``now_s`` is of a clock that never goes back.
        """
        self._frames += 1
        if self._expected is None or not (with_confidence or self._frames >= FRAMES_APART):
            return False
        if not self._rate.allows(now_s, LOOKS_HZ):
            return False
        self._frames = 0
        return True

    def look(self, seen: Optional[Certainty], now_s: float) -> None:
        """Take what a frame that was wanted showed; None: nothing of it counts."""
        if seen is None or self._expected is None:
            return
        self._looks.append((now_s, seen))
        if len(self._looks) >= LEAST_LOOKS:
            self.mean = sum(look.mean for _, look in self._looks) / len(self._looks)
            self.problem = self._judge(self._expected, now_s)

    def _judge(self, expected: ConfidenceInfo, now_s: float) -> str:
        span_s = now_s - self._looks[0][0]
        shares = [look.unlabelled_share for _, look in self._looks]
        unlabelled = sum(shares) / len(shares)
        if unlabelled > expected.unlabelled_share + MORE_UNLABELLED:
            return (
                "model: gave no class to %.0f %% of the pixels in the last %.0f s, to %.0f %% on "
                "its validation data; what it sees is not what it was trained on"
                % (100 * unlabelled, span_s, 100 * expected.unlabelled_share)
            )
        deviation = max(expected.deviation, LEAST_DEVIATION)
        off = (self.mean - expected.mean) / deviation
        if abs(off) <= DEVIATIONS:
            return ""
        return (
            "model: %s sure than on its validation data, mean confidence %.3f in the last %.0f s, "
            "%.3f (deviation %.3f) there; what it sees is not what it was trained on: "
            "check camera, light and place"
            % ("less" if off < 0 else "more", self.mean, span_s, expected.mean, deviation)
        )
