"""Trees, bushes, lamp posts and traffic signs as sprites."""

import math

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street.classes import POLE, TRAFFIC_SIGN, VEGETATION
from segmentation_node.evaluation.datasets.street.noise import fractal
from segmentation_node.evaluation.datasets.street.sprites import Pad, Sprite

LEAF_RGB = ((70, 112, 42), (54, 98, 46), (92, 124, 44), (62, 106, 58))
RED, WHITE, BLUE, YELLOW, BLACK = (
    (200, 30, 36),
    (238, 238, 236),
    (28, 84, 190),
    (244, 196, 40),
    (24, 24, 28),
)
SIGN_KINDS = 6


def tree(rng: np.random.RandomState) -> Sprite:
    """A street tree: trunk and a crown made of clumps of leaves."""
    pad = Pad(5.0, 7.6, 52.0)
    pad.polygon([(-0.2, 0.0), (0.2, 0.0), (0.12, 3.2), (-0.12, 3.2)], (84, 66, 50), VEGETATION)
    pad.polygon([(0.02, 0.0), (0.2, 0.0), (0.12, 3.2), (0.02, 3.2)], (62, 48, 38), VEGETATION)
    for side in (-1, 1):
        pad.limb([(0.0, 2.4), (0.7 * side, 3.6)], 0.14, (66, 52, 40), VEGETATION)
    leaf = np.array(LEAF_RGB[rng.randint(len(LEAF_RGB))], float)
    _clumps(pad, rng, leaf, (0.0, 4.9), (1.7, 1.9), 46)
    _leaves(pad, rng)
    return Sprite(pad)


def bush(rng: np.random.RandomState) -> Sprite:
    """A low bush on the grass."""
    pad = Pad(2.8, 1.5, 70.0)
    leaf = 0.92 * np.array(LEAF_RGB[rng.randint(len(LEAF_RGB))], float)
    pad.ellipse((0.0, 0.3), (1.1, 0.32), tuple(0.6 * leaf), VEGETATION)
    _clumps(pad, rng, leaf, (0.0, 0.62), (0.95, 0.42), 22)
    _leaves(pad, rng)
    return Sprite(pad)


def _clumps(
    pad: Pad,
    rng: np.random.RandomState,
    leaf_rgb: np.ndarray,
    centre: tuple,
    radii: tuple,
    count: int,
) -> None:
    """Clumps of leaves from the dark bottom to the lit top."""
    spots = rng.uniform(-1.0, 1.0, (count, 3))
    spots = spots[np.argsort(spots[:, 1])]
    size = 0.36 * min(radii)
    for across, up, look in spots:
        reach = math.sqrt(max(1.0 - up * up, 0.12))
        at = (centre[0] + across * reach * radii[0] * 0.8, centre[1] + up * radii[1] * 0.82)
        colour = np.clip(leaf_rgb * (0.82 + 0.3 * up + 0.14 * look), 0, 255)
        radius = size * (1.15 + 0.25 * look)
        pad.ellipse(at, (radius, 0.85 * radius), tuple(colour), VEGETATION)


def _leaves(pad: Pad, rng: np.random.RandomState) -> None:
    """Leaf texture, and a ragged outline."""
    height, width = pad.labels_hw.shape
    grain = fractal(rng, height, width, (9, 4, 2))
    ragged = cv2.erode((pad.labels_hw == VEGETATION).astype(np.uint8), np.ones((9, 9), np.uint8))
    trunk_row = np.arange(height)[:, None] > height - 0.38 * height
    bare = (ragged == 0) & (grain < -0.25) & ~(trunk_row & (height > width))
    pad.labels_hw[bare] = 255
    pad.shade((1.0 + 0.42 * grain) * np.linspace(1.16, 0.84, width)[None, :])


def lamp(rng: np.random.RandomState) -> Sprite:
    """A lamp post with an arm to its left."""
    pad = Pad(3.4, 6.6, 60.0)
    tone = rng.uniform(0.75, 1.15)
    base = (88 * tone, 94 * tone, 98 * tone)
    _post(pad, base, 0.13, 6.2)
    pad.box(-0.19, 0.0, 0.19, 0.7, tuple(0.8 * v for v in base), POLE)
    pad.limb([(0.0, 6.1), (-0.6, 6.36), (-1.1, 6.36)], 0.18, base, POLE)
    pad.polygon([(-1.6, 6.3), (-0.9, 6.28), (-0.95, 6.5), (-1.5, 6.48)], (206, 206, 196), POLE)
    return Sprite(pad)


