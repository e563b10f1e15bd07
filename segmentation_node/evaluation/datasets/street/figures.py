"""People, cyclists and bicycles as sprites."""

import math
from typing import List, Sequence

import numpy as np

from segmentation_node.evaluation.datasets.street.classes import BICYCLE, PERSON, RIDER
from segmentation_node.evaluation.datasets.street.noise import fractal
from segmentation_node.evaluation.datasets.street.sprites import Pad, Sprite

CLOTHES_RGB = (
    (176, 48, 52),
    (38, 74, 140),
    (222, 186, 70),
    (60, 62, 72),
    (226, 226, 220),
    (58, 120, 90),
    (120, 66, 130),
    (214, 118, 50),
    (96, 150, 190),
    (150, 40, 90),
)
TROUSERS_RGB = ((38, 44, 66), (66, 62, 58), (30, 30, 34), (92, 88, 80), (70, 84, 116))
SKIN_RGB = ((232, 190, 160), (196, 144, 110), (140, 96, 70), (96, 66, 50))
HAIR_RGB = ((40, 28, 22), (92, 60, 36), (24, 22, 24), (176, 140, 84), (130, 130, 130))
GAIT_STEPS = 4


def _pick(rng: np.random.RandomState, colours: Sequence) -> tuple:
    base = np.array(colours[rng.randint(len(colours))], float)
    return tuple(float(v) for v in np.clip(base * rng.uniform(0.8, 1.1), 0, 255))


def _darker(colour: Sequence[float], factor: float) -> tuple:
    return tuple(float(v) * factor for v in colour)


def _round(pad: Pad, rng: np.random.RandomState) -> None:
    """Folds of cloth and a lit side."""
    height, width = pad.labels_hw.shape
    folds = 1.0 + 0.10 * fractal(rng, height, width, (24, 8))
    pad.shade(folds * np.linspace(1.12, 0.82, width)[None, :])


def walker(rng: np.random.RandomState) -> List[Sprite]:
    """One pedestrian, a sprite per step of the gait."""
    looks = [_pick(rng, palette) for palette in (CLOTHES_RGB, TROUSERS_RGB, SKIN_RGB, HAIR_RGB)]
    bag, state = rng.uniform() < 0.4, rng.randint(1 << 30)
    steps = []
    for step in range(GAIT_STEPS):
        swing = math.sin(2.0 * math.pi * step / GAIT_STEPS + 0.6)
        pad = Pad(1.0, 1.86, 150.0)
        _draw_walker(pad, looks, swing, bag)
        _round(pad, np.random.RandomState(state))
        steps.append(Sprite(pad))
    return steps


def _draw_walker(pad: Pad, looks: Sequence, swing: float, bag: bool) -> None:
    coat, trousers, skin, hair = looks
    stride = 0.24 * swing
    pad.limb(
        [(-0.05, 0.9), (-stride * 0.6, 0.48), (-stride, 0.07)], 0.17, _darker(trousers, 0.8), PERSON
    )
    pad.limb([(0.05, 0.9), (stride * 0.7, 0.48), (stride, 0.07)], 0.18, trousers, PERSON)
    for foot in (-stride, stride):
        pad.ellipse((foot + 0.03, 0.06), (0.12, 0.06), (34, 28, 26), PERSON)
    pad.limb(
        [(-0.17, 1.36), (-0.2 - 0.1 * swing, 1.1), (-0.17 - 0.2 * swing, 0.88)],
        0.12,
        _darker(coat, 0.75),
        PERSON,
    )
    pad.polygon(
        [
            (-0.24, 1.44),
            (-0.12, 1.52),
            (0.12, 1.52),
            (0.24, 1.44),
            (0.21, 0.98),
            (0.23, 0.8),
            (-0.23, 0.8),
            (-0.21, 0.98),
        ],
        coat,
        PERSON,
    )
    if bag:
        pad.polygon(
            [(-0.14, 1.42), (0.14, 1.42), (0.16, 1.02), (-0.16, 1.02)],
            _darker(trousers, 1.3),
            PERSON,
        )
    pad.limb(
        [(0.2, 1.38), (0.24 + 0.1 * swing, 1.12), (0.2 + 0.22 * swing, 0.9)],
        0.13,
        _darker(coat, 0.92),
        PERSON,
    )
    pad.ellipse((0.2 + 0.22 * swing, 0.86), (0.06, 0.06), skin, PERSON)
    pad.limb([(0.0, 1.5), (0.0, 1.6)], 0.12, skin, PERSON)
    pad.ellipse((0.0, 1.68), (0.11, 0.14), skin, PERSON)
    pad.ellipse((-0.015, 1.74), (0.12, 0.10), hair, PERSON)


