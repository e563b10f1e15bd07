"""Bags that are cut off, broken or incomplete: read as far as they go, and nothing left out unsaid.

What a cut bag still holds is found here by cutting at a message's own last byte.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from support import drives
from support.small_bags import IMAGE, STORAGES, TRUTH, drive, write_bag, write_mcap

from segmentation_node.errors import BagError
from segmentation_node.evaluation.bags import messages, open_bag
from segmentation_node.evaluation.frame import Frame, Problem

EVERY = pytest.mark.parametrize("storage", sorted(STORAGES))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """400 frames, 4 MB: several chunks in MCAP, several levels of pages in sqlite3."""
    folder = tmp_path_factory.mktemp("whole")
    sent = drive(400)
    return {name: write_bag(folder / name, name, sent) for name in STORAGES}, sent


@EVERY
def test_a_whole_bag_gives_back_what_was_written(whole, storage):
    bags, sent = whole
    with open_bag(str(bags[storage]), strict=True) as bag:
        assert [tuple(message) for message in bag.messages()] == sent
        assert not bag.damage
        assert [(topic.name, topic.count) for topic in bag.topics] == [(IMAGE, 400), (TRUTH, 400)]


@EVERY
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_a_bag_that_is_cut_off_is_read_to_its_end(whole, storage, share, with_metadata, tmp_path):
    """Every message whose bytes are there comes, unchanged and in order; the rest is said."""
    bags, sent = whole
    bag = drives.cut(bags[storage], tmp_path / "cut", share)
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    with open_bag(str(bag)) as opened:
        found = [tuple(message) for message in opened.messages()]
        said = "\n".join(opened.damage)
        counted = sum(topic.count for topic in opened.topics)
    assert "damaged or cut off" in said
    assert ("metadata.yaml counts 400 messages on /ground_truth" in said) == (
        with_metadata and len(found) < 800
    )
    assert found == sent[: len(found)]
    # A chunk of MCAP holds about 1 MiB before compression; a message about 9.3 kB, or 3.1 kB.
    expected = share * len(sent)
    assert len(found) <= expected + 3
    assert len(found) >= expected - (200 if storage == "zstd" else 4)
    assert len(found) <= counted <= len(found) + 1


@EVERY
def test_strict_stops_at_a_cut(whole, storage, tmp_path):
    bag = drives.cut(whole[0][storage], tmp_path / "cut", 0.5)
    with pytest.raises(BagError, match="damaged or cut off"):
        with open_bag(str(bag), strict=True) as opened:
            list(opened.messages())


def test_a_cut_mcap_without_chunks_is_read_to_its_end(tmp_path):
    """As the preset fastwrite of rosbag2 leaves it when the recorder is killed."""
    from mcap.writer import Writer

    sent = drive(5)
    path = tmp_path / "killed.mcap"
    with open(path, "wb") as stream:
        writer = Writer(stream, use_chunking=False)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(messages.IMAGE, "ros2msg", b"")
        channels = {
            topic: writer.register_channel(topic, "cdr", schema) for topic in (IMAGE, TRUTH)
        }
        for topic, _, time_ns, data in reversed(sent):
            writer.add_message(channels[topic], time_ns, data, time_ns)
        end = stream.tell()
        writer.finish()
    with open_bag(str(path)) as bag:  # rosbags refuses messages out of order
        assert [tuple(message) for message in bag.messages()] == sent[::-1]
    with open(path, "r+b") as stream:
        stream.truncate(end - 10)
    with open_bag(str(path)) as bag:
        assert [tuple(message) for message in bag.messages()] == sent[:0:-1]


def test_a_corrupt_chunk_costs_its_own_messages_only(whole, tmp_path):
    bag = Path(shutil.copytree(whole[0]["zstd"], tmp_path / "corrupt"))
    path = bag / "zstd.mcap"
    content = bytearray(path.read_bytes())
    middle = content.index(b"\x28\xb5\x2f\xfd", len(content) // 2)  # a zstd frame begins
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    with open_bag(str(bag)) as opened:
        found = [tuple(message) for message in opened.messages()]
        assert any("record at byte" in line for line in opened.damage)
    sent = whole[1]
    assert set(found) < set(sent) and len(found) > 400
    assert sorted(found, key=lambda item: item[2]) == found
    assert found[-1] == sent[-1]


def chunk_around(path, byte):
    """Where the chunk of this byte begins and ends."""
    with open(path, "rb") as stream:
        for chunk in make_reader(stream).get_summary().chunk_indexes:
            end = chunk.chunk_start_offset + chunk.chunk_length
            if chunk.chunk_start_offset <= byte < end:
                return chunk.chunk_start_offset, end
    raise AssertionError("no chunk there")


@pytest.mark.parametrize("hit", [0, 5, 16, 24, 31])
def test_a_corrupt_chunk_costs_its_own_messages_only_where_times_go_back(hit, tmp_path):
    """As a simulation's reset leaves it: the index goes by time, what is recovered by place."""
    passes = drive(8), drive(8, 8)
    times_ns = [item[2] for item in passes[0]] * 2
    sent = [
        (topic, type_, time_ns, data)
        for time_ns, (topic, type_, _, data) in zip(times_ns, passes[0] + passes[1])
    ]
    path = write_mcap(tmp_path / "reset.mcap", sent, compression=CompressionType.NONE)
    content = bytearray(path.read_bytes())
    places = [content.index(data) for *_, data in sent]
    start, end = chunk_around(path, places[hit])
    content[places[hit] + 1000] ^= 1
    path.write_bytes(content)
    with open_bag(str(path)) as bag:
        found = [tuple(message) for message in bag.messages()]
        assert any("record at byte %d" % start in line for line in bag.damage)
    kept = [item for item, place in zip(sent, places) if not start <= place < end]
    assert 24 < len(kept) < 32 and sorted(found) == sorted(kept)


