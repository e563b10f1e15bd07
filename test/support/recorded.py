"""Bags of made-up drives for live tests, written with rclpy's own serialisation."""

import numpy as np
from rclpy.serialization import serialize_message
from support import linear_model
from support.live import LabelInfo, Time, image_message

from segmentation_msgs.msg import ClassInfo
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.labels import CAMVID_11

IMAGE_TOPIC = "/camera/image_raw"
TRUTH_TOPIC = "/ground_truth"
PERIOD_NS = 50_000_000
FIRST_NS = 1_400_000_000_123_456_789


def stamp_ns(index):
    """Of a frame of the drive: odd nanoseconds, so that a rounded one shows."""
    return FIRST_NS + index * PERIOD_NS


def time_message(time_ns):
    return Time(sec=time_ns // 10**9, nanosec=time_ns % 10**9)


def truth_of(index, size):
    """Random train ids and 255, uint8 (H, W)."""
    random = np.random.RandomState(1000 + index)
    return random.choice(np.array([*range(11), 255], np.uint8), size)


def image_bytes(index, size, stamp=None):
    """Frame ``index`` as a serialised rgb8 image."""
    image = linear_model.blocks(size, index)
    stamp = time_message(stamp_ns(index) if stamp is None else stamp)
    return serialize_message(image_message(image.tobytes(), size, "rgb8", stamp=stamp))


def broken_image_bytes(index, size):
    """The same with half of its data missing."""
    half = linear_model.blocks(size, index).tobytes()[: size[0] * size[1] * 3 // 2]
    stamp = time_message(stamp_ns(index))
    return serialize_message(image_message(half, size, "rgb8", step=size[1] * 3, stamp=stamp))


def truth_bytes(index, size):
    truth = truth_of(index, size)
    stamp = time_message(stamp_ns(index))
    return serialize_message(image_message(truth.tobytes(), size, "mono8", stamp=stamp))


def label_info_bytes():
    message = LabelInfo(label_set=CAMVID_11.name, unlabelled=255)
    message.classes = [
        ClassInfo(id=index, name=item.name, category=item.category, color_rgb=item.color_rgb)
        for index, item in enumerate(CAMVID_11.classes)
    ]
    return serialize_message(message)


def write_bag(path, size, frames, with_truth=True, broken=()):
    """A drive of ``frames`` frames at 20 Hz; those in ``broken`` cannot be converted."""
    with BagWriter(str(path)) as writer:
        writer.add_topic(IMAGE_TOPIC, "sensor_msgs/msg/Image")
        if with_truth:
            writer.add_topic(TRUTH_TOPIC, "sensor_msgs/msg/Image")
            info = TRUTH_TOPIC + "/label_info"
            writer.add_topic(info, "segmentation_msgs/msg/LabelInfo", latched=True)
            writer.write(info, FIRST_NS, label_info_bytes())
        for index in range(frames):
            encode = broken_image_bytes if index in broken else image_bytes
            writer.write(IMAGE_TOPIC, stamp_ns(index), encode(index, size))
            if with_truth:
                writer.write(TRUTH_TOPIC, stamp_ns(index), truth_bytes(index, size))
    return str(path)


def confusion(indices, size):
    """Pixels by true and predicted class over these frames: int (11, 12), the last unlabelled."""
    counts = np.zeros((11, 12), int)
    for index in indices:
        truth = truth_of(index, size)
        predicted = linear_model.classify(linear_model.blocks(size, index))
        labelled = truth != 255
        np.add.at(counts, (truth[labelled], predicted[labelled]), 1)
    return counts
