"""What make-bag writes, held to rosbag2's own rules, read by other means than the package's.

The rules are those of rosbag2's sources of Humble to Jazzy: the fields of their metadata (version
8, which all of them decode), their tables (schema 4), their MCAP profile. rosbag2 itself is not on
PyPI and was not run.
"""

import array
import importlib
import json
import os
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.records import Metadata
from mcap.stream_reader import StreamReader
from support import drives

from segmentation_node.evaluation.bags import messages

QOS = {
    "history", "depth", "reliability", "durability", "deadline", "lifespan", "liveliness",
    "liveliness_lease_duration", "avoid_ros_namespace_conventions",
}  # fmt: skip
KEEP_LAST, RELIABLE, AUTOMATIC, TRANSIENT_LOCAL, VOLATILE = 1, 1, 1, 1, 2
TABLES = {
    "schema": ["schema_version", "ros_distro"],
    "metadata": ["id", "metadata_version", "metadata"],
    "topics": [
        "id", "name", "type", "serialization_format", "offered_qos_profiles",
        "type_description_hash",
    ],
    "message_definitions": [
        "id", "topic_type", "encoding", "encoded_message_definition", "type_description_hash",
    ],
    "messages": ["id", "topic_id", "timestamp", "data"],
}  # fmt: skip
TOPICS = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/ground_truth": "sensor_msgs/msg/Image",
    "/ground_truth/label_info": "segmentation_msgs/msg/LabelInfo",
}
STORAGES = [["--storage", "mcap"], ["--compression", "zstd"], ["--storage", "sqlite3"]]
FORMATS = pytest.mark.parametrize("options", STORAGES, ids=["mcap", "mcap zstd", "sqlite3"])


def string(value):
    assert isinstance(value, str)
    return value


def count(value):
    assert isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value


def offered_qos(topic):
    """The QoS as Humble's and Iron's rosbag2 decode it: YAML in a text, with rmw's numbers."""
    (profile,) = drives.yaml.safe_load(string(topic["offered_qos_profiles"]))
    return profile


def assert_rosbag2_decodes(information):
    """Every field that rosbag2 reads from version 8, by the type that it reads it as."""
    assert information["version"] == 8
    assert information["storage_identifier"] in ("mcap", "sqlite3")
    count(information["duration"]["nanoseconds"])
    count(information["starting_time"]["nanoseconds_since_epoch"])
    count(information["message_count"])
    for topic in information["topics_with_message_count"]:
        assert_topic(topic["topic_metadata"])
        count(topic["message_count"])
    assert all(string(name) for name in information["relative_file_paths"])
    assert string(information["compression_format"]) == ""
    assert string(information["compression_mode"]) == ""
    for file in information["files"]:
        string(file["path"])
        count(file["starting_time"]["nanoseconds_since_epoch"])
        count(file["duration"]["nanoseconds"])
        count(file["message_count"])
    for key, value in information["custom_data"].items():
        assert string(key) and string(value)
    string(information["ros_distro"])


def assert_topic(topic):
    assert string(topic["name"]).startswith("/")
    string(topic["type"])
    assert topic["serialization_format"] == "cdr"
    assert topic["type_description_hash"].startswith("RIHS01_")
    profile = offered_qos(topic)
    assert set(profile) == QOS
    assert profile["history"] == KEEP_LAST and profile["depth"] > 0
    assert profile["reliability"] == RELIABLE
    assert profile["durability"] in (TRANSIENT_LOCAL, VOLATILE)
    assert profile["liveliness"] == AUTOMATIC
    assert profile["avoid_ros_namespace_conventions"] is False
    for name in ("deadline", "lifespan", "liveliness_lease_duration"):
        assert profile[name] == {"sec": 9223372036, "nsec": 854775807}


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    return root, drives.camvid(root)


@pytest.fixture(scope="module")
def bags(tmp_path_factory, camvid):
    """A bag of each storage."""
    folder = tmp_path_factory.mktemp("bags")
    return {
        tuple(options): drives.record(folder / str(number), "camvid", camvid[0], *options)
        for number, options in enumerate(STORAGES)
    }


