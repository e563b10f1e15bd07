"""The light at one moment: exposure, colour temperature, sun and dusk."""

import math

import numpy as np

from segmentation_node.evaluation.datasets.street.camera import Floats
from segmentation_node.evaluation.datasets.street.noise import between

_HAZE_DAY_RGB = np.array([196.0, 208.0, 222.0])
_HAZE_DUSK_RGB = np.array([208.0, 164.0, 146.0])


class Light:
    """What the sun and the camera's exposure do to colours at one moment."""

    def __init__(self, seed: int, time_s: float) -> None:
        wave = [
            math.sin(time_s * rate + between(0.0, 6.3, seed, 40, n))
            for n, rate in enumerate((0.21, 0.33, 0.13, 0.27))
        ]
        mood = between(0.0, 1.0, seed, 41)
        self.dusk = min(max(0.9 * mood - 0.25 + 0.3 * wave[0], 0.0), 1.0)
        self.sun = min(max(0.72 + 0.4 * wave[1] - 0.4 * self.dusk, 0.1), 1.0)
        self.exposure = (1.02 + 0.13 * wave[2]) * (1.0 - 0.3 * self.dusk)
        self.warmth = 0.05 * wave[3] + 0.09 * self.dusk
        self.sun_side = 1 if between(-1.0, 1.0, seed, 42) > 0 else -1
        self.haze_rgb = (1.0 - self.dusk) * _HAZE_DAY_RGB + self.dusk * _HAZE_DUSK_RGB
        self.haze_m = between(140.0, 260.0, seed, 43)

    def clear(self, distance_m: Floats) -> Floats:
        """The share of a surface's own colour that is left after the haze."""
        return np.exp(-distance_m / self.haze_m)

    def facing(self, towards_sun: float) -> float:
        """Gain of a surface: 1 faces the sun, 0 stands across it, -1 is turned away."""
        return 0.86 + 0.26 * self.sun * towards_sun

    def mix(self, gain: float, distance_m: float) -> np.ndarray:
        """3x4 colour matrix: a surface's gain, then the haze in front of it."""
        clear = float(self.clear(distance_m))
        haze = ((1.0 - clear) * self.haze_rgb).reshape(3, 1)
        return np.hstack([np.eye(3) * gain * clear, haze]).astype(np.float32)

    def tone_curve(self) -> np.ndarray:
        """uint8 (1, 256, 3): exposure and colour temperature for cv2.LUT."""
        level = np.arange(256, dtype=np.float64).reshape(1, 256, 1) / 255.0
        gains = self.exposure * np.array([1.0 + self.warmth, 1.0, 1.0 - self.warmth])
        lifted = 1.0 - np.exp(-1.9 * level * gains)
        curve = 255.0 * lifted / (1.0 - math.exp(-1.9)) * (0.9 + 0.1 * level)
        return np.clip(curve * 0.97 - 4.0, 0, 255).astype(np.uint8)
