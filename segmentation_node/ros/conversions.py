"""ROS images to RGB arrays: what arrives is checked first, then converted.

cv_bridge converts where it is installed and works; otherwise OpenCV does the same here. Either
way float images and encodings that do not name their channels (8UC3 ...) are refused.
"""

import sys
from typing import Any, Callable, Dict, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.errors import ImageError
from segmentation_node.pipeline import LARGEST_IMAGE_PIXELS

# encoding -> (bytes per channel, channels, OpenCV conversion to RGB or None)
ENCODINGS: Dict[str, Tuple[int, int, Optional[int]]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row's second and third pixel.
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (2, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (2, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (2, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (2, 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
}
# Names of the same layouts that cv_bridge does not know.
NEWER_ENCODINGS = ("uyvy", "yuyv")

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"

RgbConverter = Callable[[Any], np.ndarray]


def pixels_of(message: Any) -> np.ndarray:
    """The pixels of a sensor_msgs/Image as they lie, without padding and in native byte order.

    uint8 or uint16, (H, W) or (H, W, channels); a view of the message where possible.
    Raises ImageError where encoding, size, step and data do not fit together.
    """
    if message.encoding not in ENCODINGS:
        raise ImageError(
            "encoding %r is not supported; expected one of %s"
            % (message.encoding, ", ".join(ENCODINGS))
        )
    size, channels, _ = ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    row_bytes = width * channels * size
    if height < 1 or width < 1 or height * width > LARGEST_IMAGE_PIXELS:
        raise ImageError(
            "the image is %dx%d; expected 1 to %d pixels" % (width, height, LARGEST_IMAGE_PIXELS)
        )
    if step < row_bytes:
        raise ImageError(
            "step is %d; expected %d or more for %d pixels of %s"
            % (step, row_bytes, width, message.encoding)
        )
    # The last row's padding may be missing: some drivers leave it out.
    if len(message.data) < step * (height - 1) + row_bytes:
        raise ImageError(
            "data has %d bytes; expected step * height = %d * %d = %d"
            % (len(message.data), step, height, step * height)
        )
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1), writeable=False)
    if size == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        rows = np.ascontiguousarray(rows).view(order)
        rows = rows.astype(np.uint16, copy=False)
    return rows if channels == 1 else rows.reshape(height, width, channels)


def to_rgb(message: Any) -> np.ndarray:
    """A sensor_msgs/Image as uint8 RGB (H, W, 3). Raises ImageError on a bad one.

    16-bit values are scaled by 255/65535, as cv_bridge does. An rgb8 message is not copied.
    """
    pixels = pixels_of(message)
    code = ENCODINGS[message.encoding][2]
    try:
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
    except cv2.error as error:
        raise ImageError(
            "a %dx%d image of %s cannot be converted: %s"
            % (message.width, message.height, message.encoding, _line(error))
        ) from error
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb, alpha=255.0 / 65535.0)


def decode_compressed(message: Any) -> np.ndarray:
    """A sensor_msgs/CompressedImage as uint8 RGB (H, W, 3).

    Raises ImageError when it cannot be decoded, also for a JPEG that was cut off: OpenCV would
    fill its rest with grey.
    """
    data = bytes(message.data)
    cut_off = data.startswith(JPEG_START) and JPEG_END not in data
    bgr = None
    if data and not cut_off:
        try:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            bgr = None
    if bgr is None:
        raise ImageError(
            "%d bytes of compressed image (format %r) cannot be decoded%s"
            % (len(data), message.format, ": the JPEG is cut off" if cut_off else "")
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def choose_converter() -> Tuple[RgbConverter, str]:
    """The converter for raw images, and a line that says which and why."""
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        _try_bridge(bridge)
    except ImportError as error:
        return to_rgb, "images are converted by OpenCV, since cv_bridge is missing (%s)" % _line(
            error
        )
    except Exception as error:  # a cv_bridge built for another NumPy fails in its own ways
        return to_rgb, "images are converted by OpenCV, since cv_bridge fails (%s)" % _line(error)
    return _bridge_converter(bridge), "images are converted by cv_bridge"


def _bridge_converter(bridge: Any) -> RgbConverter:
    def convert(message: Any) -> np.ndarray:
        pixels = pixels_of(message)
        own = message.encoding == "rgb8" or message.encoding in NEWER_ENCODINGS
        if own or (message.is_bigendian != (sys.byteorder == "big") and pixels.dtype != np.uint8):
            return to_rgb(message)
        try:
            return bridge.imgmsg_to_cv2(message, "rgb8")
        except Exception as error:  # CvBridgeError and what NumPy and OpenCV raise below it
            raise ImageError("cv_bridge cannot convert it: %s" % _line(error)) from error

    return convert


def _try_bridge(bridge: Any) -> None:
    gray = np.arange(4, dtype=np.uint8).reshape(2, 2)
    converted = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(gray, "mono8"), "rgb8")
    if converted.shape != (2, 2, 3):
        raise RuntimeError("it made %s of a 2x2 image" % (converted.shape,))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
