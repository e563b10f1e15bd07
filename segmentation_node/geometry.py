"""Where in a camera's image the network looks, how that is turned, and what counts nowhere."""

import os
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.errors import GeometryError, ImageError, shown
from segmentation_node.images import Box, view
from segmentation_node.labels import UNLABELLED
from segmentation_node.pictures import decode_as_stored, palette_of, read_header

ROTATIONS = (0, 90, 180, 270)
LARGEST_SIDE = 1 << 26
LARGEST_FILE_BYTES = 1 << 28


@dataclass(frozen=True)
class Geometry:
    """``roi`` (x, y, width, height) in pixels of the image as it comes, empty: all of it.

    ``rotation`` in degrees turns what lies in the roi clockwise, and thereby upright. ``ignored``
    is uint8 (H, W) of the image's size, 255 where pixels count nowhere, otherwise 0; ``mask_file``
    says where it is from.
    """

    roi: Tuple[int, ...] = ()
    rotation: int = 0
    ignored: Optional[np.ndarray] = field(default=None, compare=False)
    mask_file: str = ""

    def window(self, image_size: Tuple[int, int]) -> Box:
        """The roi in an image of this height and width, as (top, left, height, width).

        Raises ImageError where the roi is not inside it, or the mask is of another size.
        """
        height, width = image_size
        left, top, roi_width, roi_height = self.roi or (0, 0, width, height)
        right, bottom = left + roi_width, top + roi_height
        if right > width or bottom > height:
            raise ImageError(
                "the image is %dx%d, but the roi of %dx%d at (%d, %d) reaches (%d, %d); expected a "
                "roi inside the image"
                % (width, height, roi_width, roi_height, left, top, right, bottom)
            )
        if self.ignored is not None and self.ignored.shape != image_size:
            raise ImageError(
                "the image is %dx%d, but the mask %s %dx%d; expected one of the image's size"
                % (width, height, self.mask_file, self.ignored.shape[1], self.ignored.shape[0])
            )
        return top, left, roi_height, roi_width

    def left_out(self, image_size: Tuple[int, int]) -> Optional[np.ndarray]:
        """What lies outside the roi or is ignored: 255, the rest 0, uint8 (H, W); None: nothing.

        Raises ImageError as ``window`` does.
        """
        window = self.window(image_size)
        if window == (0, 0) + image_size:
            return self.ignored
        outside = np.full(image_size, UNLABELLED, np.uint8)
        view(outside, window)[...] = 0
        return outside if self.ignored is None else cv2.bitwise_or(outside, self.ignored)

    def facts(self) -> Dict[str, Any]:
        """What is not as it comes, by the parameters' names."""
        named = {"roi": list(self.roi), "rotation": self.rotation, "ignore_mask": self.mask_file}
        return {name: value for name, value in named.items() if value}


WHOLE_IMAGE = Geometry()
"""All of the image, upright as it comes."""


def make_geometry(roi: Any, rotation: Any, ignore_mask: Any) -> Geometry:
    """Geometry of what a user gave: four numbers or none, degrees, a PNG's file or nothing.

    Raises GeometryError, one line.
    """
    problem = roi_problem(roi) or rotation_problem(rotation)
    if problem:
        raise GeometryError(problem)
    ignored = read_mask(ignore_mask) if ignore_mask else None
    return Geometry(tuple(roi or ()), rotation, ignored, ignore_mask)


def roi_problem(roi: Any) -> str:
    """Why this is no roi, whatever the image; empty where it is one, or none is given."""
    found = list(roi) if isinstance(roi, (list, tuple)) or hasattr(roi, "tolist") else roi
    if found is None or found == []:
        return ""
    numbers = isinstance(found, list) and all(type(number) is int for number in found)
    if not numbers or len(found) != 4:
        return "the roi is %s; expected four whole numbers, x, y, width and height" % shown(found)
    x, y, width, height = found
    if min(x, y) < 0 or min(width, height) < 1 or max(found) > LARGEST_SIDE:
        return (
            "the roi is %s; expected x and y of 0 or more, width and height of 1 or more, inside "
            "the image" % found
        )
    return ""


def rotation_problem(rotation: Any) -> str:
    """Why this is no rotation; empty where it is one."""
    if type(rotation) is int and rotation in ROTATIONS:
        return ""
    return "the rotation is %s; expected one of %s (degrees, clockwise)" % (
        shown(rotation),
        ", ".join(str(degrees) for degrees in ROTATIONS),
    )


def read_mask(path: str) -> np.ndarray:
    """A PNG whose pixels other than black are to be ignored: 255 there, else 0, uint8 (H, W).

    Raises GeometryError, one line.
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(LARGEST_FILE_BYTES)
        if read_header(data).format != "PNG":
            raise ImageError("a %s; expected a PNG" % read_header(data).format)
        pixels, palette = decode_as_stored(data), palette_of(data)
    except OSError as error:
        raise GeometryError("the mask %s: %s" % (path, error.strerror)) from error
    except ImageError as error:
        raise GeometryError("the mask %s: %s" % (path, error)) from error
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        raise GeometryError("the mask %s: a PNG with an alpha channel; expected one without" % path)
    if len(palette):  # whose index 0 need not be black
        brightest = np.zeros(256, np.uint8)
        brightest[: len(palette)] = palette.max(axis=1)
        pixels = brightest[pixels]
    marked = pixels != 0 if pixels.ndim == 2 else pixels.any(axis=2)
    if marked.all():
        raise GeometryError(
            "the mask %s: ignores every pixel; expected black where the image counts" % path
        )
    return np.where(marked, np.uint8(UNLABELLED), np.uint8(0))