@FORMATS
def test_metadata_is_what_rosbag2_decodes(bags, options):
    bag = bags[tuple(options)]
    information = drives.metadata(bag)
    assert_rosbag2_decodes(information)
    written = drives.plain_messages(bag)
    times = [message[2] for message in written]
    assert information["message_count"] == len(written) == 11
    assert information["starting_time"]["nanoseconds_since_epoch"] == min(times)
    assert information["duration"]["nanoseconds"] == max(times) - min(times)
    assert [name for name in information["relative_file_paths"] if not (bag / name).exists()] == []
    for topic in information["topics_with_message_count"]:
        name, type_ = topic["topic_metadata"]["name"], topic["topic_metadata"]["type"]
        assert TOPICS[name] == type_
        assert topic["message_count"] == sum(message[0] == name for message in written)


@FORMATS
def test_only_the_label_info_is_latched(bags, options):
    offered = {
        topic["topic_metadata"]["name"]: offered_qos(topic["topic_metadata"])
        for topic in drives.metadata(bags[tuple(options)])["topics_with_message_count"]
    }
    latched = [name for name, qos in offered.items() if qos["durability"] == TRANSIENT_LOCAL]
    assert latched == ["/ground_truth/label_info"]


def test_sqlite3_has_the_tables_of_schema_4(bags):
    (path,) = bags[("--storage", "sqlite3")].glob("*.db3")
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        assert {name for (name,) in tables} == set(TABLES)
        for table, columns in TABLES.items():
            found = connection.execute("PRAGMA table_info(%s)" % table).fetchall()
            assert [column[1] for column in found] == columns
        assert connection.execute("SELECT schema_version FROM schema").fetchall() == [(4,)]
        (version, text) = connection.execute(
            "SELECT metadata_version, metadata FROM metadata ORDER BY id DESC"
        ).fetchone()
        types = connection.execute("SELECT DISTINCT type FROM topics").fetchall()
        defined = connection.execute("SELECT topic_type, encoding FROM message_definitions")
        assert set(defined.fetchall()) == {(name, "ros2msg") for (name,) in types}
        index = connection.execute("SELECT sql FROM sqlite_master WHERE name='timestamp_idx'")
        assert "messages (timestamp ASC)" in index.fetchone()[0]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert version == 8
    assert_rosbag2_decodes(drives.yaml.safe_load(text))


