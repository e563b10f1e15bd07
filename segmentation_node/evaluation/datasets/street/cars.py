"""Cars as solids: faces in metres, projected and painted back to front."""

from functools import lru_cache
from typing import List, NamedTuple, Sequence, Tuple, Union

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street.camera import Camera
from segmentation_node.evaluation.datasets.street.classes import CAR
from segmentation_node.evaluation.datasets.street.light import Light
from segmentation_node.evaluation.datasets.street.world import Item

PAINT_RGB = (
    (178, 34, 38),
    (34, 68, 140),
    (224, 226, 228),
    (46, 48, 54),
    (142, 148, 154),
    (30, 92, 96),
    (206, 150, 40),
    (90, 30, 40),
    (196, 200, 206),
    (60, 96, 150),
)
TYRE, HUB, ARCH = (24, 24, 28), (112, 114, 120), (14, 14, 16)
GLASS, SHEEN = (40, 52, 66), (104, 126, 146)
BLACK = (0.0, 0.0, 0.0)
LENGTH_M, HALF_M = 4.2, 0.9
NEAR_M = 0.7
END, SIDE, TOP, BACK = range(4)
_SHIFT = 4

Face = NamedTuple(
    "Face",
    [("corners", np.ndarray), ("paint", float), ("facing", int), ("own_rgb", np.ndarray)],
)
"""Corners (along from the near end, across, up); a share of the paint plus its own colour."""


def draw(
    image_hwc: np.ndarray, labels_hw: np.ndarray, camera: Camera, light: Light, car: Item
) -> None:
    """Paint one car into image and labels."""
    right_m, _ = camera.to_view(car.u_m, car.s_m)
    side = -1 if right_m > 0 else 1
    faces, points = _solid(car.way > 0, side, (car.pick * 37.0) % 1.0 < 0.5)
    right, ahead = camera.to_view(car.u_m + points[:, 1], car.s_m - 0.5 * LENGTH_M + points[:, 0])
    view = np.stack([right, ahead, points[:, 2]], axis=1)
    colours = _colours(faces, car, side, light, max(float(ahead[0]), 0.0))
    whole = ahead.min() >= NEAR_M
    drawn = _fixed_point(camera, view) if whole else np.zeros((0, 2), np.int32)
    start = 0
    for face, colour in zip(faces, colours):
        stop = start + len(face.corners)
        polygon = drawn[start:stop] if whole else _fixed_point(camera, clip_near(view[start:stop]))
        start = stop
        if len(polygon) >= 3:
            cv2.fillPoly(image_hwc, [polygon], colour, 8, _SHIFT)
            cv2.fillPoly(labels_hw, [polygon], CAR, 8, _SHIFT)


def _fixed_point(camera: Camera, view: np.ndarray) -> np.ndarray:
    x_px, y_px = camera.to_pixels(view[:, 0], view[:, 1], view[:, 2])
    return np.round(np.stack([x_px, y_px], axis=1) * (1 << _SHIFT)).astype(np.int32)


def _colours(
    faces: Sequence[Face], car: Item, side: int, light: Light, ahead_m: float
) -> List[Sequence[float]]:
    mix = light.mix(1.0, ahead_m)
    gains = (
        light.facing(-0.1),
        light.facing(0.7 if side == light.sun_side else -0.5),
        light.facing(1.0),
        light.facing(0.3),
    )
    paint = np.array(PAINT_RGB[int(car.pick * len(PAINT_RGB))], float)
    rgb = np.array([face.paint * gains[face.facing] * paint + face.own_rgb for face in faces])
    shown = np.clip(rgb, 0.0, 255.0).dot(mix[:, :3].T) + mix[:, 3]
    return shown.tolist()


def clip_near(view: np.ndarray) -> np.ndarray:
    """Cut off the part of a polygon (right, ahead, h) that is behind the near plane."""
    if view[:, 1].min() >= NEAR_M:
        return view
    kept: List[np.ndarray] = []
    for this, following in zip(view, np.roll(view, -1, axis=0)):
        if this[1] >= NEAR_M:
            kept.append(this)
        if (this[1] >= NEAR_M) != (following[1] >= NEAR_M):
            share = (NEAR_M - this[1]) / (following[1] - this[1])
            kept.append(this + share * (following - this))
    return np.array(kept).reshape(-1, 3)


@lru_cache(maxsize=None)
def _solid(rear: bool, side: int, low: bool) -> Tuple[List[Face], np.ndarray]:
    """The faces of one shape seen from one side, back to front, and all their corners."""
    wall = side * HALF_M
    faces = [
        _face(
            [
                (0.4, across - 0.13, 0.0),
                (0.4, across + 0.13, 0.0),
                (0.4, across + 0.13, 0.4),
                (0.4, across - 0.13, 0.4),
            ],
            0.0,
            END,
            TYRE,
        )
        for across in (-0.72, 0.72)
    ]
    faces += _flank(wall) + _wheels(wall) + _near_end(rear)
    faces.append(
        _face(
            [(0.12, -0.9, 0.94), (0.12, 0.9, 0.94), (4.1, 0.9, 0.94), (4.1, -0.9, 0.94)],
            1.0,
            TOP,
            (22.0, 22.0, 22.0),
        )
    )
    faces += _upper(_cabin(rear, low), side)
    return faces, np.concatenate([face.corners for face in faces])


