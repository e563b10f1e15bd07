"""Randomness that depends on nothing but its keys: hashed numbers and tileable noise."""

from functools import lru_cache
from typing import Sequence

import cv2
import numpy as np

_MASK = (1 << 64) - 1


@lru_cache(maxsize=1 << 16)
def unit(*keys: int) -> float:
    """A number in [0, 1) that is a pure function of the integer keys (SplitMix64)."""
    state = 0
    for key in keys:
        state = (state + (key & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return (state >> 11) / float(1 << 53)


def between(low: float, high: float, *keys: int) -> float:
    """A hashed number in [low, high)."""
    return low + (high - low) * unit(*keys)


def octave(rng: np.random.RandomState, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth float32 noise in [-1, 1] that tiles; `cell` is the grain in pixels."""
    rows, columns = max(height // cell, 1), max(width // cell, 1)
    grid = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    padded = np.pad(grid, 2, mode="wrap")
    y_px = ((np.arange(height) + 0.5) * rows / height + 1.5).astype(np.float32)
    x_px = ((np.arange(width) + 0.5) * columns / width + 1.5).astype(np.float32)
    map_x, map_y = np.meshgrid(x_px, y_px)
    return cv2.remap(padded, map_x, map_y, cv2.INTER_LINEAR)


def fractal(
    rng: np.random.RandomState, height: int, width: int, cells: Sequence[int]
) -> np.ndarray:
    """Octaves of falling strength, added up; float32, roughly in [-1, 1]."""
    total = np.zeros((height, width), np.float32)
    for number, cell in enumerate(cells):
        total += octave(rng, height, width, cell) * np.float32(0.6**number)
    return total