@pytest.mark.parametrize("options", STORAGES[:2], ids=["plain", "zstd"])
def test_mcap_is_indexed_and_has_rosbag2s_profile(bags, options):
    (path,) = bags[tuple(options)].glob("*.mcap")
    with open(path, "rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary.statistics.message_count == 11
        assert {chunk.compression for chunk in summary.chunk_indexes} == {
            "zstd" if "zstd" in options else ""
        }
        assert all(chunk.message_index_length > 0 for chunk in summary.chunk_indexes)
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        for channel in summary.channels.values():
            assert channel.message_encoding == "cdr"
            assert set(offered_qos(channel.metadata)) == QOS
    with open(path, "rb") as stream:
        records = StreamReader(stream, validate_crcs=True).records
        (inside,) = [record for record in records if isinstance(record, Metadata)]
    assert inside.name == "rosbag2"
    assert_rosbag2_decodes(drives.yaml.safe_load(inside.metadata["serialized_metadata"]))


def type_hash(type_):
    """The hash that ROS's own generator gave the type when it was built."""
    package, _, name = type_.split("/")
    for prefix in os.environ["AMENT_PREFIX_PATH"].split(os.pathsep):
        path = Path(prefix, "share", package, "msg", name + ".json")
        if path.is_file():
            hashes = json.loads(path.read_text())["type_hashes"]
            return next(item["hash_string"] for item in hashes if item["type_name"] == type_)
    pytest.skip("NOT RUN: this ROS ships no type description of " + type_)


def test_type_hashes_are_those_of_ros(bags, tmp_path):
    drives.kitti_raw(tmp_path / "raw")
    bag = drives.record(tmp_path / "bag", "kitti_raw", tmp_path / "raw")
    found = {}
    for path in (bag, bags[("--storage", "mcap")]):
        for topic in drives.metadata(path)["topics_with_message_count"]:
            found[topic["topic_metadata"]["type"]] = topic["topic_metadata"][
                "type_description_hash"
            ]
    assert set(found) == set(TOPICS.values())
    assert found == {type_: type_hash(type_) for type_ in found}


@FORMATS
def test_ros_itself_reads_every_message(bags, camvid, options):
    """rclpy deserialises them: images and ids to the bit, one header for both."""
    from rclpy.serialization import deserialize_message

    frames = {name: [] for name in TOPICS}
    for topic, type_, time_ns, data in drives.plain_messages(bags[tuple(options)]):
        package, _, name = type_.split("/")
        message_class = getattr(importlib.import_module(package + ".msg"), name)
        message = deserialize_message(bytes(data), message_class)
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time_ns
        frames[topic].append(message)
    (info,) = frames["/ground_truth/label_info"]
    assert info.label_set == "camvid11" and info.unlabelled == 255
    assert [(item.id, item.name) for item in info.classes][:2] == [(0, "sky"), (1, "building")]
    for (image, ids), sent, truth in zip(
        camvid[1], frames["/camera/image_raw"], frames["/ground_truth"]
    ):
        assert (sent.encoding, sent.step, sent.is_bigendian) == ("rgb8", 3 * sent.width, 0)
        assert (truth.encoding, truth.step) == ("mono8", truth.width)
        pixels = np.array(sent.data, np.uint8).reshape(sent.height, sent.width, 3)
        np.testing.assert_array_equal(pixels, image)
        found = np.array(truth.data, np.uint8).reshape(truth.height, truth.width)
        np.testing.assert_array_equal(found, np.where(ids == 11, 255, ids))
        assert sent.header == truth.header and sent.header.frame_id == "camera"


def test_what_ros_itself_serialises_is_read(camvid):
    """A recorder writes rclpy's bytes, not rosbags'."""
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CompressedImage, Image

    from segmentation_msgs.msg import ClassInfo, FrameLatency, LabelInfo

    image, ids = camvid[1][0]
    height, width = ids.shape
    sent = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    sent.header.frame_id = "front camera"
    sent.header.stamp.sec, sent.header.stamp.nanosec = 7, 8
    sent.data = array.array("B", image[..., ::-1].tobytes())
    data = serialize_message(sent)
    assert messages.header_of(data) == (7 * 10**9 + 8, "front camera")
    np.testing.assert_array_equal(messages.image_of(data, messages.IMAGE), image)
    class_map = Image(height=height, width=width, encoding="mono8", step=width)
    class_map.data = array.array("B", ids.tobytes())
    found = messages.ids_of(serialize_message(class_map), messages.IMAGE)
    np.testing.assert_array_equal(found, ids)
    _, png = cv2.imencode(".png", ids)
    packed = CompressedImage(format="mono8; png compressed mono8")
    packed.data = array.array("B", png.tobytes())
    found = messages.ids_of(serialize_message(packed), messages.COMPRESSED)
    np.testing.assert_array_equal(found, ids)
    info = LabelInfo(label_set="two")
    info.classes = [
        ClassInfo(id=0, name="a", category="flat", color_rgb=[1, 2, 3]),
        ClassInfo(id=1, name="b", category="sky", color_rgb=[4, 5, 6]),
    ]
    labels = messages.label_set_of(serialize_message(info))
    assert (labels.name, labels.names) == ("two", ("a", "b"))
    assert labels.classes[1].color_rgb == (4, 5, 6)
    latency = FrameLatency(inference_ms=1.5, end_to_end_ms=float("nan"))
    stages = messages.stages_of(serialize_message(latency))
    assert stages["inference"] == 1.5 and "end_to_end" not in stages
