"""Serialised messages to arrays and back, with rosbags' types and this package's own."""

import os
import struct
from functools import lru_cache
from typing import Any, Dict, List, NamedTuple

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from segmentation_node.errors import BagError, ImageError, LabelsError, reason
from segmentation_node.labels import UNLABELLED, LabelSet, told_label_set
from segmentation_node.pictures import decode_as_stored, read_header
from segmentation_node.timing import STAGES

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
LABEL_INFO = "segmentation_msgs/msg/LabelInfo"
FRAME_LATENCY = "segmentation_msgs/msg/FrameLatency"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
IMAGE_TYPES = (IMAGE, COMPRESSED)
OWN_MESSAGES = ("ClassInfo", "LabelInfo", "FrameLatency")
# On no package index; as vision_msgs 4 has them, from Humble on.
VISION_MESSAGES = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nObjectHypothesisWithPose[] results\n"
    "BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
JPEG_QUALITY = 95
# Higher levels take a multiple of the time for a tenth less.
PNG_LEVEL = 1


class Header(NamedTuple):
    """A message's std_msgs/Header."""

    stamp_ns: int
    frame_id: str


@lru_cache(maxsize=1)
def typestore() -> Any:
    """Jazzy's message types, boxes of vision_msgs, and segmentation_msgs' types.

    Raises BagError where the last are absent.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = _definitions_folder()
    types: Dict[str, Any] = {}
    for name in OWN_MESSAGES:
        with open(os.path.join(folder, name + ".msg"), encoding="utf-8") as text:
            types.update(get_types_from_msg(text.read(), "segmentation_msgs/msg/" + name))
    for name, text_of in VISION_MESSAGES.items():
        types.update(get_types_from_msg(text_of, "vision_msgs/msg/" + name))
    store.register(types)
    return store


def _definitions_folder() -> str:
    """segmentation_msgs' definitions: in the source tree, or installed under a prefix."""
    here = os.path.abspath(__file__)
    source_tree = os.path.normpath(os.path.join(here, *[os.pardir] * 4))
    candidates = [os.path.join(source_tree, "segmentation_msgs", "msg")]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        candidates.append(os.path.join(prefix, "share", "segmentation_msgs", "msg"))
    for candidate in candidates:
        if os.path.isfile(os.path.join(candidate, "LabelInfo.msg")):
            return candidate
    raise BagError(
        "segmentation_msgs/msg/LabelInfo.msg is neither in the source tree nor under "
        "AMENT_PREFIX_PATH; source install/setup.bash"
    )


def serialize(message: Any, type_: str) -> bytes:
    """A message of ``typestore`` as CDR, little endian."""
    return bytes(typestore().serialize_cdr(message, type_))


def deserialize(data: bytes, type_: str) -> Any:
    """A message of ``typestore`` from CDR. Raises ImageError where it is none."""
    try:
        return typestore().deserialize_cdr(data, type_)
    except Exception as error:  # NumPy, struct and rosbags each have their own
        raise ImageError("%d bytes are no %s (%s)" % (len(data), type_, reason(error))) from error


def header_of(data: bytes) -> Header:
    """The header of a serialised message that begins with one. Raises ImageError on a short one."""
    order = "<" if data[1:2] in (b"\x01", b"\x03") else ">"
    try:
        sec, nanosec, length = struct.unpack_from(order + "iII", data, 4)
    except struct.error as error:
        raise ImageError("%d bytes hold no header" % len(data)) from error
    frame_id = bytes(data[16 : 16 + max(0, length - 1)])
    return Header(sec * 10**9 + nanosec, frame_id.decode("utf-8", "replace"))


def image_of(data: bytes, type_: str) -> np.ndarray:
    """A serialised Image or CompressedImage as the node converts it: uint8 RGB (H, W, 3).

    Raises ImageError on one that cannot be converted.
    """
    # ROS-free itself, and the node's own: what differs here would differ in the score.
    from segmentation_node.ros.conversions import decode_compressed, to_rgb

    message = deserialize(data, type_)
    return to_rgb(message) if type_ == IMAGE else decode_compressed(message)


