"""The drive: any frame by its number, image and exact labels."""

from typing import Dict, List, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street import cars, figures, scenery
from segmentation_node.evaluation.datasets.street.camera import Bend, Camera
from segmentation_node.evaluation.datasets.street.houses import Houses
from segmentation_node.evaluation.datasets.street.light import Light
from segmentation_node.evaluation.datasets.street.sprites import Sprite
from segmentation_node.evaluation.datasets.street.surfaces import Background, Ground, shadows
from segmentation_node.evaluation.datasets.street.world import ROWS, Item, items
from segmentation_node.labels import UNLABELLED

CAR_KINDS = ("parked", "lead", "oncoming")
_RANGE_M = {row.kind: row.range_m for row in ROWS}
_GRAIN_OFFSET = 32


class StreetDrive:
    """A car's camera on its way down a street that goes on for ever.

    A frame is a pure function of seed, index and size. Labels are Cityscapes train ids.
    """

    def __init__(self, seed: int, width: int = 640, height: int = 360, fps: float = 10.0) -> None:
        if width < 64 or height < 36 or fps <= 0:
            raise ValueError(
                "a street drive of {}x{} at {} fps was asked for, expected at least "
                "64x36 and a positive rate".format(width, height, fps)
            )
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        rng = np.random.RandomState((seed * 7919 + 17) % (1 << 32))
        self._bend = Bend(seed)
        self._ground = Ground(rng)
        self._houses = Houses(seed, rng)
        self._casts = _casts(rng)
        self._background = Background(rng, width, height)
        self._grain = _grain(rng, width, height)

    def frame(
        self, index: int, numbers_hw: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, np.ndarray]:
        """image_hwc uint8 RGB and labels_hw uint8 train ids, 255 = unlabelled.

        ``numbers_hw``, uint16 (H, W) of zeros, is told which thing a pixel shows, from 1 on; a
        cyclist and the bicycle below have one number.
        """
        time_s = index / self.fps
        image_hwc, labels_hw = self.paint(time_s, Light(self.seed, time_s), numbers_hw)
        return self._expose(image_hwc, Light(self.seed, time_s), index), labels_hw

    def paint(
        self, time_s: float, light: Light, numbers_hw: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The scene before exposure, blur and grain: far to near. ``numbers_hw`` as ``frame``."""
        camera = Camera(self.seed, self._bend, time_s, self.width, self.height)
        image_hwc = np.zeros((self.height, self.width, 3), np.uint8)
        labels_hw = np.full((self.height, self.width), UNLABELLED, np.uint8)
        near_houses = self._houses.near(camera)
        things = items(self.seed, camera, time_s)
        self._background.draw(image_hwc, labels_hw, camera, light)
        lit_hw = shadows(camera, light, near_houses, things)
        self._ground.draw(image_hwc, labels_hw, camera, light, lit_hw)
        self._houses.draw(image_hwc, labels_hw, camera, light, near_houses)
        things = sorted(things, key=lambda item: (-item.s_m, item.u_m))
        for number, thing in enumerate(things, 1):
            # What it covers shows on a sheet of its own: what is behind may have the same label.
            sheet_hw = labels_hw if numbers_hw is None else np.full_like(labels_hw, UNLABELLED)
            self._draw_thing(image_hwc, sheet_hw, camera, light, thing, time_s)
            if numbers_hw is not None:
                drawn = sheet_hw != UNLABELLED
                labels_hw[drawn], numbers_hw[drawn] = sheet_hw[drawn], number
        return image_hwc, labels_hw

    def _draw_thing(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        camera: Camera,
        light: Light,
        thing: Item,
        time_s: float,
    ) -> None:
        right, ahead = (float(v) for v in camera.to_view(thing.u_m, thing.s_m))
        if thing.kind in CAR_KINDS:
            if ahead > -2.0:
                cars.draw(image_hwc, labels_hw, camera, light, thing)
            return
        if ahead < 1.5 or ahead > _RANGE_M[thing.kind]:
            return
        cast = self._casts[thing.kind]
        steps = cast[int(thing.pick * len(cast))]
        sprite = steps[int((time_s * 1.7 + thing.phase) * len(steps)) % len(steps)]
        x_px, y_px = camera.to_pixels(right, ahead, 0.0)
        gain = light.facing(0.35 * (1 if thing.side != light.sun_side else -1))
        size = 0.92 + 0.16 * thing.phase
        sprite.draw(
            image_hwc,
            labels_hw,
            (x_px, y_px),
            size * camera.focal_px / ahead,
            light.mix(gain, ahead),
            _mirrored(thing),
        )

    def _expose(self, image_hwc: np.ndarray, light: Light, index: int) -> np.ndarray:
        """Lens blur, exposure and colour temperature, sensor grain."""
        soft = cv2.GaussianBlur(image_hwc, (3, 3), 0.55 * self.width / 640.0)
        toned = cv2.LUT(soft, light.tone_curve())
        shift = np.random.RandomState((self.seed * 104729 + index) % (1 << 32)).randint(0, 64, 2)
        grain = self._grain[shift[0] : shift[0] + self.height, shift[1] : shift[1] + self.width]
        return cv2.addWeighted(toned, 1.0, np.ascontiguousarray(grain), 1.0, -float(_GRAIN_OFFSET))


def _mirrored(thing: Item) -> bool:
    if thing.kind == "lamp":
        return thing.side < 0
    if thing.kind in ("walker", "cyclist"):
        return thing.way < 0
    return thing.kind != "sign" and thing.phase < 0.5


def _casts(rng: np.random.RandomState) -> Dict[str, List[List[Sprite]]]:
    """The sprites of every kind of thing: variants, each a list of steps."""
    walkers = [figures.walker(rng) for _ in range(10)]
    return {
        "tree": [[scenery.tree(rng)] for _ in range(5)],
        "bush": [[scenery.bush(rng)] for _ in range(3)],
        "lamp": [[scenery.lamp(rng)] for _ in range(2)],
        "sign": [[scenery.sign(kind)] for kind in range(scenery.SIGN_KINDS)],
        "bicycle": [[figures.bicycle(rng)] for _ in range(5)],
        "walker": walkers,
        "crossing": walkers,
        "cyclist": [figures.cyclist(rng) for _ in range(6)],
    }


def _grain(rng: np.random.RandomState, width: int, height: int) -> np.ndarray:
    noise = rng.standard_normal((height + 64, width + 64, 3))
    noise = 2.2 * noise + 2.2 * noise.mean(axis=2, keepdims=True)
    return np.clip(np.round(noise) + _GRAIN_OFFSET, 0, 255).astype(np.uint8)
