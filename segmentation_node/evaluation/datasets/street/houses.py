"""House fronts on both sides: one ray per image column meets a wall."""

from typing import Dict, List, NamedTuple, Tuple

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street import textures
from segmentation_node.evaluation.datasets.street.camera import CAMERA_HEIGHT_M, Camera
from segmentation_node.evaluation.datasets.street.classes import BUILDING
from segmentation_node.evaluation.datasets.street.light import Light
from segmentation_node.evaluation.datasets.street.surfaces import FAR_M, road_grid
from segmentation_node.evaluation.datasets.street.world import (
    BUILDING_SLOT_M,
    FRONT_U_M,
    House,
    house,
)

DEPTH_M = 11.0
_LEVEL_FROM_M = (0.0, 15.0, 30.0, 55.0)
_DEPTHS_M = np.concatenate([np.arange(4.0, 60.0, 1.0), np.arange(60.0, FAR_M, 2.0)])[:, None]

Hits = NamedTuple(
    "Hits",
    [
        ("ahead_m", np.ndarray),
        ("atlas_m", np.ndarray),
        ("height_m", np.ndarray),
        ("gain", np.ndarray),
        ("seen", np.ndarray),
    ],
)
"""Per image column: depth, place in the atlas, the house's height, its light, any at all."""


