"""ROS images to RGB arrays: what arrives is checked first, then converted.

cv_bridge converts where it is installed and works; otherwise OpenCV does the same here. Either
way float images and encodings that do not name their channels (8UC3 ...) are refused.
"""

import sys
from typing import Any, Callable, Dict, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.errors import ImageError, reason, shown
from segmentation_node.pictures import LARGEST_IMAGE_PIXELS, decode_as_stored, decode_rgb

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
# A plane of brightness, then one of colour with U and V (nv21: V and U) in turn: encoding ->
# (both planes in halves of the first, OpenCV conversion or None). Jetsons send nv12.
TWO_PLANES: Dict[str, Tuple[int, Optional[int]]] = {
    "nv12": (3, cv2.COLOR_YUV2RGB_NV12),
    "nv21": (3, cv2.COLOR_YUV2RGB_NV21),
    "nv24": (6, None),
}
# Layouts that cv_bridge does not know, or not in every version.
OWN_ENCODINGS = ("uyvy", "yuyv") + tuple(TWO_PLANES)
# ITU-R BT.601 with brightness from 16 to 235, as OpenCV turns the other YUV layouts: rows are R, G
# and B, columns Y, U, V and the constant.
_YUV_TO_RGB = np.array(
    [
        [1.164, 0.0, 1.596, -16 * 1.164 - 128 * 1.596],
        [1.164, -0.391, -0.813, -16 * 1.164 + 128 * (0.391 + 0.813)],
        [1.164, 2.018, 0.0, -16 * 1.164 - 128 * 2.018],
    ]
)

RgbConverter = Callable[[Any], np.ndarray]


def pixels_of(message: Any) -> np.ndarray:
    """The pixels of a sensor_msgs/Image as they lie, without padding and in native byte order.

    uint8 or uint16, (H, W) or (H, W, channels); a view of the message where possible. Of an image
    in ``TWO_PLANES`` the colour's rows follow those of brightness.
    Raises ImageError where encoding, size, step and data do not fit together.
    """
    if message.encoding not in ENCODINGS and message.encoding not in TWO_PLANES:
        raise ImageError(
            "encoding %s is not supported; expected one of %s"
            % (shown(message.encoding), ", ".join(list(ENCODINGS) + list(TWO_PLANES)))
        )
    size, channels, _ = ENCODINGS.get(message.encoding, (1, 1, None))
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
    if message.encoding in TWO_PLANES:
        halves, _ = TWO_PLANES[message.encoding]
        if halves == 3 and (height % 2 or width % 2):
            raise ImageError(
                "the image is %dx%d; %s has even sides" % (width, height, message.encoding)
            )
        height = height * halves // 2
    # The last row's padding may be missing: some drivers leave it out.
    padding = (step - row_bytes) * (2 if message.encoding == "nv24" else 1)
    if len(message.data) < step * height - padding:
        raise ImageError(
            "data has %d bytes; expected step * rows = %d * %d = %d"
            % (len(message.data), step, height, step * height)
        )
    data = np.frombuffer(message.data, np.uint8)
    if padding and message.encoding == "nv24":
        return _nv24_rows(data, height // 3, width, step)
    rows = _rows(data, height, row_bytes, step)
    if size == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        rows = np.ascontiguousarray(rows).view(order)
        rows = rows.astype(np.uint16, copy=False)
    return rows if channels == 1 else rows.reshape(height, width, channels)


def _rows(data: np.ndarray, rows: int, row_bytes: int, step: int) -> np.ndarray:
    """The bytes of rows that begin each ``step`` bytes."""
    return np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)