def test_corrupt_pages_of_sqlite3_cost_their_own_messages_only(whole, tmp_path):
    bag = Path(shutil.copytree(whole[0]["sqlite3"], tmp_path / "corrupt"))
    with open(bag / "sqlite3.db3", "r+b") as stream:
        stream.seek(300 * 4096)
        stream.write(b"\xff" * 5 * 4096)
    with open_bag(str(bag)) as opened:
        found = [tuple(message) for message in opened.messages(["/camera/image_raw"])]
    whole_ones = {item for item in found if item in set(whole[1])}
    assert len(whole_ones) >= 390


def test_broken_messages_are_named_and_left_out(tmp_path):
    sent = drive(8)
    bad = {
        2: sent[2][3][:10],  # cut within the header: its truth has no image then
        4: sent[4][3][:3000],  # cut within the pixels
        6: sent[6][3].replace(b"rgb8", b"rgbx"),
        9: sent[9][3][:2000],  # the truth of frame 4
        10: messages.raw_image(np.zeros((2, 3), np.uint8), sent[10][2], "c"),  # and of frame 5
    }
    for index, data in bad.items():
        topic, type_, time_ns, _ = sent[index]
        sent[index] = (topic, type_, time_ns, data)
    with open_bag(str(write_bag(tmp_path / "bag", "mcap", sent))) as bag:
        items = list(bag.frames())
        (orphan,) = bag.damage
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.position[1] for frame in frames] == [0, 6, 7]
    said = [item.reason for item in items if isinstance(item, Problem)]
    assert len(said) == 5  # each of the eight frames once
    assert "stamp 1000000000.100000000 on /ground_truth: no image of this stamp" in orphan
    assert all("\n" not in line for line in said)


def test_strict_names_the_first_broken_message(tmp_path):
    sent = drive(3)
    sent[2] = sent[2][:3] + (sent[2][3].replace(b"rgb8", b"rgbx"),)
    with open_bag(str(write_bag(tmp_path / "bag", "sqlite3", sent)), strict=True) as bag:
        frames = bag.frames()
        assert next(frames).position[1] == 0
        with pytest.raises(BagError, match="000001 @ 1000000000.100000000 on /camera.*rgbx"):
            list(frames)


@pytest.mark.parametrize("missing", ["folder", "files", "suffix", "version"])
def test_what_is_no_bag_is_said_in_one_line(missing, tmp_path):
    path = tmp_path / "bag"
    if missing in ("files", "version"):
        path.mkdir()
    if missing == "suffix":
        path = tmp_path / "notes.txt"
        path.write_text("hello")
    if missing == "version":
        text = "rosbag2_bagfile_information:\n  version: 10\n  relative_file_paths: []\n"
        (path / "metadata.yaml").write_text(text)
    with pytest.raises(BagError) as caught:
        open_bag(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "", "[1, 2]", "a: {b", "\x00",
        "rosbag2_bagfile_information:\n  topics_with_message_count: [{message_count: many}]\n",
        "rosbag2_bagfile_information: {topics_with_message_count: [5]}",
        "rosbag2_bagfile_information: {relative_file_paths: 5}",
        "rosbag2_bagfile_information: {custom_data: [text]}",
        "rosbag2_bagfile_information: 2020-13-45",
        "rosbag2_bagfile_information: &a [*a]",
    ],
)  # fmt: skip
def test_a_bag_with_unreadable_metadata_is_read_without_it(content, tmp_path):
    sent = drive(3)
    path = write_bag(tmp_path / "bag", "sqlite3", sent)
    (path / "metadata.yaml").write_text(content)
    with open_bag(str(path)) as bag:
        assert [tuple(message) for message in bag.messages()] == sent
        assert "read without it" in bag.damage[0]


def test_a_split_bag_is_read_in_order_and_a_missing_file_said(tmp_path):
    import yaml

    parts = [write_bag(tmp_path / ("part_%d" % i), "mcap", drive(3, 3 * i)) for i in range(3)]
    path = tmp_path / "split"
    path.mkdir()
    names = ["split_%d.mcap" % index for index in (9, 10, 11)]
    for part, name in zip(parts, names):
        shutil.copy(part / (part.name + ".mcap"), path / name)
    information = drives.metadata(parts[0])
    information.update(relative_file_paths=names, message_count=18)
    for topic in information["topics_with_message_count"]:
        topic["message_count"] = 9
    text = yaml.safe_dump({"rosbag2_bagfile_information": information})
    (path / "metadata.yaml").write_text(text)
    for with_metadata in (True, False):
        if not with_metadata:
            (path / "metadata.yaml").unlink()
        with open_bag(str(path)) as bag:
            assert [tuple(message) for message in bag.messages()] == drive(9)
            assert {topic.name: topic.count for topic in bag.topics} == {IMAGE: 9, TRUTH: 9}
    (path / "metadata.yaml").write_text(text)
    (path / names[1]).unlink()
    with open_bag(str(path)) as bag:
        assert len(list(bag.messages())) == 12
        said = list(bag.damage)
    assert any(names[1] in line for line in said) and any(
        "counts 9 messages on /ground" in line for line in said
    )


@pytest.mark.parametrize("mode", ["message", "file"])
def test_rosbag2s_own_compression_is_read(mode, tmp_path):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    sent = drive(4)
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, messages.IMAGE, typestore=messages.typestore())
            for topic in (IMAGE, TRUTH)
        }
        for topic, _, time_ns, data in sent:
            writer.write(connections[topic], time_ns, data)
    with open_bag(str(tmp_path / "bag"), strict=True) as bag:
        assert [tuple(message) for message in bag.messages()] == sent
