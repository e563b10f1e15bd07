"""Whether a camera gives anything worth segmenting, told from its images alone.

An image is sampled on a grid, a few times a second: that costs next to nothing at any size and
rate. What is found has to last before it is told, and to be gone as long before it no longer is.
"""

from typing import Optional, Tuple

import numpy as np

from segmentation_node.timing import RateLimit

LOOKS_HZ = 10.0
LASTING_S = 2.0
FROZEN_S, FROZEN_FRAMES = 3.0, 5
SAMPLES_PER_SIDE = 64
LEVELS = 256
# Of 0 to 255: what lies within 1 % of either end, and how far apart 2 % are.
DARKEST, BRIGHTEST, SLIVER = 2, 253, 5
AT_ONE_END, IN_A_SLIVER = 0.98, 0.99


class CameraHealth:
    """Judges one image after the other; ``problem`` is what is wrong, one line, or empty.

    Belongs to one thread; ``problem`` may be read from others.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._exposure = (_Lasting(LASTING_S), _Lasting(LASTING_S), _Lasting(LASTING_S))
        self._looks = RateLimit()
        self._still = _Still()
        self._frozen = _Lasting(0.0)  # what is still has lasted by itself

    def look(self, image_hwc: np.ndarray, now_s: float) -> None:
        """Take an image as the network gets it, uint8 RGB (H, W, 3), and when it came.

        The image must not be written to afterwards. ``now_s`` is of a clock that never goes back.
        """
        if not self._looks.allows(now_s, LOOKS_HZ):
            return
        sample = _sample(image_hwc)
        told = [
            lasting.update(finding, now_s)
            for lasting, finding in zip(self._exposure, _exposure_findings(sample))
        ]
        told.append(self._frozen.update(self._still.finding(image_hwc, sample, now_s), now_s))
        self.problem = next(filter(None, told), "")


class _Lasting:
    """A finding that is told once it has lasted, and until it has been gone for ``LASTING_S``."""

    def __init__(self, raised_after_s: float) -> None:
        self._raised_after_s = raised_after_s
        self._told = ""
        self._other_since_s: Optional[float] = None

    def update(self, finding: str, now_s: float) -> str:
        """Take what an image shows, empty for nothing; what is to be told."""
        if bool(finding) == bool(self._told):
            self._told, self._other_since_s = finding, None
            return self._told
        if self._other_since_s is None:
            self._other_since_s = now_s
        if now_s - self._other_since_s >= (self._raised_after_s if finding else LASTING_S):
            self._told, self._other_since_s = finding, None
        return self._told


class _Still:
    """Images that are the same one.

    Samples are compared each time; whole images, which takes longer, only before it is said that
    they are the same, and then every ``FROZEN_S``.
    """

    def __init__(self) -> None:
        self._first = self._sample = np.empty((0, 0, 3), np.uint8)
        self._first_s = self._compared_s = 0.0
        self._frames = 0

    def finding(self, image_hwc: np.ndarray, sample: np.ndarray, now_s: float) -> str:
        """How long the images have been the same; empty while that is not long."""
        if not np.array_equal(sample, self._sample):
            self._begin(image_hwc, sample, now_s)
        self._frames += 1
        if now_s - self._first_s < FROZEN_S or self._frames < FROZEN_FRAMES:
            return ""
        if now_s - self._compared_s >= FROZEN_S:
            if not np.array_equal(image_hwc, self._first):
                self._begin(image_hwc, sample, now_s)
                return ""
            self._compared_s = now_s
        return (
            "camera: frozen, the images have been identical for %.1f s; restart the camera or its "
            "driver (a simulated scene without noise or motion looks the same)"
            % (now_s - self._first_s)
        )

    def _begin(self, image_hwc: np.ndarray, sample: np.ndarray, now_s: float) -> None:
        self._first, self._sample, self._frames = image_hwc, sample, 0
        self._first_s = self._compared_s = now_s


def _sample(image_hwc: np.ndarray) -> np.ndarray:
    """About ``SAMPLES_PER_SIDE`` squared of its pixels, as a copy."""
    height, width = image_hwc.shape[:2]
    rows, columns = (-(-side // SAMPLES_PER_SIDE) for side in (height, width))
    return np.array(image_hwc[rows // 2 :: rows, columns // 2 :: columns])


def _exposure_findings(sample: np.ndarray) -> Tuple[str, str, str]:
    """Black, saturated, a sliver: each a line, or empty where the pixels are not that."""
    below = _shares_below(sample)
    darkest = below[:, DARKEST + 1].min()
    brightest = (1.0 - below[:, BRIGHTEST]).min()
    sliver = (below[:, SLIVER + 1 :] - below[:, : -SLIVER - 1]).max(axis=1).min()
    return (
        "camera: black, %.0f %% of the pixels lie in the lowest 1 %% of the range; check lens cap, "
        "light and exposure" % (100 * darkest)
        if darkest >= AT_ONE_END
        else "",
        "camera: saturated, %.0f %% of the pixels lie in the highest 1 %% of the range; lower its "
        "exposure or gain" % (100 * brightest)
        if brightest >= AT_ONE_END
        else "",
        "camera: %.0f %% of the pixels lie within 2 %% of the encoding's range, at %.0f %% of it; "
        "have the driver scale them to the whole range (as 14 bits in mono16 need), or check lens "
        "and exposure" % (100 * sliver, 100 * sample.mean() / (LEVELS - 1))
        if sliver >= IN_A_SLIVER
        else "",
    )


def _shares_below(sample: np.ndarray) -> np.ndarray:
    """Share of the pixels below each level from 0 to 256, by channel: float64 (3, 257)."""
    channels = np.arange(3) * LEVELS
    counts = np.bincount((sample + channels).ravel(), minlength=3 * LEVELS).reshape(3, LEVELS)
    shares = np.zeros((3, LEVELS + 1))
    np.cumsum(counts, axis=1, out=shares[:, 1:])
    return shares / (sample.shape[0] * sample.shape[1])
