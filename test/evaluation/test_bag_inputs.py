"""Bags as people have them: their folders' names, logs, packed parts, foreign messages, bombs."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap.records import Statistics
from mcap.writer import CompressionType, IndexType, Writer
from support import drives
from support.core import tiny
from support.small_bags import IMAGE, TRUTH, compressed, drive, write_bag, write_mcap

from segmentation_node.errors import BagError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.bags import messages, open_bag, unpacking
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.evaluation.frame import Problem
from segmentation_node.labels import CAMVID_11

NAMES = [
    "run #3", "50%25 speed", "why?", "a=b&c", "Straße 日本", "it's \"so\"", " spaced ", "$(x)`y`",
    "back\\slash", "semi;colon", "[1]*", "new\nline", "file:x?mode=memory",
]  # fmt: skip


def read(path, strict=True):
    """All messages; without damage under ``strict``."""
    with open_bag(str(path), strict=strict) as bag:
        return [tuple(message) for message in bag.messages()], bag.damage


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bag_is_where_it_was_asked_for_and_read_from_there(name, storage, tmp_path):
    sent = drive(3)
    bag = write_bag(tmp_path / name / name, storage, sent)
    assert os.listdir(tmp_path) == [name] and os.listdir(tmp_path / name) == [name]
    assert read(bag)[0] == sent
    cut = drives.cut(bag, tmp_path / name / "cut", 0.7)
    found, damage = read(cut, strict=False)
    assert found == sent[: len(found)] and len(found) > 1
    assert any("damaged or cut off" in line for line in damage)
    assert not any("\n" in line for line in damage)
    file = next(path for path in bag.iterdir() if path.suffix != ".yaml")
    (bag / "metadata.yaml").unlink()
    assert read(file.rename(bag / file.name.upper()))[0] == sent  # as some file systems do


def test_a_name_that_is_no_text_is_read_and_refused_in_one_line(tmp_path):
    """metadata.yaml could not hold it: only what is inside such a folder is written."""
    sent = drive(2)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for storage in ("mcap", "sqlite3"):
        assert read(write_bag(odd / storage, storage, sent))[0] == sent
    with pytest.raises(BagError, match="is to be text"):
        write_bag(odd / os.fsdecode(b"\xfe"), "sqlite3", sent)
    assert len(os.listdir(odd)) == 2


RECORDER = """
import os, sqlite3, sys
path, journal, checkpoint_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
source = sqlite3.connect(path)
rows = source.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id").fetchall()
source.execute("DELETE FROM messages"); source.commit(); source.execute("VACUUM"); source.close()
bag = sqlite3.connect(path, isolation_level=None)
bag.execute("PRAGMA journal_mode=%s" % journal)
bag.execute("PRAGMA wal_autocheckpoint=0")
bag.execute("PRAGMA cache_size=5")
for index, row in enumerate(rows):
    if journal == "wal" or index in (0, checkpoint_after):
        bag.execute("BEGIN")
    bag.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    if journal == "wal" or index + 1 == checkpoint_after:
        bag.execute("COMMIT")
    if index + 1 == checkpoint_after:
        bag.execute("PRAGMA wal_checkpoint(PASSIVE)")
os._exit(0)  # as a kill: the log stays
"""


def killed(folder, journal, checkpoint_after, sent):
    """A recorder's database, its log, and no metadata."""
    bag = write_bag(folder / "drive", "sqlite3", sent)
    (bag / "metadata.yaml").unlink()
    command = [sys.executable, "-c", RECORDER, bag / "drive.db3", journal, checkpoint_after]
    subprocess.run([str(word) for word in command], check=True)
    assert (bag / ("drive.db3-wal" if journal == "wal" else "drive.db3-journal")).stat().st_size
    return bag


