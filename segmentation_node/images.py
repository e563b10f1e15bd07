"""Image operations around the network: fit in, map back, colour, blend (NumPy and OpenCV)."""

from dataclasses import dataclass
from typing import Optional, Tuple

import cv2
import numpy as np

from segmentation_node.labels import UNLABELLED

Box = Tuple[int, int, int, int]  # top, left, height, width

BOX_COLOR = (255, 255, 255)

_ROTATE_CODES = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


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
    source = view(image_hwc, placement.image_box)
    target = view(out_hwc, placement.network_box)
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

    With a ``rotation`` the network saw the image turned clockwise by so many degrees (0, 90, 180 or
    270), and the placement is that of the turned image: maps come back turned the other way. That
    changes which pixels are picked, and takes no longer.
    """

    def __init__(self, placement: Placement, rotation: int = 0) -> None:
        rows, columns = _nearest_indices(placement)
        image_size, network_size = placement.image_size, placement.network_size
        self._box = unturn_box(placement.image_box, image_size, rotation)
        # The boxes alone may agree where a border is less than a pixel wide.
        is_same = image_size == network_size and placement.image_box == placement.network_box
        self._sideways = rotation in (90, 270)
        if self._sideways:
            image_size, network_size = image_size[::-1], network_size[::-1]
            rows, columns = columns, rows
        self._rows = np.ascontiguousarray(rows[::-1] if rotation in (90, 180) else rows)
        self._columns = np.ascontiguousarray(columns[::-1] if rotation in (180, 270) else columns)
        self._covers_image = self._box == (0, 0) + image_size
        self._is_copy = is_same and self._covers_image and rotation == 0
        # Columns are picked from as few rows as there are.
        self._rows_first = len(self._rows) < network_size[0]
        height = min(len(self._rows), network_size[0])
        width = network_size[1]
        self._turned = np.empty((width, height), np.uint8)
        self._turned_picked = np.empty((len(self._columns), height), np.uint8)
        self._picked = np.empty((height, len(self._columns)), np.uint8)

    def __call__(self, map_hw: np.ndarray, out_hw: np.ndarray, outside: int) -> np.ndarray:
        """Write a map at network size into ``out_hw`` at image size, uint8 (H, W) both.

        ``out_hw`` is of the image before it was turned. Pixels of it that the network never saw
        become ``outside``.
        """
        if self._is_copy:
            np.copyto(out_hw, map_hw)
            return out_hw
        if not self._covers_image:
            out_hw.fill(outside)
        seen = view(out_hw, self._box)
        if self._rows_first:
            if self._sideways:
                map_hw = cv2.transpose(map_hw)
            picked = cv2.transpose(_take_rows(map_hw, self._rows), dst=self._turned)
            np.copyto(seen, self._pick_columns(picked))
        else:
            by_columns = map_hw if self._sideways else cv2.transpose(map_hw, dst=self._turned)
            _take_rows(self._pick_columns(by_columns), self._rows, seen)
        return out_hw

    def _pick_columns(self, map_wh: np.ndarray) -> np.ndarray:
        """Of a transposed map."""
        _take_rows(map_wh, self._columns, self._turned_picked)
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
        unlabelled = (class_map_hw == UNLABELLED).view(np.uint8)
        cv2.copyTo(image_hwc, unlabelled, colors)
    return cv2.addWeighted(image_hwc, 1.0 - alpha, colors, alpha, 0.0, dst=out_hwc)


def boxes_to_image(boxes_xyxy: np.ndarray, placement: Placement, rotation: int) -> np.ndarray:
    """Boxes in the network's input, (N, 4) left, top, right, bottom, where they lie in the image.

    float32 (N, 4), cut at the edge of what the network saw. With a ``rotation`` the network saw the
    image turned clockwise by so many degrees, as in ``NearestMapper``.
    """
    image_top, image_left, image_height, image_width = placement.image_box
    top, left, height, width = placement.network_box
    x = (boxes_xyxy[:, 0::2] - left) * (image_width / width)
    y = (boxes_xyxy[:, 1::2] - top) * (image_height / height)
    x = np.clip(x, 0, image_width) + image_left
    y = np.clip(y, 0, image_height) + image_top
    turned_height, turned_width = placement.image_size
    x, y = {
        0: (x, y),
        90: (y, turned_width - x),
        180: (turned_width - x, turned_height - y),
        270: (turned_height - y, x),
    }[rotation]
    corners = (x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1))
    return np.stack(corners, axis=1).astype(np.float32)


def draw_boxes(image_hwc: np.ndarray, boxes_xyxy: np.ndarray) -> None:
    """Draw boxes, (N, 4) left, top, right, bottom, into an image, uint8 RGB (H, W, 3), in white."""
    thickness = max(1, int(round(image_hwc.shape[0] / 360)))
    for left, top, right, bottom in np.round(boxes_xyxy).astype(int).tolist():
        corner = right - 1, bottom - 1
        cv2.rectangle(image_hwc, (left, top), corner, BOX_COLOR, thickness)


def turn_clockwise(
    image: np.ndarray, rotation: int, out: Optional[np.ndarray] = None
) -> np.ndarray:
    """Turn an image (H, W) or (H, W, 3) clockwise by 90, 180 or 270 degrees."""
    return cv2.rotate(image, _ROTATE_CODES[rotation], dst=out)


def turned_size(size: Tuple[int, int], rotation: int) -> Tuple[int, int]:
    """Height and width after a rotation."""
    return (size[1], size[0]) if rotation in (90, 270) else size


def unturn_box(box: Box, turned: Tuple[int, int], rotation: int) -> Box:
    """Where a box of an image lay before the image was turned clockwise.

    ``turned`` is the image's height and width after it was turned.
    """
    top, left, height, width = box
    bottom, right = turned[0] - top - height, turned[1] - left - width
    return {
        0: box,
        90: (right, top, width, height),
        180: (bottom, right, height, width),
        270: (left, bottom, width, height),
    }[rotation]


def _centred(outer: Tuple[int, int], aspect: Tuple[int, int]) -> Box:
    """The largest box of ``aspect``'s ratio inside ``outer``, centred; sizes (height, width)."""
    scale = min(outer[0] / aspect[0], outer[1] / aspect[1])
    height = min(outer[0], max(1, int(round(aspect[0] * scale))))
    width = min(outer[1], max(1, int(round(aspect[1] * scale))))
    return (outer[0] - height) // 2, (outer[1] - width) // 2, height, width


def view(array: np.ndarray, box: Box) -> np.ndarray:
    """The box's part of an array (H, W, ...), without a copy."""
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
