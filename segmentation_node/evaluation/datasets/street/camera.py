"""The moving camera and the bending road: from road coordinates to pixels.

Road coordinates in metres: `s` along the road, `u` to the right of its centre line, `h` up.
"""

import math
from typing import Tuple, TypeVar

import numpy as np

from segmentation_node.evaluation.datasets.street.noise import between

CAMERA_HEIGHT_M = 1.4
LANE_U_M = 1.75
FOCAL_PER_WIDTH = 0.66
HORIZON_PER_HEIGHT = 0.43

Floats = TypeVar("Floats", float, np.ndarray)  # numbers, or arrays of them


class Bend:
    """The lateral position of the road's centre line, a sum of two sines of `s`."""

    def __init__(self, seed: int) -> None:
        self._waves = [
            (between(3.0, 7.0, seed, 11), 95.0, between(0.0, 6.3, seed, 12)),
            (between(0.8, 2.0, seed, 13), 43.0, between(0.0, 6.3, seed, 14)),
        ]

    def x_m(self, s_m: Floats) -> Floats:
        long, short = (a * np.sin(s_m / length + phase) for a, length, phase in self._waves)
        return long + short

    def slope(self, s_m: Floats) -> Floats:
        long, short = (
            a / length * np.cos(s_m / length + phase) for a, length, phase in self._waves
        )
        return long + short


class Camera:
    """A pinhole camera at one moment of the drive."""

    def __init__(self, seed: int, bend: Bend, time_s: float, width: int, height: int) -> None:
        sway = [
            math.sin(time_s * rate + between(0.0, 6.3, seed, 20, n))
            for n, rate in enumerate((0.31, 0.47, 0.83, 2.9))
        ]
        self.bend = bend
        self.s_m = travelled_m(seed, time_s)
        self.x_m = float(bend.x_m(self.s_m)) + LANE_U_M + 0.25 * sway[0]
        yaw = math.atan(float(bend.slope(self.s_m))) + 0.018 * sway[1]
        self.yaw, self.sin_yaw, self.cos_yaw = yaw, math.sin(yaw), math.cos(yaw)
        self.focal_px = FOCAL_PER_WIDTH * width
        self.centre_px = 0.5 * width
        pitch = 0.006 * sway[2] + 0.0025 * sway[3]
        self.horizon_px = HORIZON_PER_HEIGHT * height + self.focal_px * pitch
        self.width, self.height = width, height

    def to_view(self, u_m: Floats, s_m: Floats) -> Tuple[Floats, Floats]:
        """Road coordinates to the camera's right and forward, in metres."""
        right = u_m + self.bend.x_m(s_m) - self.x_m
        ahead = s_m - self.s_m
        return (
            self.cos_yaw * right - self.sin_yaw * ahead,
            self.sin_yaw * right + self.cos_yaw * ahead,
        )

    def to_pixels(self, right_m: Floats, ahead_m: Floats, h_m: Floats) -> Tuple[Floats, Floats]:
        scale = self.focal_px / ahead_m
        return (self.centre_px + right_m * scale, self.horizon_px + (CAMERA_HEIGHT_M - h_m) * scale)


def travelled_m(seed: int, time_s: float) -> float:
    """Distance along the road: 10 m/s on average, between 8 and 12 m/s."""
    start = between(0.0, 2000.0, seed, 30)
    phase = between(0.0, 6.3, seed, 31)
    return start + 10.0 * time_s + 6.0 * math.sin(0.32 * time_s + phase)