@pytest.mark.parametrize("checkpoint_after", [0, 4])
def test_what_is_in_the_log_is_read_and_nothing_is_written(checkpoint_after, tmp_path):
    sent = drive(4)
    bag = killed(tmp_path, "wal", checkpoint_after, sent)
    before = contents(bag)
    for path in (bag, bag / "drive.db3"):
        found, damage = read(path, strict=False)
        assert found == sent
        assert [line for line in damage if "metadata.yaml" not in line] == []
    assert contents(bag) == before


def test_a_transaction_without_an_end_is_taken_back(tmp_path):
    sent = drive(8)
    bag = killed(tmp_path, "delete", 6, sent)
    before = contents(bag)
    found, _ = read(bag, strict=False)
    assert found == sent[:6]
    assert contents(bag) == before


def test_a_broken_log_is_named(tmp_path):
    sent = drive(4)
    bag = killed(tmp_path, "wal", 4, sent)
    log = bag / "drive.db3-wal"
    content = bytearray(log.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    log.write_bytes(content)
    found, damage = read(bag, strict=False)
    assert found == sent[: len(found)] and 4 <= len(found) < 8
    assert any("drive.db3-wal" in line and "not used" in line for line in damage)


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_older_databases_are_read(schema, tmp_path):
    """Of Eloquent and before; with QoS, as Foxy's; with a table of the schema, as Humble's."""
    sent = drive(2)
    with sqlite3.connect(str(tmp_path / "drive.db3")) as connection:
        qos = "" if schema == 1 else ", offered_qos_profiles TEXT NOT NULL"
        connection.execute(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
            "serialization_format TEXT NOT NULL%s)" % qos
        )
        connection.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
            "timestamp INTEGER NOT NULL, data BLOB NOT NULL)"
        )
        if schema == 3:
            connection.execute("CREATE TABLE schema(schema_version INTEGER, ros_distro TEXT)")
            connection.execute("INSERT INTO schema VALUES (3, 'humble')")
        for id_, topic in enumerate((IMAGE, TRUTH), 1):
            row = [id_, topic, messages.IMAGE, "cdr"] + ["- durability: 1"] * (schema > 1)
            marks = ",".join("?" * len(row))
            connection.execute("INSERT INTO topics VALUES (%s)" % marks, row)
        for index, (topic, _, time_ns, data) in enumerate(sent):
            row = (index + 1, 1 if topic == IMAGE else 2, time_ns, data)
            connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
    found, damage = read(tmp_path / "drive.db3")
    assert found == sent and damage == []
    with open_bag(str(tmp_path / "drive.db3")) as bag:
        assert [topic.latched for topic in bag.topics] == [schema > 1] * 2


def pack(path, ending=".zstd"):
    packed = path.with_name(path.name + ending)
    packed.write_bytes(unpacking.zstd.compress(path.read_bytes()))
    path.unlink()
    return packed


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("ending", [".zstd", ".zst"])
def test_packed_files_are_read_without_metadata_and_alone(storage, ending, tmp_path):
    sent = drive(3)
    bag = write_bag(tmp_path / "bag", storage, sent)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    packed = pack(file, ending)
    assert read(bag, strict=False)[0] == sent
    assert read(packed)[0] == sent
    packed.write_bytes(packed.read_bytes()[:-100])
    found, damage = read(packed, strict=False)
    assert found == sent[: len(found)]
    assert any(line.startswith(str(packed)) and "cut off" in line for line in damage)
    assert not any("/segmentation_bag_" in line for line in damage)


def split(folder, parts=3):
    """Parts of a bag, drive_0.db3 and so on, without metadata."""
    folder.mkdir()
    for index in range(parts):
        part = write_bag(folder / "part", "sqlite3", drive(2, 2 * index))
        shutil.move(part / "part.db3", folder / ("drive_%d.db3" % index))
        shutil.rmtree(part)
    return folder


