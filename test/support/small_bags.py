"""Bags of small random frames, written message by message."""

from pathlib import Path

import numpy as np

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


def stamps(frames):
    return [frame.stamp_ns for frame in frames]