class Houses:
    """The houses of one drive."""

    def __init__(self, seed: int, rng: np.random.RandomState) -> None:
        self.seed = seed
        atlas = textures.fronts(rng)
        self.levels = textures.levels(atlas, [(1, 1), (2, 2), (4, 4), (8, 8)])

    def near(self, camera: Camera) -> List[Tuple[int, House]]:
        """(side, house) from just behind the camera to the far end."""
        first = int(camera.s_m // BUILDING_SLOT_M) - 1
        count = int(FAR_M // BUILDING_SLOT_M) + 4
        return [
            (side, house(self.seed, side, first + n, textures.FRONTS))
            for side in (-1, 1)
            for n in range(count)
        ]

    def draw(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        camera: Camera,
        light: Light,
        near: List[Tuple[int, House]],
    ) -> None:
        hits = _hits(camera, light, near)
        level = np.digitize(hits.ahead_m, _LEVEL_FROM_M) - 1
        level[~hits.seen] = -1
        cuts = np.nonzero(np.diff(level))[0] + 1
        bounds = [0] + [int(cut) for cut in cuts] + [camera.width]
        for x0, x1 in zip(bounds[:-1], bounds[1:]):
            if level[x0] >= 0:
                part = Hits(*(values[x0:x1] for values in hits))
                self._draw_part(
                    image_hwc[:, x0:x1], labels_hw[:, x0:x1], camera, light, part, int(level[x0])
                )

    def _draw_part(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        camera: Camera,
        light: Light,
        hits: Hits,
        level: int,
    ) -> None:
        per_px = hits.ahead_m / camera.focal_px
        low = camera.horizon_px + CAMERA_HEIGHT_M / per_px.min()
        high = camera.horizon_px - ((hits.height_m - CAMERA_HEIGHT_M) / per_px).max()
        y0, y1 = max(int(high), 0), min(int(low) + 1, camera.height)
        if y1 <= y0:
            return
        up_m = CAMERA_HEIGHT_M + (camera.horizon_px - np.arange(y0, y1))[:, None] * per_px
        scale = textures.FRONT_PX_PER_M / float(1 << level)
        y_map = ((textures.FRONT_M - up_m) * scale - 0.5).astype(np.float32)
        x_map = np.broadcast_to((hits.atlas_m * scale - 0.5).astype(np.float32), y_map.shape)
        colours = cv2.remap(
            self.levels[level],
            np.ascontiguousarray(x_map),
            y_map,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask = (up_m >= 0.0) & (up_m < hits.height_m)
        shown = _lit(colours, up_m, hits, light)
        np.copyto(image_hwc[y0:y1], shown, where=mask[..., None])
        np.copyto(labels_hw[y0:y1], np.uint8(BUILDING), where=mask)


def _lit(colours: np.ndarray, up_m: np.ndarray, hits: Hits, light: Light) -> np.ndarray:
    """Sun or shade, the dark eaves, a little grime at the foot, the haze."""
    clear = light.clear(hits.ahead_m)
    gain = np.where(up_m > hits.height_m - 0.55, 0.62, 1.0) * (hits.gain * clear)
    gain = gain * np.minimum(0.8 + 0.12 * up_m, 1.0)
    haze = (1.0 - clear)[None, :, None] * light.haze_rgb
    shown = colours * gain.astype(np.float32)[..., None] + haze.astype(np.float32)
    return np.minimum(shown, 255.0).astype(np.uint8)


def _hits(camera: Camera, light: Light, near: List[Tuple[int, House]]) -> Hits:
    """Follow the ray of every column until it crosses the line of the house fronts."""
    u_m, along_m = road_grid(camera, _DEPTHS_M)
    outside = np.abs(u_m) > FRONT_U_M
    row = np.maximum(outside.argmax(axis=0), 1)
    column = np.arange(camera.width)
    before, after = np.abs(u_m[row - 1, column]), np.abs(u_m[row, column])
    share = (FRONT_U_M - before) / np.maximum(after - before, 1e-6)
    share = np.clip(share, -3.0, 1.0)
    depth, s_m = (
        (1.0 - share) * grid[row - 1, column] + share * grid[row, column]
        for grid in (np.broadcast_to(_DEPTHS_M, u_m.shape), along_m)
    )
    side = np.sign(u_m[row, column]).astype(int)
    found = outside.any(axis=0)
    return _meet(camera, light, near, depth, s_m + camera.s_m, side, found)


def _meet(
    camera: Camera,
    light: Light,
    near: List[Tuple[int, House]],
    depth: np.ndarray,
    s_m: np.ndarray,
    side: np.ndarray,
    found: np.ndarray,
) -> Hits:
    """Front or, through a gap, the end wall of the next house."""
    table = _tables(near)
    first = int(round(min(item.start_m for _, item in near) // BUILDING_SLOT_M))
    slot = np.clip(np.floor(s_m / BUILDING_SLOT_M).astype(int) - first, 0, len(near) // 2 - 2)
    row = (side > 0).astype(int)
    slot = slot + (s_m >= table["end_m"][row, slot])
    start, height = table["start_m"][row, slot], table["height_m"][row, slot]
    gap = s_m < start
    stretch = np.where(gap, (start - camera.s_m) / np.maximum(s_m - camera.s_m, 0.5), 1.0)
    ahead = depth * stretch
    inside_m = np.abs(_u_at(camera, ahead)) - FRONT_U_M
    seen = found & (ahead < FAR_M) & (~gap | (inside_m < DEPTH_M))
    place = np.where(gap, inside_m, s_m - start) % textures.FRONT_M
    variant = table["variant"][row, slot] + textures.FRONTS * gap
    atlas = variant * textures.FRONT_M + np.clip(place, 0.1, textures.FRONT_M - 0.1)
    lit = np.where(side == light.sun_side, light.facing(-0.7), light.facing(0.7))
    return Hits(ahead, atlas, height, np.where(gap, light.facing(-0.25), lit), seen)


def _u_at(camera: Camera, ahead_m: np.ndarray) -> np.ndarray:
    """u of every column's ray at its own depth."""
    right = (np.arange(camera.width) - camera.centre_px) / camera.focal_px * ahead_m
    along = camera.s_m + camera.cos_yaw * ahead_m - camera.sin_yaw * right
    return camera.cos_yaw * right + camera.sin_yaw * ahead_m + camera.x_m - camera.bend.x_m(along)


def _tables(near: List[Tuple[int, House]]) -> Dict[str, np.ndarray]:
    """Each field of the houses as an array (side, slot)."""
    return {
        field: np.array(
            [[getattr(item, field) for side, item in near if side == which] for which in (-1, 1)]
        )
        for field in House._fields
    }
