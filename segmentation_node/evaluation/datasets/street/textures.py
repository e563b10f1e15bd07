"""Surfaces that tile: the ground, the fronts of the houses, the sky."""

from typing import List, Sequence

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street.noise import fractal

GROUND_WIDTH_M = 32.0
GROUND_LENGTH_M = 64.0
GROUND_PX_PER_M = 32
ROAD_HALF_M = 5.5
KERB_M = 0.25
VERGE_END_M = 7.2
ZEBRA_M = (2.0, 5.0)
FRONT_M = 16.0
FRONT_PX_PER_M = 16
FRONTS = 8
FLOOR_M = 3.2
FRONT_RGB = (
    (164, 84, 66),
    (206, 186, 148),
    (186, 142, 86),
    (140, 148, 158),
    (196, 122, 98),
    (216, 208, 196),
    (122, 98, 84),
    (168, 172, 150),
)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


def ground(rng: np.random.RandomState) -> np.ndarray:
    """uint8 (s, u, 3): asphalt with markings and kerbs, grass verges, paved slabs."""
    shape = (int(GROUND_LENGTH_M * GROUND_PX_PER_M), int(GROUND_WIDTH_M * GROUND_PX_PER_M))
    s_m = (np.arange(shape[0])[:, None] + 0.5) / GROUND_PX_PER_M
    u_m = (np.arange(shape[1])[None, :] + 0.5) / GROUND_PX_PER_M - 0.5 * GROUND_WIDTH_M
    painted = np.where(np.abs(u_m) < VERGE_END_M, 0.0, 1.0)[..., None]
    image = _grass(rng, shape) * (1.0 - painted) + _slabs(rng, shape) * painted
    road = (np.abs(u_m) < ROAD_HALF_M)[0]
    image[:, road] = _asphalt(rng, s_m, u_m[:, road])
    kerb = road & (np.abs(u_m[0]) > ROAD_HALF_M - KERB_M)
    image[:, kerb] = image[:, kerb] * 0.45 + 92.0 - 60.0 * (s_m % 1.0 < 0.04)[..., None]
    return _to_uint8(image)


def _asphalt(rng: np.random.RandomState, s_m: np.ndarray, u_m: np.ndarray) -> np.ndarray:
    shape = (s_m.shape[0], u_m.shape[1])
    grey = 80.0 + rng.uniform(-8, 8) + 7.0 * rng.standard_normal(shape)
    grey += 9.0 * fractal(rng, shape[0], shape[1], (256, 64, 16))
    for lane in (-1.75, 1.75):
        for wheel in (-0.75, 0.75):
            grey += 7.0 * np.exp(-(((u_m - lane - wheel) / 0.28) ** 2))
    _mend(rng, grey)
    worn = 1.0 - 0.25 * np.clip(fractal(rng, shape[0], shape[1], (24, 8)) + 0.2, 0, 1)
    return np.where(_markings(s_m, u_m), 222.0 * worn, grey)[..., None] * np.array(
        [0.98, 1.0, 1.04]
    )


def _mend(rng: np.random.RandomState, grey: np.ndarray) -> None:
    """Patches of newer asphalt and a manhole cover or two."""
    for _ in range(9):
        row, column = rng.randint(grey.shape[0] - 200), rng.randint(grey.shape[1] - 60)
        height, width = rng.randint(40, 200), rng.randint(24, 60)
        grey[row : row + height, column : column + width] -= rng.uniform(6.0, 18.0)
    for _ in range(4):
        centre = (int(rng.randint(60, grey.shape[1] - 60)), int(rng.randint(grey.shape[0])))
        cv2.circle(grey, centre, 11, 52.0, -1)
        cv2.circle(grey, centre, 8, 66.0, 2)


def _markings(s_m: np.ndarray, u_m: np.ndarray) -> np.ndarray:
    """Where there is paint: the centre's dashes, the parking lanes' edges, a zebra crossing."""
    zebra = (s_m >= ZEBRA_M[0]) & (s_m < ZEBRA_M[1])
    clear = (s_m < ZEBRA_M[0] - 1.0) | (s_m >= ZEBRA_M[1] + 1.0)
    dash = (np.abs(u_m) < 0.09) & (s_m % 8.0 < 3.4)
    edge = np.abs(np.abs(u_m) - 3.5) < 0.08
    stripes = ((u_m + 20.0) % 1.0 < 0.5) & (np.abs(u_m) < 5.0)
    return ((dash | edge) & clear) | (stripes & zebra)


