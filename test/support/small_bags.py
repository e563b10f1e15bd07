"""Bags of small random frames, written message by message."""

from pathlib import Path

import cv2
import numpy as np
from mcap.writer import Writer

from segmentation_node.evaluation.bags import messages
from segmentation_node.evaluation.bags.writer import BagWriter

SIZE = (48, 64)
STORAGES = {"mcap": ["mcap", "none"], "zstd": ["mcap", "zstd"], "sqlite3": ["sqlite3", "none"]}
IMAGE, TRUTH = "/camera/image_raw", "/ground_truth"


def write_bag(path, storage, sent):
    """A bag of (topic, type, time, data)."""
    with BagWriter(str(path), *STORAGES[storage]) as writer:
        for topic, type_ in {topic: type_ for topic, type_, _, _ in sent}.items():
            writer.add_topic(topic, type_)
        for topic, _, time_ns, data in sent:
            writer.write(topic, time_ns, data)
    return Path(path)


def write_mcap(path, sent, profile="ros2", encoding="cdr", types=None, **options):
    """An MCAP file by the mcap package."""
    with open(path, "wb") as stream:
        writer = Writer(stream, chunk_size=20000, **options)
        writer.start(profile=profile, library="test")
        channels = {}
        for topic, type_, time_ns, data in sent:
            if topic not in channels:
                name = (types or {}).get(topic, type_)
                schema = writer.register_schema(name, "ros2msg", b"")
                channels[topic] = writer.register_channel(topic, encoding, schema)
            writer.add_message(channels[topic], time_ns, data, time_ns)
        writer.finish()
    return path


def drive(count, start=0):
    """Image and truth of every frame, in turns."""
    sent = []
    for index in range(start, start + count):
        stamp_ns = 10**18 + index * 10**8
        image = np.random.RandomState(index).randint(0, 256, SIZE + (3,)).astype(np.uint8)
        truth = np.full(SIZE, index % 11, np.uint8)
        sent.append((IMAGE, messages.IMAGE, stamp_ns, messages.raw_image(image, stamp_ns, "c")))
        sent.append((TRUTH, messages.IMAGE, stamp_ns, messages.raw_image(truth, stamp_ns, "c")))
    return sent


def compressed(topic, stamp_ns, pixels, format_, ending):
    """A message of pixels as OpenCV encodes them, with topic, type and time."""
    types = messages.typestore().types
    lossy = [cv2.IMWRITE_WEBP_QUALITY, 90] if ending == ".webp" else []  # lossless by default
    data = cv2.imencode(ending, pixels, lossy)[1].reshape(-1)
    message = types[messages.COMPRESSED](
        header=messages.header(stamp_ns, "c"), format=format_, data=data
    )
    data = messages.serialize(message, messages.COMPRESSED)
    return topic, messages.COMPRESSED, stamp_ns, data


def stamps(frames):
    return [frame.stamp_ns for frame in frames]
