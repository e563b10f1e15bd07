"""What the node publishes for a frame: messages that are kept, arrays written in place."""

import array
import os
from contextlib import ExitStack
from typing import Any, Callable, List, Optional, Tuple

import cv2
import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from segmentation_msgs.msg import ClassInfo, FrameLatency, LabelInfo
from segmentation_node.boxes import Boxes
from segmentation_node.errors import ImageError
from segmentation_node.labels import UNLABELLED, LabelSet

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose, VisionClass
    from vision_msgs.msg import LabelInfo as VisionLabelInfo
except ImportError:  # said at configure, and in the diagnostics
    VisionLabelInfo = VisionClass = None
    Detection2D = Detection2DArray = ObjectHypothesisWithPose = None

LIVE_DEPTH = 5
JPEG_QUALITY = 90
# Class maps have few colours in large areas: more effort costs time and saves next to nothing.
PNG_COMPRESSION = 1

# Makes a publisher of a type on a topic.
Advertise = Callable[[Any, str], Any]


def output_qos(frame_policy: str) -> QoSProfile:
    """Reliable; every frame is kept for its subscribers only when none may be lost."""
    if frame_policy == "every":
        return QoSProfile(
            history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE
        )
    return QoSProfile(depth=LIVE_DEPTH, reliability=QoSReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """For what a late subscriber still has to get."""
    return QoSProfile(
        depth=1,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


class KeptImage:
    """An Image message whose array is allocated once per size and written in place."""

    def __init__(self, encoding: str, channels: int) -> None:
        self.message = Image(encoding=encoding)
        self._channels = channels
        self.pixels = np.empty((0, 0), np.uint8)

    def resize(self, size: Tuple[int, int]) -> np.ndarray:
        """Its pixels at this height and width: uint8 (H, W) or (H, W, channels)."""
        shape = tuple(size) if self._channels == 1 else tuple(size) + (self._channels,)
        if self.pixels.shape != shape:
            height, width = size
            self.message.height, self.message.width = height, width
            self.message.step = width * self._channels
            self.message.data = array.array("B", bytes(height * width * self._channels))
            self.pixels = np.frombuffer(self.message.data, np.uint8).reshape(shape)
        return self.pixels


class ImageOutput:
    """One image topic and its compressed form; both are served only while somebody listens."""

    def __init__(
        self, advertise: Advertise, topic: str, kept: KeptImage, encoder: Callable[..., Any]
    ) -> None:
        self.kept = kept
        self._encoder = encoder
        self._raw = advertise(Image, topic)
        # By the resolved name, so that one remap of the raw topic moves both.
        self._compressed = advertise(CompressedImage, self._raw.topic_name + "/compressed")

    @property
    def wanted(self) -> bool:
        """Whether anybody listens to either form."""
        publishers = (self._raw, self._compressed)
        return any(publisher.get_subscription_count() > 0 for publisher in publishers)

    def publish(self, header: Any) -> None:
        """Send the kept pixels under the input's header."""
        self.kept.message.header = header
        if self._raw.get_subscription_count() > 0:
            self._raw.publish(self.kept.message)
        if self._compressed.get_subscription_count() > 0:
            message = CompressedImage(header=header)
            message.format, encoded = self._encoder(self.kept.pixels)
            message.data = array.array("B", encoded.tobytes())
            self._compressed.publish(message)


def encode_png(map_hw: np.ndarray) -> Tuple[str, np.ndarray]:
    """A class or confidence map without loss."""
    encoded = _encode(".png", map_hw, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    return "mono8; png compressed mono8", encoded


def encode_jpeg(rgb_hwc: np.ndarray) -> Tuple[str, np.ndarray]:
    """An overlay, for people to look at."""
    bgr = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2BGR)
    encoded = _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "rgb8; jpeg compressed bgr8", encoded


def _encode(ending: str, pixels: np.ndarray, options: List[int]) -> np.ndarray:
    try:
        done, encoded = cv2.imencode(ending, pixels, options)
        if done:
            return encoded
    except cv2.error:  # not in every version
        pass
    height, width = pixels.shape[:2]
    raise ImageError(
        "OpenCV makes no %s of %dx%d pixels; listen to the topic without /compressed"
        % (ending[1:], width, height)
    )


class Topics:
    """Publishers that are taken off the graph together."""

    def __init__(self, node: LifecycleNode, qos: QoSProfile, camera: str = "") -> None:
        """With a ``camera`` name the topics are below it: ``~/NAME/class_map``."""
        self._node = node
        self._qos = qos
        self._prefix = "~/%s/" % camera if camera else "~/"
        self._publishers: List[Any] = []
        # rclpy's groups never forget an entity: the node's own would grow with every configuring.
        self._group = MutuallyExclusiveCallbackGroup()

    def advertise(self, message_type: Any, topic: str) -> Any:
        """A publisher that drops messages while the node is not active."""
        publisher = self._node.create_lifecycle_publisher(
            message_type,
            topic.replace("~/", self._prefix, 1),
            self._qos,
            callback_group=self._group,
        )
        self._publishers.append(publisher)
        return publisher

    def advertise_always(self, message_type: Any, topic: str) -> Any:
        """A publisher for any state of the node."""
        publisher = self._node.create_publisher(
            message_type, topic, self._qos, callback_group=self._group
        )
        self._publishers.append(publisher)
        return publisher

    def activate(self) -> None:
        """What a transition does; of the node's they are too late."""
        for publisher in self._publishers:
            publisher.on_activate(None)

    def destroy(self) -> None:
        """Take them off the graph."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.pop())


class Outputs:
    """Every topic of one camera that exists while the node is configured.

    Made whole or not at all. ``confidence`` is there while the model gives it, ``detections`` while
    it gives boxes and vision_msgs is installed.
    """

    def __init__(self, node: LifecycleNode, frame_policy: str, camera: str = "") -> None:
        qos = output_qos(frame_policy)
        self.confidence: Optional[ImageOutput] = None
        self.detections: Any = None
        self._confidence_topics = Topics(node, qos, camera)
        self._detections_topics = Topics(node, qos, camera)
        self._topics = Topics(node, qos, camera)
        advertise = self._topics.advertise
        with ExitStack() as made:
            made.callback(self._topics.destroy)
            self.class_map = ImageOutput(
                advertise, "~/class_map", KeptImage("mono8", 1), encode_png
            )
            self.overlay = ImageOutput(advertise, "~/overlay", KeptImage("rgb8", 3), encode_jpeg)
            self.latency = advertise(FrameLatency, "~/latency")
            made.pop_all()

    def give_confidence(self, is_given: bool, is_active: bool) -> None:
        """Have its topic or not; ``is_active``: of the node."""
        topics = self._confidence_topics
        if not is_given:
            self.confidence = None
            topics.destroy()
        elif self.confidence is None:
            with ExitStack() as made:
                made.callback(topics.destroy)
                kept = KeptImage("mono8", 1)
                confidence = ImageOutput(topics.advertise, "~/confidence", kept, encode_png)
                made.pop_all()
            if is_active:
                topics.activate()
            self.confidence = confidence

    def give_detections(self, is_given: bool, is_active: bool) -> None:
        """Have their topic or not; ``is_active``: of the node."""
        topics = self._detections_topics
        if not is_given:
            self.detections = None
            topics.destroy()
        elif self.detections is None and Detection2DArray is not None:
            detections = topics.advertise(Detection2DArray, "~/detections")
            if is_active:
                topics.activate()
            self.detections = detections

    @property
    def wanted(self) -> bool:
        """Whether anybody listens to anything that takes work."""
        images = [self.class_map, self.overlay] + ([self.confidence] if self.confidence else [])
        if self.latency.get_subscription_count() > 0 or self.detections_wanted:
            return True
        return any(item.wanted for item in images)

    @property
    def detections_wanted(self) -> bool:
        """Whether anybody listens to boxes."""
        return self.detections is not None and self.detections.get_subscription_count() > 0

    def destroy(self) -> None:
        """Take the topics off the graph."""
        self._topics.destroy()
        self._confidence_topics.destroy()
        self._detections_topics.destroy()


class LabelOutputs:
    """What the class maps' ids mean, on latched topics: made whole or not at all."""

    def __init__(self, node: LifecycleNode) -> None:
        self._topics = Topics(node, latched_qos())
        advertise = self._topics.advertise_always
        with ExitStack() as made:
            made.callback(self._topics.destroy)
            self._labels = advertise(LabelInfo, "~/label_info")
            self._vision_labels: Any = None
            if VisionLabelInfo is not None:
                self._vision_labels = advertise(VisionLabelInfo, "~/vision_label_info")
            made.pop_all()

    def publish(self, labels: LabelSet, model: str, stamp: Any) -> None:
        """Tell everybody who comes while the topics exist."""
        self._labels.publish(label_info(labels, model, stamp))

    def publish_vision(self, labels: LabelSet, threshold: float, stamp: Any) -> None:
        """The same as vision_msgs/LabelInfo, with the threshold below which nothing has a class."""
        if self._vision_labels is not None:
            self._vision_labels.publish(vision_label_info(labels, threshold, stamp))

    @property
    def vision_missing(self) -> str:
        """Why there is no ~/vision_label_info and what to do; empty where there is."""
        return missing_vision_msgs() if self._vision_labels is None else ""

    def destroy(self) -> None:
        """Take the topics off the graph."""
        self._topics.destroy()


def missing_vision_msgs() -> str:
    """What to do where vision_msgs is missing; empty where it is installed."""
    if VisionLabelInfo is not None:
        return ""
    distribution = os.environ.get("ROS_DISTRO")
    package = "ros-%s-vision-msgs" % distribution if distribution else "that ROS package"
    return "vision_msgs is not installed; install %s" % package


def detections_message(boxes: Boxes, labels: LabelSet, header: Any) -> Any:
    """Boxes in pixels of the image as a vision_msgs/Detection2DArray with the image's header."""
    message = Detection2DArray(header=header)
    for box, class_id, score in zip(*(values.tolist() for values in boxes)):
        left, top, right, bottom = box
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = labels.names[class_id]
        result.hypothesis.score = score
        detection = Detection2D(header=header, results=[result])
        detection.bbox.center.position.x = (left + right) / 2
        detection.bbox.center.position.y = (top + bottom) / 2
        detection.bbox.size_x, detection.bbox.size_y = right - left, bottom - top
        message.detections.append(detection)
    return message


def label_info(labels: LabelSet, model: str, stamp: Any) -> LabelInfo:
    """What the class map's ids mean."""
    message = LabelInfo(label_set=labels.name, model=model, unlabelled=UNLABELLED)
    message.header.stamp = stamp
    message.classes = [
        ClassInfo(id=index, name=item.name, category=item.category, color_rgb=item.color_rgb)
        for index, item in enumerate(labels.classes)
    ]
    return message


def vision_label_info(labels: LabelSet, threshold: float, stamp: Any) -> Any:
    """The same as vision_msgs/LabelInfo, where vision_msgs is installed."""
    message = VisionLabelInfo(threshold=threshold)
    message.header.stamp = stamp
    message.class_map = [
        VisionClass(class_id=index, class_name=item.name)
        for index, item in enumerate(labels.classes)
    ]
    return message