def _slabs(rng: np.random.RandomState, shape: tuple) -> np.ndarray:
    step = GROUND_PX_PER_M
    tone = np.kron(
        rng.uniform(-10, 10, (shape[0] // step, shape[1] // step)), np.ones((step, step))
    )
    grey = 154.0 + tone + 6.0 * rng.standard_normal(shape)
    grey += 8.0 * fractal(rng, shape[0], shape[1], (128, 32))
    grey[np.arange(shape[0]) % step < 2] -= 42.0
    grey[:, np.arange(shape[1]) % step < 2] -= 42.0
    return grey[..., None] * np.array([1.06, 0.99, 0.90])


def _grass(rng: np.random.RandomState, shape: tuple) -> np.ndarray:
    blades = (
        1.0
        + 0.26 * fractal(rng, shape[0], shape[1], (96, 24, 6))
        + 0.16 * rng.standard_normal(shape).clip(-2, 2)
    )
    dry = 0.5 + 0.5 * fractal(rng, shape[0], shape[1], (160, 40)).clip(-1, 1)[..., None]
    colour = dry * np.array([150.0, 152.0, 72.0]) + (1.0 - dry) * np.array([112.0, 148.0, 62.0])
    return blades[..., None] * colour


def levels(texture: np.ndarray, shrink: Sequence[tuple]) -> List[np.ndarray]:
    """Copies shrunk by (rows, columns), for surfaces further away."""
    height, width = texture.shape[:2]
    return [
        cv2.resize(texture, (width // columns, height // rows), interpolation=cv2.INTER_AREA)
        for rows, columns in shrink
    ]


def fronts(rng: np.random.RandomState) -> np.ndarray:
    """uint8 atlas: FRONTS house fronts side by side, then their FRONTS plain end walls.

    Row 0 is at FRONT_M above the ground.
    """
    size = int(FRONT_M * FRONT_PX_PER_M)
    order = rng.permutation(FRONTS)
    painted, plain = [], []
    for number in range(FRONTS):
        wall = _wall(rng, size, np.array(FRONT_RGB[order[number]], float), number)
        plain.append(_to_uint8(wall * 0.93))
        painted.append(_to_uint8(_openings(rng, wall.copy())))
    return np.hstack(painted + plain)


def _wall(rng: np.random.RandomState, size: int, rgb: np.ndarray, number: int) -> np.ndarray:
    grain = (
        1.0
        + 0.07 * fractal(rng, size, size, (128, 32, 4))
        + 0.03 * rng.standard_normal((size, size))
    )
    if number % 2 == 0:
        rows, columns = np.arange(size)[:, None], np.arange(size)[None, :]
        mortar = (rows % 4 == 0) | ((columns + 4 * (rows // 4 % 2)) % 8 == 0)
        grain = np.where(mortar, grain * 0.84, grain)
    wall = grain[..., None] * rgb * rng.uniform(0.88, 1.08)
    wall[-int(0.7 * FRONT_PX_PER_M) :] *= 0.72
    return wall


def _openings(rng: np.random.RandomState, wall: np.ndarray) -> np.ndarray:
    """Windows on every floor, doors and shop windows on the ground floor."""
    px, size = FRONT_PX_PER_M, wall.shape[0]
    bay_m = (2.0, 2.667, 3.2)[rng.randint(3)]
    window_m = bay_m * rng.uniform(0.42, 0.6)
    trim = wall.mean(axis=(0, 1)) * 0.3 + 170.0
    for floor in range(int(FRONT_M / FLOOR_M)):
        base = int(size - floor * FLOOR_M * px)
        wall[base - int(3.1 * px) : base - int(2.95 * px)] *= 0.84
        for bay in range(int(round(FRONT_M / bay_m))):
            left = int((bay + 0.5) * bay_m * px - 0.5 * window_m * px)
            right, low = left + int(window_m * px), 0.15 if floor == 0 else 0.95
            _window(rng, wall, (base - int(2.6 * px), base - int(low * px), left, right), trim)
    return wall


def _window(rng: np.random.RandomState, wall: np.ndarray, box: tuple, trim: np.ndarray) -> None:
    top, bottom, left, right = box
    wall[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2] = trim
    glass = np.array([62.0, 76.0, 92.0]) * rng.uniform(0.6, 1.35)
    if rng.uniform() < 0.16:
        glass = np.array([226.0, 186.0, 112.0])
    rows = np.linspace(1.35, 0.7, max(bottom - top, 1))[:, None, None]
    wall[top:bottom, left:right] = glass * rows
    middle = (left + right) // 2
    wall[top:bottom, middle : middle + 1] = trim
    wall[(2 * top + bottom) // 3, left:right] = trim
    wall[bottom : bottom + 2, left - 2 : right + 2] *= 1.08


def sky(rng: np.random.RandomState, width: int, height: int, dusk: bool) -> np.ndarray:
    """uint8 panorama that tiles sideways; its bottom row is at the horizon."""
    top, low, cloud = (
        ((84, 138, 204), (196, 216, 234), (244, 246, 248)),
        ((92, 104, 156), (238, 178, 138), (214, 158, 150)),
    )[int(dusk)]
    down = np.linspace(0.0, 1.0, height)[:, None, None] ** 1.2
    base = (1.0 - down) * np.array(top, float) + down * np.array(low, float)
    veil = fractal(rng, 256, 512, (128, 48, 20, 8))
    cover = np.clip(1.3 * veil + rng.uniform(-0.3, 0.25), 0, 1)
    cover = cv2.resize(cover, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return _to_uint8(base * (1.0 - 0.85 * cover) + 0.85 * cover * np.array(cloud, float))


def treeline(rng: np.random.RandomState, width: int, height: int) -> np.ndarray:
    """uint8 panorama of the far trees."""
    veil = fractal(rng, height, width, (16, 6, 3))
    return _to_uint8((1.0 + 0.3 * veil)[..., None] * np.array([84.0, 112.0, 74.0]))