def cyclist(rng: np.random.RandomState) -> List[Sprite]:
    """A rider on a bicycle at a slant, a sprite per step of the pedals."""
    looks = [_pick(rng, palette) for palette in (CLOTHES_RGB, TROUSERS_RGB, SKIN_RGB)]
    helmet = _pick(rng, ((230, 230, 230), (210, 40, 40), (240, 200, 40), (40, 90, 200)))
    frame, state = _pick(rng, CLOTHES_RGB), rng.randint(1 << 30)
    steps = []
    for step in range(GAIT_STEPS):
        pad = Pad(1.3, 1.84, 150.0)
        _draw_bicycle(pad, frame, 0.36, 0.21)
        _draw_rider(pad, looks, helmet, math.sin(2.0 * math.pi * step / GAIT_STEPS))
        _round(pad, np.random.RandomState(state))
        steps.append(Sprite(pad))
    return steps


def _draw_rider(pad: Pad, looks: Sequence, helmet: tuple, turn: float) -> None:
    jacket, trousers, skin = looks
    for side, colour in ((-1, _darker(trousers, 0.8)), (1, trousers)):
        foot = 0.32 + 0.14 * turn * side
        pad.limb(
            [
                (-0.08 + 0.05 * side, 0.98),
                (0.12 + 0.06 * side, 0.66 + 0.07 * turn * side),
                (0.03 + 0.06 * side, foot),
            ],
            0.17,
            colour,
            RIDER,
        )
        pad.ellipse((0.06 + 0.06 * side, foot - 0.04), (0.11, 0.06), (34, 28, 26), RIDER)
    pad.polygon(
        [(-0.26, 0.92), (0.08, 0.9), (0.24, 1.4), (0.14, 1.52), (-0.1, 1.48), (-0.24, 1.2)],
        jacket,
        RIDER,
    )
    pad.limb([(0.12, 1.4), (0.26, 1.18), (0.4, 1.08)], 0.13, _darker(jacket, 0.85), RIDER)
    pad.ellipse((0.41, 1.07), (0.06, 0.06), skin, RIDER)
    pad.ellipse((0.13, 1.63), (0.12, 0.14), skin, RIDER)
    pad.ellipse((0.12, 1.70), (0.15, 0.11), helmet, RIDER)


def bicycle(rng: np.random.RandomState) -> Sprite:
    """A parked bicycle seen from its side."""
    pad = Pad(1.9, 1.12, 150.0)
    _draw_bicycle(pad, _pick(rng, CLOTHES_RGB), 0.55, 0.36)
    _round(pad, rng)
    return Sprite(pad)


def _draw_bicycle(pad: Pad, frame: tuple, axle_m: float, radius_x_m: float) -> None:
    spokes, tyre, radius = (112, 114, 120), (22, 22, 26), 0.36
    for axle in (-axle_m, axle_m):
        pad.ellipse((axle, 0.38), (radius_x_m, radius), spokes, BICYCLE)
        pad.ellipse((axle, 0.38), (radius_x_m - 0.03, radius - 0.03), tyre, BICYCLE, 0.08)
        pad.ellipse((axle, 0.38), (0.06, 0.07), tyre, BICYCLE)
    saddle, head, crank = (-0.32 * axle_m, 0.88), (0.72 * axle_m, 0.92), (-0.05, 0.36)
    pad.polygon([saddle, head, crank], _darker(frame, 0.55), BICYCLE)
    for start, end in (
        (saddle, crank),
        (head, crank),
        (saddle, head),
        ((-axle_m, 0.38), crank),
        ((-axle_m, 0.38), saddle),
        ((axle_m, 0.38), head),
    ):
        pad.limb([start, end], 0.07, frame, BICYCLE)
    pad.limb([head, (0.62 * axle_m, 1.04), (0.62 * axle_m + 0.1, 1.06)], 0.07, tyre, BICYCLE)
    pad.ellipse((saddle[0], 0.94), (0.13, 0.05), tyre, BICYCLE)
