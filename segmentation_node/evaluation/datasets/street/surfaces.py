"""The ground, the shadows on it and the far background."""

from typing import List, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.evaluation.datasets.street import textures
from segmentation_node.evaluation.datasets.street.camera import CAMERA_HEIGHT_M, Camera
from segmentation_node.evaluation.datasets.street.classes import (
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
)
from segmentation_node.evaluation.datasets.street.light import Light
from segmentation_node.evaluation.datasets.street.world import FRONT_U_M, House, Item

FAR_M = 140.0
SHADOW_PX_PER_M = 4
SHADOW_HALF_M = 15.0
SHADOW_AHEAD_M = 90.0
_GROUND_LEVELS = ((0.0, (1, 1)), (6.5, (4, 1)), (13.0, (16, 2)), (28.0, (32, 4)))


def road_grid(camera: Camera, ahead_m: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """u and s (relative to the camera) where each pixel column meets the depths (n, 1)."""
    slant = (np.arange(camera.width)[None, :] - camera.centre_px) / camera.focal_px
    right = slant * ahead_m
    along = camera.cos_yaw * ahead_m - camera.sin_yaw * right
    middle = camera.s_m + camera.cos_yaw * ahead_m
    bend = camera.bend.x_m(middle) + camera.bend.slope(middle) * (along - (middle - camera.s_m))
    u_m = camera.cos_yaw * right + camera.sin_yaw * ahead_m + camera.x_m - bend
    return u_m, along


class Ground:
    """Road, pavement and grass: one texture seen in perspective."""

    def __init__(self, rng: np.random.RandomState) -> None:
        texture = textures.ground(rng)
        self.levels = textures.levels(texture, [shrink for _, shrink in _GROUND_LEVELS])

    def draw(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        camera: Camera,
        light: Light,
        lit_hw: np.ndarray,
    ) -> None:
        top = max(int(np.floor(camera.horizon_px)) + 1, 0)
        below_px = np.arange(top, camera.height)[:, None] - camera.horizon_px
        ahead_m = np.minimum(camera.focal_px * CAMERA_HEIGHT_M / below_px, FAR_M)
        u_m, along_m = (grid.astype(np.float32) for grid in road_grid(camera, ahead_m))
        colours = self._colours(camera, ahead_m, u_m, along_m)
        shade = _look_up(lit_hw, camera, u_m, along_m)
        clear = light.clear(ahead_m).astype(np.float32)
        gain = shade.astype(np.float32) * (clear / 255.0)
        haze = ((1.0 - clear)[..., None] * light.haze_rgb).astype(np.float32)
        image_hwc[top:] = np.minimum(colours * gain[..., None] + haze, 255.0).astype(np.uint8)
        side_m = np.abs(u_m)
        labels_hw[top:] = np.where(
            side_m < textures.ROAD_HALF_M,
            ROAD,
            np.where(side_m < textures.VERGE_END_M, TERRAIN, SIDEWALK),
        )

    def _colours(
        self, camera: Camera, ahead_m: np.ndarray, u_m: np.ndarray, along_m: np.ndarray
    ) -> np.ndarray:
        colours = np.empty(u_m.shape + (3,), np.uint8)
        start_m = camera.s_m % textures.GROUND_LENGTH_M
        for number, (near_m, (rows, columns)) in enumerate(_GROUND_LEVELS):
            far_m = _GROUND_LEVELS[number + 1][0] if number + 1 < len(_GROUND_LEVELS) else 1e9
            inside = np.nonzero((ahead_m[:, 0] >= near_m) & (ahead_m[:, 0] < far_m))[0]
            if not len(inside):
                continue
            part = slice(inside[0], inside[-1] + 1)
            x_map = (np.clip(u_m[part], -15.5, 15.5) + 0.5 * textures.GROUND_WIDTH_M) * np.float32(
                textures.GROUND_PX_PER_M / columns
            ) - np.float32(0.5)
            y_map = (along_m[part] + np.float32(start_m)) * np.float32(
                textures.GROUND_PX_PER_M / rows
            ) - np.float32(0.5)
            colours[part] = cv2.remap(
                self.levels[number], x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
            )
        return colours


def _look_up(
    lit_hw: np.ndarray, camera: Camera, u_m: np.ndarray, along_m: np.ndarray
) -> np.ndarray:
    x_map = (u_m + np.float32(SHADOW_HALF_M)) * np.float32(SHADOW_PX_PER_M)
    y_map = (along_m + np.float32(camera.s_m % 1.0)) * np.float32(SHADOW_PX_PER_M)
    return cv2.remap(lit_hw, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def shadows(
    camera: Camera, light: Light, houses: Sequence[Tuple[int, House]], things: Sequence[Item]
) -> np.ndarray:
    """uint8 map of the light on the ground (s, u), 255 = full sun."""
    shape = (int(SHADOW_AHEAD_M * SHADOW_PX_PER_M), int(2 * SHADOW_HALF_M * SHADOW_PX_PER_M))
    lit = np.full(shape, 255, np.uint8)
    dark = 255.0 * (1.0 - 0.58 * light.sun)
    for side, house in houses:
        if side == light.sun_side:
            end_u = side * (FRONT_U_M - 0.85 * house.height_m)
            slant = 0.35 * house.height_m
            _quad(
                lit,
                camera,
                [
                    (side * 20.0, house.start_m),
                    (side * FRONT_U_M, house.start_m),
                    (end_u, house.start_m + slant),
                    (end_u, house.end_m + slant),
                    (side * FRONT_U_M, house.end_m),
                    (side * 20.0, house.end_m),
                ],
                dark,
            )
    for thing in things:
        _thing_shadow(lit, camera, light, thing, dark)
    return cv2.GaussianBlur(lit, (5, 5), 0)


def _thing_shadow(lit: np.ndarray, camera: Camera, light: Light, thing: Item, dark: float) -> None:
    away = -light.sun_side
    if thing.kind == "tree":
        _disc(lit, camera, thing.u_m + away * 3.2, thing.s_m + 1.6, 2.0, dark)
    elif thing.kind in ("parked", "lead", "oncoming"):
        left, right = thing.u_m - 0.95, thing.u_m + 0.95
        far = 0.5 * light.sun * away
        corners = [(left, -2.1), (right, -2.1), (right, 2.1), (left, 2.1)]
        _quad(lit, camera, [(u + far, thing.s_m + s + 0.2) for u, s in corners], dark)
        _quad(lit, camera, [(u, thing.s_m + s) for u, s in corners], 88.0)
    elif thing.kind != "lamp":
        _disc(lit, camera, thing.u_m + away * 0.2, thing.s_m + 0.1, 0.4, min(dark, 150.0))


def _spot(camera: Camera, u_m: float, s_m: float) -> List[int]:
    start_m = np.floor(camera.s_m)
    return [
        int(round((u_m + SHADOW_HALF_M) * SHADOW_PX_PER_M)),
        int(round((s_m - start_m) * SHADOW_PX_PER_M)),
    ]


def _quad(
    lit: np.ndarray, camera: Camera, corners: Sequence[Tuple[float, float]], value: float
) -> None:
    cv2.fillPoly(lit, [np.array([_spot(camera, u, s) for u, s in corners], np.int32)], value)


def _disc(
    lit: np.ndarray, camera: Camera, u_m: float, s_m: float, radius_m: float, value: float
) -> None:
    cv2.circle(
        lit, tuple(_spot(camera, u_m, s_m)), int(round(radius_m * SHADOW_PX_PER_M)), value, -1
    )


class Background:
    """The sky and the far line of trees, on a panorama that turns with the camera."""

    def __init__(self, rng: np.random.RandomState, width: int, height: int) -> None:
        size = (2 * width, int(0.62 * height))
        state = rng.randint(1 << 30)
        self.skies = [
            textures.sky(np.random.RandomState(state), size[0], size[1], dusk)
            for dusk in (False, True)
        ]
        self.trees = textures.treeline(rng, 1280, 72)
        profile = 0.6 + 0.4 * textures.fractal(rng, 1, 1280, (160, 40, 12))[0]
        self.profile = np.clip(profile, 0.15, 1.0)

    def draw(
        self, image_hwc: np.ndarray, labels_hw: np.ndarray, camera: Camera, light: Light
    ) -> None:
        horizon = min(max(int(np.floor(camera.horizon_px)) + 1, 0), camera.height)
        sky_height, around = self.skies[0].shape[:2]
        columns = (np.arange(camera.width) + int(round(camera.yaw * camera.focal_px))) % around
        above = slice(sky_height - horizon, sky_height)
        day, evening = (panorama[above].take(columns, axis=1) for panorama in self.skies)
        image_hwc[:horizon] = cv2.addWeighted(day, 1.0 - light.dusk, evening, light.dusk, 0.0)
        labels_hw[:horizon] = SKY
        self._draw_trees(image_hwc, labels_hw, camera, light, horizon)

    def _draw_trees(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        camera: Camera,
        light: Light,
        horizon: int,
    ) -> None:
        turn = camera.yaw + (np.arange(camera.width) - camera.centre_px) / camera.focal_px
        columns = (turn * 600.0).astype(int) % 1280
        tallest = int(0.075 * camera.height)
        rows = np.arange(horizon - tallest, horizon)
        mask = (horizon - rows)[:, None] <= (self.profile[columns] * tallest)[None, :]
        colours = self.trees[(rows - horizon) % 72].take(columns, axis=1)
        colours = cv2.transform(colours, light.mix(1.0, 0.7 * FAR_M))
        np.copyto(image_hwc[rows[0] : horizon], colours, where=mask[..., None])
        np.copyto(labels_hw[rows[0] : horizon], np.uint8(VEGETATION), where=mask)
