"""Image operations around the network: fit in, map back, colour, blend (NumPy and OpenCV)."""

from dataclasses import dataclass
from typing import Optional, Tuple

import cv2
import numpy as np

from segmentation_node.labels import UNLABELLED

Box = Tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Placement:
    """Which part of the image goes where in the network's input.

    Sizes are (height, width); boxes are (top, left, height, width) in pixels. Forward and
    backward share it, so that the class map agrees with the image to the pixel.
    """

    image_size: Tuple[int, int]
    network_size: Tuple[int, int]
    image_box: Box
    network_box: Box


def place(policy: str, image_size: Tuple[int, int], network_size: Tuple[int, int]) -> Placement:
    """Fit an image into the network's input by a resize policy.

    ``stretch`` uses all of both; ``crop`` cuts the image to the network's aspect ratio around
    its centre; ``letterbox`` leaves a centred border in the input. Raises ValueError otherwise.
    """
    image_box: Box = (0, 0, image_size[0], image_size[1])
    network_box: Box = (0, 0, network_size[0], network_size[1])
    if policy == "crop":
        image_box = _centred(image_size, network_size)
    elif policy == "letterbox":
        network_box = _centred(network_size, image_size)
    elif policy != "stretch":
        raise ValueError("unknown resize policy %r" % policy)
    return Placement(image_size, network_size, image_box, network_box)


def to_network(image_hwc: np.ndarray, placement: Placement, out_hwc: np.ndarray) -> np.ndarray:
    """Write the image, uint8 RGB (H, W, 3), into the network's input, resized where needed.

    Pixels of ``out_hwc`` outside the placement's box are left alone.
    """
    source = _view(image_hwc, placement.image_box)
    target = _view(out_hwc, placement.network_box)
    if source.shape == target.shape:
        np.copyto(target, source)
        return out_hwc
    shrinks = source.shape[0] > target.shape[0] and source.shape[1] > target.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size_wh = (target.shape[1], target.shape[0])
    if target.flags.c_contiguous:
        cv2.resize(source, size_wh, dst=target, interpolation=interpolation)
    else:
        np.copyto(target, cv2.resize(source, size_wh, interpolation=interpolation))
    return out_hwc


class NearestMapper:
    """Maps class maps back to the image's size; only ever the nearest pixel, never a blend.

    Pixels are picked by whole rows, columns by the rows of the transposed map: copying rows is many
    times faster than picking single pixels. (OpenCV's own nearest resize takes another pixel where
    two are equally near.) Buffers are kept, so a mapper belongs to one thread.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self._rows, self._columns = _nearest_indices(placement)
        box = placement.image_box
        self._covers_image = box == (0, 0) + placement.image_size
        self._is_copy = placement.image_box == placement.network_box and self._covers_image
        # Columns are picked from as few rows as there are.
        self._rows_first = len(self._rows) < placement.network_size[0]
        height = min(len(self._rows), placement.network_size[0])
        width = placement.network_size[1]
        self._turned = np.empty((width, height), np.uint8)
        self._turned_picked = np.empty((len(self._columns), height), np.uint8)
        self._picked = np.empty((height, len(self._columns)), np.uint8)

    def __call__(self, map_hw: np.ndarray, out_hw: np.ndarray, outside: int) -> np.ndarray:
        """Write a map at network size into ``out_hw`` at image size, uint8 (H, W) both.

        Pixels of the image that the network never saw become ``outside``.
        """
        if self._is_copy:
            np.copyto(out_hw, map_hw)
            return out_hw
        if not self._covers_image:
            out_hw.fill(outside)
        seen = _view(out_hw, self.placement.image_box)
        if self._rows_first:
            np.copyto(seen, self._pick_columns(_take_rows(map_hw, self._rows)))
        else:
            _take_rows(self._pick_columns(map_hw), self._rows, seen)
        return out_hw

    def _pick_columns(self, map_hw: np.ndarray) -> np.ndarray:
        cv2.transpose(map_hw, dst=self._turned)
        _take_rows(self._turned, self._columns, self._turned_picked)
        return cv2.transpose(self._turned_picked, dst=self._picked)


def colourise(class_map_hw: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a class map, uint8 (H, W), by a palette, uint8 (256, 3): RGB (H, W, 3)."""
    return cv2.applyColorMap(class_map_hw, palette.reshape(256, 1, 3))


def blend(
    image_hwc: np.ndarray,
    class_map_hw: np.ndarray,
    palette: np.ndarray,
    alpha: float,
    out_hwc: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Blend class colours over an image: (1 - alpha) * image + alpha * colour, uint8 (H, W, 3).

    Unlabelled pixels keep the image as it is.
    """
    colors = colourise(class_map_hw, palette)
    if class_map_hw.max() == UNLABELLED:
        unlabelled = cv2.compare(class_map_hw, UNLABELLED, cv2.CMP_EQ)
        cv2.copyTo(image_hwc, unlabelled, colors)
    return cv2.addWeighted(image_hwc, 1.0 - alpha, colors, alpha, 0.0, dst=out_hwc)


def _centred(outer: Tuple[int, int], aspect: Tuple[int, int]) -> Box:
    """The largest box of ``aspect``'s ratio inside ``outer``, centred; sizes (height, width)."""
    scale = min(outer[0] / aspect[0], outer[1] / aspect[1])
    height = min(outer[0], max(1, int(round(aspect[0] * scale))))
    width = min(outer[1], max(1, int(round(aspect[1] * scale))))
    return (outer[0] - height) // 2, (outer[1] - width) // 2, height, width


def _view(array: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return array[top : top + height, left : left + width]


def _take_rows(
    map_hw: np.ndarray, rows: np.ndarray, out_hw: Optional[np.ndarray] = None
) -> np.ndarray:
    # Without a mode that checks no index, NumPy fills a copy of ``out_hw`` first.
    return map_hw.take(rows, axis=0, out=out_hw, mode="clip")


def _nearest_indices(placement: Placement) -> Tuple[np.ndarray, np.ndarray]:
    """Row and column of the network's map whose centre is nearest to each image pixel's."""
    net_top, net_left, net_height, net_width = placement.network_box
    _, _, height, width = placement.image_box
    rows = ((np.arange(height) * 2 + 1) * net_height) // (2 * height) + net_top
    columns = ((np.arange(width) * 2 + 1) * net_width) // (2 * width) + net_left
    return rows, columns
