"""Flat figures with exact labels: drawn once in metres, then scaled into frames."""

from typing import List, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.labels import UNLABELLED

Point = Tuple[float, float]
Colour = Sequence[float]


class Pad:
    """A sheet to draw one figure on; x in metres from the middle, y in metres from the ground."""

    def __init__(self, width_m: float, height_m: float, px_per_m: float) -> None:
        self.width_m, self.height_m, self.px_per_m = width_m, height_m, px_per_m
        shape = (int(round(height_m * px_per_m)), int(round(width_m * px_per_m)))
        self.image_hwc = np.zeros(shape + (3,), np.uint8)
        self.labels_hw = np.full(shape, UNLABELLED, np.uint8)

    def _at(self, point: Point) -> Tuple[int, int]:
        return (
            int(round((point[0] + 0.5 * self.width_m) * self.px_per_m)),
            int(round((self.height_m - point[1]) * self.px_per_m)),
        )

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        corners = np.array([[self._at(point) for point in points]], np.int32)
        cv2.fillPoly(self.image_hwc, corners, tuple(colour))
        cv2.fillPoly(self.labels_hw, corners, label)

    def box(
        self, left: float, bottom: float, right: float, top: float, colour: Colour, label: int
    ) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour, label)

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour, label: int, thickness_m: float = 0.0
    ) -> None:
        """A filled ellipse, or with a thickness a ring."""
        axes = (int(round(radii[0] * self.px_per_m)), int(round(radii[1] * self.px_per_m)))
        width = max(int(round(thickness_m * self.px_per_m)), 1) if thickness_m else -1
        for sheet, value in ((self.image_hwc, tuple(colour)), (self.labels_hw, label)):
            cv2.ellipse(sheet, self._at(centre), axes, 0, 0, 360, value, width)

    def limb(self, points: Sequence[Point], thickness_m: float, colour: Colour, label: int) -> None:
        """A thick line through the points."""
        width = max(int(round(thickness_m * self.px_per_m)), 1)
        line = [np.array([self._at(point) for point in points], np.int32)]
        cv2.polylines(self.image_hwc, line, False, tuple(colour), width)
        cv2.polylines(self.labels_hw, line, False, label, width)

    def shade(self, factor_hw: np.ndarray) -> None:
        """Multiply the colours, for texture and roundness."""
        shaded = self.image_hwc * factor_hw[..., None]
        self.image_hwc = np.clip(shaded, 0, 255).astype(np.uint8)


class Sprite:
    """A finished figure with its smaller copies."""

    def __init__(self, pad: Pad) -> None:
        self.width_m, self.height_m = pad.width_m, pad.height_m
        self.labels_hw = pad.labels_hw
        self.levels = _halvings(_spread(pad.image_hwc, pad.labels_hw))

    def draw(
        self,
        image_hwc: np.ndarray,
        labels_hw: np.ndarray,
        foot_px: Point,
        px_per_m: float,
        mix: np.ndarray,
        mirrored: bool = False,
    ) -> None:
        """Put the figure into a frame, image and labels through the same mask."""
        width, height = self.width_m * px_per_m, self.height_m * px_per_m
        left, top = foot_px[0] - 0.5 * width, foot_px[1] - height
        x0, x1 = max(int(left), 0), min(int(left + width) + 1, image_hwc.shape[1])
        y0, y1 = max(int(top), 0), min(int(top + height) + 1, image_hwc.shape[0])
        if x1 <= x0 or y1 <= y0:
            return
        offset, size = (x0 - left, y0 - top), (x1 - x0, y1 - y0)
        labels = self._sample(self.labels_hw, width, offset, size, mirrored, cv2.INTER_NEAREST)
        colours = self._sample(self._level(width), width, offset, size, mirrored, cv2.INTER_LINEAR)
        mask = labels != UNLABELLED
        colours = cv2.transform(colours, mix)
        np.copyto(image_hwc[y0:y1, x0:x1], colours, where=mask[..., None])
        np.copyto(labels_hw[y0:y1, x0:x1], labels, where=mask)

    def _level(self, width_px: float) -> np.ndarray:
        for level in reversed(self.levels):
            if level.shape[1] >= width_px:
                return level
        return self.levels[0]

    def _sample(
        self,
        source: np.ndarray,
        width_px: float,
        offset: Point,
        size: Tuple[int, int],
        mirrored: bool,
        method: int,
    ) -> np.ndarray:
        step = source.shape[1] / width_px
        step_y = source.shape[0] / (width_px * self.height_m / self.width_m)
        x_start = (offset[0] + 0.5) * step - 0.5
        if mirrored:
            x_start, step = source.shape[1] - 1 - x_start, -step
        matrix = np.array([[step, 0.0, x_start], [0.0, step_y, (offset[1] + 0.5) * step_y - 0.5]])
        border = cv2.BORDER_CONSTANT if method == cv2.INTER_NEAREST else cv2.BORDER_REPLICATE
        return cv2.warpAffine(
            source,
            matrix,
            size,
            flags=method | cv2.WARP_INVERSE_MAP,
            borderMode=border,
            borderValue=UNLABELLED,
        )


def _spread(image_hwc: np.ndarray, labels_hw: np.ndarray) -> np.ndarray:
    """Let the colours run over the outline, so that scaling brings no black rim in."""
    mask = (labels_hw != UNLABELLED).astype(np.float32)[..., None]
    solid = image_hwc * mask
    size = (0, 0)
    colours = cv2.GaussianBlur(solid, size, 6.0)
    weight = cv2.GaussianBlur(mask, size, 6.0)[..., None]
    around = colours / np.maximum(weight, 1e-3)
    return np.clip(np.where(mask > 0, image_hwc, around), 0, 255).astype(np.uint8)


def _halvings(image_hwc: np.ndarray) -> List[np.ndarray]:
    levels = [image_hwc]
    while min(levels[-1].shape[:2]) >= 8:
        height, width = levels[-1].shape[:2]
        levels.append(
            cv2.resize(
                levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA
            )
        )
    return levels