def _face(
    corners: Union[Sequence[Sequence[float]], np.ndarray],
    paint: float,
    facing: int,
    own_rgb: Sequence[float] = BLACK,
) -> Face:
    return Face(np.array(corners, float), paint, facing, np.array(own_rgb, float))


def _cabin(rear: bool, low: bool) -> Tuple[float, float, float, float, float]:
    """Where the cabin starts, its roof starts and ends, it ends, and the roof's height."""
    if rear:
        return (0.75, 1.3, 2.5, 3.2, 1.45) if low else (0.1, 0.5, 2.6, 3.2, 1.56)
    return (1.0, 1.7, 2.9, 3.45, 1.45) if low else (0.95, 1.6, 3.7, 4.1, 1.56)


def _wheels(wall: float) -> List[Face]:
    angles = np.linspace(0.0, 2.0 * np.pi, 15)[:-1]
    faces = []
    for axle in (0.75, 3.4):
        for radius, colour in ((0.39, ARCH), (0.33, TYRE), (0.19, HUB), (0.07, TYRE)):
            up = np.maximum(0.33 + radius * np.sin(angles), 0.0 if radius < 0.35 else 0.26)
            ring = np.stack([axle + radius * np.cos(angles), np.full(14, wall * 1.003), up], axis=1)
            faces.append(_face(ring, 0.0, SIDE, colour))
    return faces


def _flank(wall: float) -> List[Face]:
    outline = [
        (0.0, 0.3),
        (0.0, 0.72),
        (0.12, 0.94),
        (4.1, 0.94),
        (4.2, 0.7),
        (4.2, 0.3),
        (4.0, 0.24),
        (0.2, 0.24),
    ]
    sill = [(0.2, 0.24), (4.0, 0.24), (4.05, 0.42), (0.1, 0.42)]
    crease = [(0.1, 0.78), (4.14, 0.74), (4.1, 0.94), (0.12, 0.94)]
    return [
        _face([(along, wall, up) for along, up in shape], gain, SIDE)
        for shape, gain in ((outline, 0.88), (sill, 0.5), (crease, 1.12))
    ]


def _near_end(rear: bool) -> List[Face]:
    lights = (214, 26, 24) if rear else (246, 244, 224)
    faces = [
        _plate(-0.88, 0.24, 0.88, 0.5, 0.45),
        _plate(-0.9, 0.36, 0.9, 0.76, 0.9),
        _face(
            [(0.0, -0.9, 0.72), (0.0, 0.9, 0.72), (0.12, 0.86, 0.95), (0.12, -0.86, 0.95)], 1.1, END
        ),
    ]
    for side in (-1, 1):
        faces.append(_plate(side * 0.88, 0.62, side * 0.54, 0.8, 0.0, lights))
    if not rear:
        faces.append(_plate(-0.45, 0.4, 0.45, 0.66, 0.0, (30, 32, 36)))
    faces.append(_plate(-0.26, 0.44, 0.26, 0.56, 0.0, (232, 230, 214)))
    return faces


def _plate(
    left: float,
    low: float,
    right: float,
    high: float,
    paint: float,
    own_rgb: Sequence[float] = BLACK,
) -> Face:
    return _face(
        [(0.0, left, low), (0.0, right, low), (0.0, right, high), (0.0, left, high)],
        paint,
        END,
        own_rgb,
    )


def _upper(cabin: Sequence[float], side: int) -> List[Face]:
    """The cabin: its side with the windows, its near end with the window."""
    start, roof_start, roof_end, end, roof = cabin
    base, inset = 0.92, 0.70
    wall, top = side * 0.86, side * inset
    pillar = 0.5 * (roof_start + roof_end)
    low, high = base + 0.04, roof - 0.08

    def beside(xs: Sequence[float], bottom: float, upper: float) -> List[Sequence[float]]:
        """Corners of a pane of the side by how far ahead they are: below, above, above, below."""
        return [
            (xs[0], wall, bottom),
            (xs[1], top, upper),
            (xs[2], top, upper),
            (xs[3], wall, bottom),
        ]

    near, far = pillar - 0.05, pillar + 0.05
    return [
        _face(beside((start, roof_start, roof_end, end), base, roof), 0.95, SIDE),
        _face(beside((start + 0.3, roof_start + 0.16, near, near), low, high), 0.0, SIDE, GLASS),
        _face(beside((far, far, roof_end - 0.12, end - 0.3), low, high), 0.0, SIDE, GLASS),
        _face(
            [
                (start, -0.86, base),
                (start, 0.86, base),
                (roof_start, inset, roof),
                (roof_start, -inset, roof),
            ],
            1.0,
            BACK,
        ),
        _face(
            [
                (start, -0.76, low),
                (start, 0.76, low),
                (roof_start, inset - 0.08, high),
                (roof_start, 0.08 - inset, high),
            ],
            0.0,
            BACK,
            GLASS,
        ),
        _face(
            [
                (start, -0.5, low),
                (start, -0.1, low),
                (roof_start, 0.3, high),
                (roof_start, -0.05, high),
            ],
            0.0,
            BACK,
            SHEEN,
        ),
    ]
