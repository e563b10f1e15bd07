"""Small drives in the data sets' own layouts, the commands on them, and bags read with plain tools.

What is expected of a bag is computed from what was written here, never through the package's
reader of bags.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import yaml
from mcap.reader import make_reader
from support.core import tiny
from support.core.tiny import write

from segmentation_node.evaluation.__main__ import main

SIZE = (6, 8)  # the tiny model's, so that nothing is resized
TIMES = ["2011-09-26 13:02:25.%09d" % (964389445 - 900000000 + 100000001 * i) for i in range(9)]
CALIBRATION = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 1.392000e+03 5.120000e+02
K_02: 9.597910e+02 0.000000e+00 6.960217e+02 0.000000e+00 9.569251e+02 2.241806e+02 0 0 1
D_02: -3.691481e-01 1.968681e-01 1.353473e-03 5.677587e-04 -6.770705e-02
S_rect_02: {width}.0 {height}.0
R_rect_02: 9.998817e-01 1.511453e-02 -2.841595e-03 -1.511724e-02 9.998853e-01 -9.3e-04 0.0 0.0 1.0
P_rect_02: 721.5377 0.0 609.5593 44.85728 0.0 721.5377 172.854 0.2163791 0.0 0.0 1.0 0.002745884
"""


def evaluate(path, *words):
    """The JSON of a command that must succeed, which it leaves at this path."""
    words = [str(word) for word in words] + ["--json", str(path)]
    if "--model" in words:
        words += ["--backend", "onnxruntime", "--num-threads", "1"]
    assert main(words) == 0
    return json.loads(Path(path).read_text())


def images(count, size=SIZE):
    """Noise, another for every frame."""
    return [tiny.random_image(seed, size) for seed in range(count)]


def ids(count, values, size=SIZE):
    """Label images of these values."""
    random = np.random.RandomState(7)
    return [random.choice(np.array(values, np.uint8), size) for _ in range(count)]


def camvid(root, count=5):
    """SegNet's CamVid, split val: images and label ids as written."""
    pairs = list(zip(images(count), ids(count, range(12))))
    tiny.write_camvid(root, "val", {"f%03d.png" % i: pair for i, pair in enumerate(pairs)})
    return pairs


def kitti_raw(root, count=4, size=SIZE, calibrated=True, drive="2011_09_26_drive_0001_sync"):
    """A raw drive with times and, unless told otherwise, calibration."""
    date = Path(root, "2011_09_26")
    frames = images(count, size)
    for index, image in enumerate(frames):
        write(date / drive / "image_02" / "data" / ("%010d.png" % index), image)
    (date / drive / "image_02" / "timestamps.txt").write_text("\n".join(TIMES[:count]) + "\n")
    if calibrated:
        text = CALIBRATION.format(height=size[0], width=size[1])
        (date / "calib_cam_to_cam.txt").write_text(text)
    return frames


def cityscapes_sequence(root, snippets=(("bonn", 0, 0), ("ulm", 3, 12340)), length=30):
    """Snippets (city, sequence, first frame) whose twentieth frame is labelled."""
    written = {}
    for city, sequence, first in snippets:
        for index in range(length):
            key = "%s/%s_%06d_%06d" % (city, city, sequence, first + index)
            image = tiny.random_image(first + index + sequence, SIZE)
            write(Path(root, "leftImg8bit_sequence/val", key + "_leftImg8bit.png"), image)
            labels = None
            if index == 19:
                labels = ids(1, [7, 8, 0, 26])[0]
                write(Path(root, "gtFine/val", key + "_gtFine_labelIds.png"), labels)
            written[key] = (image, labels)
    return written


def make_bag(*arguments):
    """Run make-bag; the exit code."""
    return main(["make-bag"] + [str(argument) for argument in arguments])


def record(bag, dataset, root, *options):
    """Make a bag that must succeed; its path."""
    assert make_bag("--dataset", dataset, "--root", root, "--output", bag, *options) == 0
    return Path(bag)


def metadata(bag):
    """metadata.yaml's one mapping, read by PyYAML."""
    content = yaml.safe_load((Path(bag) / "metadata.yaml").read_text())
    assert list(content) == ["rosbag2_bagfile_information"]
    return content["rosbag2_bagfile_information"]


def plain_messages(bag):
    """(topic, type, time, data) of every message, by sqlite3 or the mcap package alone."""
    (name,) = metadata(bag)["relative_file_paths"]
    path = Path(bag) / name
    if path.suffix == ".db3":
        with sqlite3.connect("file:%s?mode=ro" % path, uri=True) as connection:
            return connection.execute(
                "SELECT name, type, timestamp, data FROM messages "
                "JOIN topics ON topic_id = topics.id ORDER BY timestamp, messages.id"
            ).fetchall()
    with open(path, "rb") as stream:
        return [
            (channel.topic, schema.name, message.log_time, message.data)
            for schema, channel, message in make_reader(stream, validate_crcs=True).iter_messages()
        ]


def cut(bag, target, share):
    """A copy of a bag whose storage file ends at this share of its bytes."""
    shutil.copytree(bag, target)
    (path,) = [p for p in Path(target).iterdir() if p.suffix in (".mcap", ".db3")]
    size = path.stat().st_size
    with open(path, "r+b") as stream:
        stream.truncate(int(size * share))
    return Path(target)