def _nv24_rows(data: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """The rows of both planes: one of colour is twice as long, and so is its padding (V4L2)."""
    luma = _rows(data, height, width, step)
    chroma = _rows(data[step * height :], height, 2 * width, 2 * step)
    return np.concatenate([luma, chroma.reshape(2 * height, width)])


def to_rgb(message: Any) -> np.ndarray:
    """A sensor_msgs/Image as uint8 RGB (H, W, 3). Raises ImageError on a bad one.

    16-bit values are scaled by 255/65535, as cv_bridge does. An rgb8 message is not copied.
    """
    pixels = pixels_of(message)
    if message.encoding == "nv24":
        return _nv24_to_rgb(pixels, int(message.height))
    code = TWO_PLANES.get(message.encoding, (0, None))[1]
    return _converted(pixels, message.encoding, code)


def decode_compressed(message: Any) -> np.ndarray:
    """A sensor_msgs/CompressedImage as uint8 RGB (H, W, 3), as image_transport's subscriber has it.

    ``format`` is ``jpeg`` or ``png``, or what compressed_image_transport writes: the raw image's
    encoding, ``;``, the codec, and the channels that it stored. A Bayer mosaic that was stored as
    it was is turned into colours here. Raises ImageError when the picture is broken, cut off (also
    a JPEG, whose rest OpenCV would fill with grey), or one of depths.
    """
    data = bytes(message.data)
    encoding, _, stored = (part.strip() for part in message.format.lower().partition(";"))
    try:
        if "depth" in stored.replace(encoding, "") or encoding in ("16uc1", "32fc1"):
            raise ImageError("it holds depths; expected a camera's colours")
        if encoding.startswith("bayer_") and encoding in ENCODINGS and "mono" not in stored:
            pixels = decode_as_stored(data)
            if pixels.ndim == 2:
                depth = pixels.dtype.itemsize * 8
                return _converted(pixels, encoding.rstrip("0123456789") + str(depth))
        if stored.startswith(("png", "tiff")) and encoding.endswith("16"):
            rgb = _scaled(_rgb_of_stored(decode_as_stored(data)))
        else:
            rgb = decode_rgb(data)
        return rgb[..., ::-1].copy() if _has_red_first(encoding, stored) else rgb
    except ImageError as error:
        raise ImageError(
            "compressed image (format %s) cannot be decoded: %s" % (shown(message.format), error)
        ) from error


def _has_red_first(encoding: str, stored: str) -> bool:
    """Whether red was stored where blue belongs, as image_transport does in a TIFF of RGB."""
    return "compressed rgb" in stored or (stored.startswith("tiff") and encoding.startswith("rgb"))


def _rgb_of_stored(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code)


def _converted(pixels: np.ndarray, encoding: str, code: Optional[int] = None) -> np.ndarray:
    """Pixels of an encoding as uint8 RGB (H, W, 3); ``code`` where ``ENCODINGS`` has none."""
    code = ENCODINGS[encoding][2] if encoding in ENCODINGS else code
    try:
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
    except cv2.error as error:
        raise ImageError(
            "a %dx%d image of %s cannot be converted: %s"
            % (pixels.shape[1], pixels.shape[0], encoding, reason(error))
        ) from error
    return _scaled(rgb)


def _scaled(rgb: np.ndarray) -> np.ndarray:
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb, alpha=255.0 / 65535.0)


def _nv24_to_rgb(planes: np.ndarray, height: int) -> np.ndarray:
    """A plane of Y (H, W), then H rows of W times U and V, given as 3 H rows of W bytes."""
    width = planes.shape[1]
    chroma = np.ascontiguousarray(planes[height:]).reshape(height, width, 2)
    yuv = np.concatenate([planes[:height, :, None], chroma], axis=2)
    return cv2.transform(yuv, _YUV_TO_RGB)


_BY_OPENCV = "images are converted by OpenCV, since cv_bridge %s (%s)"


def choose_converter() -> Tuple[RgbConverter, str]:
    """The converter for raw images, and a line that says which and why."""
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        _try_bridge(bridge)
    except ImportError as error:
        return to_rgb, _BY_OPENCV % ("is missing", reason(error))
    except Exception as error:  # a cv_bridge built for another NumPy fails in its own ways
        return to_rgb, _BY_OPENCV % ("fails", reason(error))
    return _bridge_converter(bridge), "images are converted by cv_bridge"


def _bridge_converter(bridge: Any) -> RgbConverter:
    def convert(message: Any) -> np.ndarray:
        pixels = pixels_of(message)
        own = message.encoding == "rgb8" or message.encoding in OWN_ENCODINGS
        # cv_bridge takes each row for a whole number of pixels: another step shears the image.
        padded = int(message.step) * int(message.height) != pixels.nbytes
        # It swaps bytes of 8 bits too, and with NumPy 2 fails at that.
        swapped = message.is_bigendian != (sys.byteorder == "big")
        if own or padded or swapped:
            return to_rgb(message)
        try:
            return bridge.imgmsg_to_cv2(message, "rgb8")
        except Exception as error:  # CvBridgeError and what NumPy and OpenCV raise below it
            raise ImageError("cv_bridge cannot convert it: %s" % reason(error)) from error

    return convert


def _try_bridge(bridge: Any) -> None:
    gray = np.arange(4, dtype=np.uint8).reshape(2, 2)
    converted = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(gray, "mono8"), "rgb8")
    if converted.shape != (2, 2, 3):
        raise RuntimeError("it made %s of a 2x2 image" % (converted.shape,))