def ids_of(data: bytes, type_: str) -> np.ndarray:
    """A serialised class map: uint8 (H, W).

    Raises ImageError unless it is mono8, or a lossless picture of it.
    """
    from segmentation_node.ros.conversions import pixels_of

    message = deserialize(data, type_)
    if type_ == IMAGE:
        if message.encoding not in ("mono8", "8UC1"):
            raise ImageError("encoding is %.80r; a class map is mono8" % message.encoding)
        message.encoding = "mono8"
        return pixels_of(message)
    picture = bytes(message.data)
    try:
        codec = read_header(picture)
        if codec.is_lossy:
            raise ImageError(
                "a %s: its compression changes ids; record class maps raw or as PNG" % codec.format
            )
        ids = decode_as_stored(picture)
    except ImageError as error:
        raise ImageError("class map of format %.80r: %s" % (message.format, error)) from error
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ImageError(
            "format %.80r: no single-channel 8-bit image; a class map is mono8" % message.format
        )
    return ids


def stages_of(data: bytes) -> Dict[str, float]:
    """A serialised FrameLatency's times in ms by stage, without those that were not measured.

    One that was recorded before there was ``detections_ms`` was not measured in that.
    """
    try:
        message = deserialize(data, FRAME_LATENCY)
    except ImageError:
        message = deserialize(_with_last_stage(data), FRAME_LATENCY)
    names = STAGES + ("processing", "transport", "end_to_end")
    times_ms = {name: float(getattr(message, name + "_ms")) for name in names}
    return {name: value for name, value in times_ms.items() if value == value}


def _with_last_stage(data: bytes) -> bytes:
    """A FrameLatency that ends before its last field, a double, with NaN there."""
    order = "<" if data[1:2] in (b"\x01", b"\x03") else ">"
    # CDR aligns to a field's size, counted from behind the four bytes of its own header.
    padding = bytes(-(len(data) - 4) % 8)
    return bytes(data) + padding + struct.pack(order + "d", float("nan"))


def label_set_of(data: bytes) -> LabelSet:
    """The label set that a serialised LabelInfo describes.

    Raises BagError where it has the name of a known label set but other classes.
    """
    message = deserialize(data, LABEL_INFO)
    try:
        return told_label_set(message)
    except LabelsError as error:
        raise BagError("of the bag, %s" % error) from error


def stamp(stamp_ns: int) -> Any:
    """A builtin_interfaces/Time."""
    time = typestore().types["builtin_interfaces/msg/Time"]
    return time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    return typestore().types["std_msgs/msg/Header"](stamp=stamp(stamp_ns), frame_id=frame_id)


def raw_image(pixels: np.ndarray, stamp_ns: int, frame_id: str) -> bytes:
    """Pixels, uint8 RGB (H, W, 3) or ids (H, W), as a serialised rgb8 or mono8 Image."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    message = typestore().types[IMAGE](
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="mono8" if channels == 1 else "rgb8",
        is_bigendian=0,
        step=width * channels,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )
    return serialize(message, IMAGE)


def compressed_image(image_hwc: np.ndarray, codec: str, stamp_ns: int, frame_id: str) -> bytes:
    """An RGB image as a serialised CompressedImage; ``codec`` is jpeg or png (lossless)."""
    options = {
        "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL]),
    }
    ending, settings = options[codec]
    _, encoded = cv2.imencode(ending, cv2.cvtColor(image_hwc, cv2.COLOR_RGB2BGR), settings)
    message = typestore().types[COMPRESSED](
        header=header(stamp_ns, frame_id),
        format="rgb8; %s compressed bgr8" % codec,
        data=encoded.reshape(-1),
    )
    return serialize(message, COMPRESSED)


def label_info(label_set: LabelSet, source: str, stamp_ns: int) -> bytes:
    """A serialised LabelInfo; ``source`` is what made the labels."""
    types = typestore().types
    classes: List[Any] = [
        types["segmentation_msgs/msg/ClassInfo"](
            id=index,
            name=item.name,
            category=item.category,
            color_rgb=np.array(item.color_rgb, np.uint8),
        )
        for index, item in enumerate(label_set.classes)
    ]
    message = types[LABEL_INFO](
        header=header(stamp_ns, ""),
        label_set=label_set.name,
        model=source,
        unlabelled=UNLABELLED,
        classes=classes,
    )
    return serialize(message, LABEL_INFO)