def test_a_killed_recorders_mix_is_read_whole_and_what_is_left_out_is_named(tmp_path):
    bag = split(tmp_path / "bag")
    for index in (0, 1):
        pack(bag / ("drive_%d.db3" % index))
    assert read(bag, strict=False)[0] == drive(6)
    # It was killed while it packed the last one; and there is more that nobody asked for.
    (bag / "drive_2.db3.zstd").write_bytes(b"\x28\xb5\x2f\xfd")
    (bag / "notes.txt").write_text("rainy")
    (bag / ".hidden").write_text("")
    (bag / "older").mkdir()
    found, damage = read(bag, strict=False)
    assert found == drive(6)
    said = "\n".join(damage)
    assert "drive_2.db3.zstd: left out: drive_2.db3 is read" in said
    assert "no files of the bag, left out: notes.txt, older" in said and ".hidden" not in said


def test_metadata_chooses_the_files_and_others_are_named(tmp_path):
    bag = split(tmp_path / "bag")
    information = {"version": 9, "relative_file_paths": ["drive_0.db3.zstd", "drive_1.db3"]}
    text = yaml.safe_dump({"rosbag2_bagfile_information": information})
    (bag / "metadata.yaml").write_text(text)
    found, damage = read(bag, strict=False)
    assert found == drive(4)  # the first was unpacked by hand since
    assert damage == ["%s: left out: metadata.yaml does not list it" % (bag / "drive_2.db3")]
    (bag / "drive_2.db3").unlink()
    (bag / "README").write_text("ours")
    assert read(bag)[0] == drive(4)  # that is no damage


def test_packed_messages_are_read_without_metadata(tmp_path):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
    from rosbags.rosbag2 import Writer as Rosbag2Writer

    sent = drive(2)
    writer = Rosbag2Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, messages.IMAGE, typestore=messages.typestore())
            for topic in (IMAGE, TRUTH)
        }
        for topic, _, time_ns, data in sent:
            writer.write(connections[topic], time_ns, data)
    assert read(tmp_path / "bag" / "bag.mcap")[0] == sent


@pytest.mark.parametrize(
    "options",
    [
        {"profile": ""},
        {"profile": "something"},
        {"index_types": IndexType.NONE, "use_statistics": False, "repeat_channels": False,
         "repeat_schemas": False, "use_summary_offsets": False},
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.CHUNK},
        {"repeat_channels": False},
        {"repeat_schemas": False},
        {"repeat_schemas": False, "use_statistics": False},
        {"use_chunking": False},
        {"compression": CompressionType.LZ4},
        {"profile": "", "compression": CompressionType.LZ4},
    ],
    ids=str,
)  # fmt: skip
def test_mcap_of_ros_2_is_intact_whoever_wrote_it(options, tmp_path):
    sent = drive(6)
    found, damage = read(write_mcap(tmp_path / "drive.mcap", sent, **options))
    assert found == sent and damage == []


def test_mcap_whose_statistics_have_no_counts_by_channel_is_intact(tmp_path, monkeypatch):
    """MCAP's format: an empty map of them says that they are not known."""
    write = Statistics.write

    def without_counts(self, builder):
        self.channel_message_counts = {}
        write(self, builder)

    monkeypatch.setattr(Statistics, "write", without_counts)
    sent = drive(6)
    path = write_mcap(tmp_path / "drive.mcap", sent)
    with open(path, "rb") as stream:
        statistics = make_reader(stream).get_summary().statistics
    assert (statistics.message_count, statistics.channel_message_counts) == (12, {})
    with open_bag(str(path), strict=True) as bag:
        assert [topic.count for topic in bag.topics] == [6, 6]
        assert [tuple(message) for message in bag.messages()] == sent


def test_a_file_without_channels_in_its_index_is_not_passed_over_among_others(tmp_path):
    sent = drive(9)
    (tmp_path / "bag").mkdir()
    write_mcap(tmp_path / "bag" / "drive_0.mcap", sent[:6])
    write_mcap(tmp_path / "bag" / "drive_1.mcap", sent[6:], repeat_channels=False)
    found, damage = read(tmp_path / "bag", strict=False)
    assert found == sent
    assert len(damage) == 1 and "metadata.yaml: no such file" in damage[0]