def _post(pad: Pad, base: tuple, half_m: float, top_m: float) -> None:
    """A round post: lit on its left, dark on its right."""
    for left, right, gain in ((-1.0, -0.4, 0.95), (-0.4, 0.1, 1.3), (0.1, 1.0, 0.66)):
        colour = tuple(min(gain * v, 255.0) for v in base)
        pad.box(left * half_m, 0.0, right * half_m, top_m, colour, POLE)


def sign(kind: int) -> Sprite:
    """A traffic sign on its post; kinds 0 to SIGN_KINDS - 1."""
    pad = Pad(1.2, 3.5, 80.0)
    _post(pad, (150, 152, 154), 0.10, 2.9)
    paint = (_limit, _no_entry, _priority, _crossing, _give_way, _parking)[kind]
    paint(pad, (0.0, 2.92))
    return Sprite(pad)


def _ngon(pad: Pad, centre: tuple, radius: float, sides: int, turn: float, colour: tuple) -> None:
    angles = [turn + 2.0 * math.pi * n / sides for n in range(sides)]
    corners = [(centre[0] + radius * math.sin(a), centre[1] + radius * math.cos(a)) for a in angles]
    pad.polygon(corners, colour, TRAFFIC_SIGN)


def _limit(pad: Pad, centre: tuple) -> None:
    pad.ellipse(centre, (0.48, 0.48), RED, TRAFFIC_SIGN)
    pad.ellipse(centre, (0.35, 0.35), WHITE, TRAFFIC_SIGN)
    pad.limb(
        [
            (-0.18, 3.08),
            (-0.05, 3.08),
            (-0.05, 2.92),
            (-0.18, 2.92),
            (-0.05, 2.92),
            (-0.05, 2.76),
            (-0.18, 2.76),
        ],
        0.06,
        BLACK,
        TRAFFIC_SIGN,
    )
    pad.ellipse((0.13, 2.92), (0.09, 0.16), BLACK, TRAFFIC_SIGN, 0.06)


def _no_entry(pad: Pad, centre: tuple) -> None:
    pad.ellipse(centre, (0.48, 0.48), RED, TRAFFIC_SIGN)
    pad.box(-0.32, 2.83, 0.32, 3.01, WHITE, TRAFFIC_SIGN)


def _priority(pad: Pad, centre: tuple) -> None:
    for radius, colour in ((0.54, BLACK), (0.51, WHITE), (0.38, YELLOW)):
        _ngon(pad, centre, radius, 4, 0.0, colour)


def _crossing(pad: Pad, centre: tuple) -> None:
    pad.box(-0.45, 2.47, 0.45, 3.37, WHITE, TRAFFIC_SIGN)
    pad.box(-0.42, 2.5, 0.42, 3.34, BLUE, TRAFFIC_SIGN)
    _ngon(pad, (0.0, 2.86), 0.38, 3, 0.0, WHITE)
    pad.limb([(-0.08, 2.72), (0.0, 2.9), (0.1, 2.72)], 0.06, BLACK, TRAFFIC_SIGN)
    pad.ellipse((0.0, 3.02), (0.05, 0.05), BLACK, TRAFFIC_SIGN)


def _give_way(pad: Pad, centre: tuple) -> None:
    _ngon(pad, centre, 0.56, 3, math.pi, RED)
    _ngon(pad, centre, 0.30, 3, math.pi, WHITE)


def _parking(pad: Pad, centre: tuple) -> None:
    pad.box(-0.42, 2.5, 0.42, 3.34, WHITE, TRAFFIC_SIGN)
    pad.box(-0.39, 2.53, 0.39, 3.31, BLUE, TRAFFIC_SIGN)
    pad.limb([(-0.12, 2.66), (-0.12, 3.18), (0.04, 3.18)], 0.1, WHITE, TRAFFIC_SIGN)
    pad.ellipse((0.03, 3.04), (0.14, 0.14), WHITE, TRAFFIC_SIGN, 0.1)