def test_topics_that_are_no_ros_2_messages_are_named_beside_those_that_are(tmp_path):
    sent = drive(3)
    path = tmp_path / "drive.mcap"
    with open(path, "wb") as stream:
        writer = Writer(stream)
        writer.start(profile="", library="test")
        image = writer.register_channel(
            IMAGE, "cdr", writer.register_schema(messages.IMAGE, "ros2msg", b"")
        )
        schema = writer.register_schema("foxglove.RawImage", "protobuf", b"\x0a")
        other = writer.register_channel("/cam/raw", "protobuf", schema)
        for topic, _, time_ns, data in sent:
            channel = image if topic == IMAGE else other
            writer.add_message(channel, time_ns, data if topic == IMAGE else b"\x08\x01", time_ns)
        writer.finish()
    with open_bag(str(path), strict=True) as bag:
        assert "/cam/raw (protobuf foxglove.RawImage, 3)" in bag.listing()
        assert len(list(bag.frames())) == 3


@pytest.mark.parametrize(
    "encoding, type_, said",
    [
        ("ros1", "sensor_msgs/Image", "rosbags-convert makes a ROS 2 bag of the .bag file"),
        ("protobuf", "foxglove.RawImage", "mcap-ros2-support"),
        ("json", "sensor_msgs/msg/Image", "mcap-ros2-support"),
    ],
)
def test_foreign_messages_are_called_what_they_are(encoding, type_, said, tmp_path, capsys):
    path = tmp_path / "drive.mcap"
    write_mcap(path, drive(2), encoding if encoding == "ros1" else "", encoding,
               {IMAGE: type_, TRUTH: type_})  # fmt: skip
    assert main(["bag", str(path), "--model", tiny.FOLDER, "--image-topic", IMAGE]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "damaged" not in error
    assert "no ROS 2 messages but %s: %s (%s %s, 2)" % (encoding, IMAGE, encoding, type_) in error
    assert said in error


def test_a_ros_1_bag_is_named_with_its_converter(tmp_path):
    path = tmp_path / "drive.bag"
    path.write_bytes(b"#ROSBAG V2.0\n")
    for given in (path, tmp_path):
        with pytest.raises(BagError, match="of ROS 1: rosbags-convert --src drive.bag --dst"):
            open_bag(str(given))


def test_a_folder_without_a_bag_says_what_it_holds(tmp_path):
    write_bag(tmp_path / "monday", "mcap", drive(1))
    write_bag(tmp_path / "tuesday", "mcap", drive(1))
    with pytest.raises(BagError, match="no .mcap or .db3 file in it; it holds monday, tuesday"):
        with open_bag(str(tmp_path)):
            pass


def class_map_bag(path, lossy, ending):
    """Class maps and truth that are equal; ``lossy`` of them, or none, stored by ``ending``."""
    ids = drives.ids(3, range(11))
    topics = ["/segmentation_node/class_map/compressed", "/ground_truth/compressed"]
    with BagWriter(str(path)) as writer:
        for topic in topics:
            writer.add_topic(topic, messages.COMPRESSED)
        for base in ("/segmentation_node", "/ground_truth"):
            writer.add_topic(base + "/label_info", messages.LABEL_INFO, latched=True)
            writer.write(base + "/label_info", 1, messages.label_info(CAMVID_11, "test", 1))
        for index, pixels in enumerate(ids):
            for topic in topics:
                found = ending if lossy in topic else ".png"
                format_ = "mono8; %s compressed mono8" % found.strip(".")
                message = compressed(topic, 10**18 + index * 10**8, pixels, format_, found)
                writer.write(topic, message[2], message[3])
    return str(path)


@pytest.mark.parametrize("lossy", ["class_map", "ground_truth"])
@pytest.mark.parametrize("ending, codec", [(".jpg", "JPEG"), (".webp", "WebP")])
def test_ids_in_a_lossy_format_are_refused(lossy, ending, codec, tmp_path, capsys):
    assert main(["bag", class_map_bag(tmp_path / "bag", lossy, ending)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: none of 3 frames could be scored")
    said = "a %s: its compression changes ids; record class maps raw or as PNG" % codec
    assert lossy in error and said in error


def test_ids_as_png_are_exact(tmp_path, capsys):
    assert main(["bag", class_map_bag(tmp_path / "bag", "class_map", ".png")]) == 0


def test_a_bayer_mosaic_in_a_png_is_the_raw_topics_picture(tmp_path):
    mosaic = np.random.RandomState(1).randint(0, 256, (48, 64)).astype(np.uint8)
    types = messages.typestore().types
    raw = types[messages.IMAGE](
        header=messages.header(10**18, "c"), height=48, width=64, encoding="bayer_rggb8",
        is_bigendian=0, step=64, data=mosaic.reshape(-1),
    )  # fmt: skip
    packed = compressed("/a", 10**18, mosaic, "bayer_rggb8; png compressed ", ".png")
    np.testing.assert_array_equal(
        messages.image_of(packed[3], messages.COMPRESSED),
        messages.image_of(messages.serialize(raw, messages.IMAGE), messages.IMAGE),
    )


def test_a_picture_that_is_cut_off_is_a_skipped_frame_and_exif_turns_none(tmp_path):
    picture = np.random.RandomState(1).randint(0, 256, (48, 64, 3)).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    types = messages.typestore().types
    with BagWriter(str(tmp_path / "bag")) as writer:
        writer.add_topic("/cam/compressed", messages.COMPRESSED)
        for index, data in enumerate([jpeg, jpeg[:2] + exif + jpeg[2:], jpeg[: len(jpeg) // 2]]):
            stamp_ns = 10**18 + index * 10**8
            message = types[messages.COMPRESSED](
                header=messages.header(stamp_ns, "c"), format="jpeg",
                data=np.frombuffer(data, np.uint8),
            )  # fmt: skip
            data = messages.serialize(message, messages.COMPRESSED)
            writer.write("/cam/compressed", stamp_ns, data)
    with open_bag(str(tmp_path / "bag")) as bag:
        plain, turned, half = bag.frames()
    np.testing.assert_array_equal(plain.image_hwc, turned.image_hwc)
    assert isinstance(half, Problem) and "cut off" in half.reason


def bomb(size):
    return unpacking.zstd.compress(bytes(size))


def test_a_packed_file_is_unpacked_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED_BYTES", 1 << 20)
    sent = drive(3)
    bag = write_bag(tmp_path / "bag", "sqlite3", sent)
    whole = (bag / "bag.db3").read_bytes()
    path = tmp_path / "bag.db3.zst"
    path.write_bytes(unpacking.zstd.compress(whole) + bomb(64 << 20))
    found, damage = read(path, strict=False)
    assert found == sent
    assert any("unpacks to more than" in line and "read up to there" in line for line in damage)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_chunk_is_unpacked_within_bounds(compression, tmp_path, monkeypatch):
    """Zeros in a chunk of the size that it states."""
    monkeypatch.setattr(unpacking, "LARGEST_BLOCK_BYTES", 1 << 20)
    sent = drive(2)
    path = tmp_path / "drive.mcap"
    kind = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4}[compression]
    with open(path, "wb") as stream:
        writer = Writer(stream, compression=kind, chunk_size=1 << 40)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(messages.IMAGE, "ros2msg", b"")
        channel = writer.register_channel(IMAGE, "cdr", schema)
        writer.add_message(channel, sent[0][2], bytes(16 << 20), sent[0][2])
        writer.finish()
    found, damage = read(path, strict=False)
    assert found == [] and any("unpack to more than" in line for line in damage)


def varint(value):
    """As SQLite writes one."""
    groups = [value & 0x7F]
    while value >> 7:
        value >>= 7
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def self_pointing_page(number, page_bytes, data_bytes):
    """A leaf with one message of so many bytes, whose rest lies in the page itself."""
    serials = varint(0) + varint(1) + varint(6) + varint(12 + 2 * data_bytes)
    record = bytes([1 + len(serials)]) + serials + b"\x01" + (10**18).to_bytes(8, "big")
    cell = varint(len(record) + data_bytes) + varint(99) + record
    page = bytearray(number.to_bytes(4, "big") * (page_bytes // 4))
    page[:10] = b"\x0d\0\0\0\x01" + (100).to_bytes(2, "big") + b"\0" + (100).to_bytes(2, "big")
    page[100 : 100 + len(cell)] = cell
    return bytes(page)


@pytest.mark.parametrize("data_bytes", [60000, 1 << 40])
def test_overflow_pages_that_point_to_themselves_end(data_bytes, tmp_path):
    """A message longer than the file, or one that lies in the same page over and over."""
    sent = drive(6)
    bag = write_bag(tmp_path / "bag", "sqlite3", sent)
    path = bag / "bag.db3"
    with sqlite3.connect(str(path)) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    pages = len(content) // page_bytes
    content[28:32] = (pages + 1000).to_bytes(4, "big")  # shorter than it says: it is recovered
    path.write_bytes(content + self_pointing_page(pages + 1, page_bytes, data_bytes))
    found, damage = read(bag, strict=False)
    assert found == sent
    assert any("message 99 on" in line and "pages are missing" in line for line in damage)


def test_single_images_stay_single_when_they_are_recorded_again(tmp_path):
    """`ros2 bag record` keeps messages, and nothing of metadata.yaml's custom_data."""
    drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    text = (bag / "metadata.yaml").read_text()
    information = yaml.safe_load(text)["rosbag2_bagfile_information"]
    information["custom_data"] = None
    (bag / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    with open_bag(str(bag)) as opened:
        assert [frame.position for frame in opened.frames()] == [None] * 5


@pytest.mark.parametrize("seed", range(8))
def test_each_frame_of_a_damaged_bag_is_scored_skipped_or_lost(seed, tmp_path):
    """Messages are lost, repeated, broken and out of order: the sum is that of the frames."""
    random = np.random.RandomState(seed)
    size = (16, 24)
    sent, expected = [], set()
    for index in range(30):
        stamp_ns = 10**18 + index * 10**8
        image = random.randint(0, 256, size + (3,)).astype(np.uint8)
        ids = random.randint(0, 11, size).astype(np.uint8)
        parts = {
            IMAGE: messages.raw_image(image, stamp_ns, "c"),
            TRUTH: messages.raw_image(ids, stamp_ns, "c"),
            "/segmentation_node/class_map": messages.raw_image(ids, stamp_ns, "c"),
        }
        for topic in list(parts):
            fate = random.choice(["whole", "gone", "cut", "no header"], p=[0.8, 0.08, 0.07, 0.05])
            if topic == TRUTH and len(parts.get(IMAGE, b"")) == 10:
                continue  # of which frame an image without a header is, its truth tells
            if fate == "gone":
                del parts[topic]
            elif fate != "whole":
                parts[topic] = parts[topic][: {"cut": 200, "no header": 10}[fate]]
        without_header = [topic for topic, data in parts.items() if len(data) == 10]
        if set(parts) - (set(without_header) - {IMAGE}):
            expected.add(index)
        sent += [(topic, messages.IMAGE, stamp_ns, data) for topic, data in parts.items()]
    for place in range(0, len(sent) - 3, 3):  # out of order, by a frame or so
        sent[place : place + 3] = [sent[place + offset] for offset in random.permutation(3)]
    with open_bag(str(write_bag(tmp_path / "bag", "mcap", sent))) as bag:
        items = list(bag.recorded_frames(bag.choose_topics()))
    assert len(items) == len(expected)
    assert len({item.name for item in items}) == len(items)
