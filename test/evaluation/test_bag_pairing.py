"""Which messages of a bag make a frame: halves by stamp, within a window; which topics."""

import shutil

import numpy as np
import pytest
from support.core import tiny
from support.small_bags import IMAGE, TRUTH, compressed, drive, write_bag, write_mcap

from segmentation_node.errors import BagError, DatasetError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.bags import messages, open_bag
from segmentation_node.evaluation.bags.frames import WINDOW
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.evaluation.clip import Clip, open_clip
from segmentation_node.evaluation.commands import demo
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19, LABEL_SETS


def frames_of(tmp_path, sent, damage=None):
    """The frames, and why others are none; ``damage`` takes what else was said."""
    with open_bag(str(write_bag(tmp_path / "bag", "mcap", sent))) as bag:
        items = list(bag.frames())
        assert damage is not None or not bag.damage
        (damage if damage is not None else []).extend(bag.damage)
    problems = [item.reason for item in items if isinstance(item, Problem)]
    return [item for item in items if isinstance(item, Frame)], problems


def pairs(frames):
    """Frames as (number, id of its truth or None)."""
    return [
        (frame.position[1], None if frame.truth_hw is None else int(frame.truth_hw[0, 0]))
        for frame in frames
    ]


def recorded(items):
    """The messages as if recorded one after the other in this order."""
    return [
        (topic, type_, 10**18 + index, data) for index, (topic, type_, _, data) in enumerate(items)
    ]


@pytest.mark.parametrize("truth_first", [False, True])
def test_halves_may_come_in_any_order(truth_first, tmp_path):
    images, truths = drive(10)[::2], drive(10)[1::2]
    both = truths + images if truth_first else images + truths
    frames, problems = frames_of(tmp_path, recorded(both))
    assert pairs(frames) == [(index, index) for index in range(10)] and not problems


def test_frames_without_truth_do_not_wait_for_ever(tmp_path):
    sent = drive(100)
    kept = [item for index, item in enumerate(sent) if index % 2 == 0 or index == 2 * 60 + 1]
    frames, problems = frames_of(tmp_path, kept)
    assert pairs(frames) == [(i, 60 % 11 if i == 60 else None) for i in range(100)]
    assert not problems


def test_truth_further_away_than_the_window_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("segmentation_node.evaluation.bags.frames.WINDOW_BYTES", 0)
    sent = drive(3 * WINDOW)
    images, truths = sent[::2], sent[1::2]
    for both in (images + truths, truths + images):
        said = []
        frames, problems = frames_of(tmp_path, recorded(both), said)
        found = [number for number, truth in pairs(frames) if truth is not None]
        assert len(frames) == 3 * WINDOW and len(found) <= WINDOW + 1
        assert len(said) == 3 * WINDOW - len(found) and not problems
        assert all("on /ground_truth: too far from its image, left out" in line for line in said)
        shutil.rmtree(tmp_path / "bag")


def test_a_frame_whose_image_is_missing_counts_once(tmp_path):
    """However many messages of it there are."""
    sent = drive(6)
    maps = [("/segmentation_node/class_map",) + item[1:] for item in sent[1::2]]
    both = [item for item in sent + maps if item[:3:2] != (IMAGE, sent[4][2])]
    with open_bag(str(write_bag(tmp_path / "bag", "mcap", recorded(both)))) as bag:
        items = list(bag.recorded_frames(bag.choose_topics()))
    (problem,) = [item for item in items if isinstance(item, Problem)]
    assert len(items) == 6
    assert problem.reason == (
        "stamp 1000000000.200000000 on /ground_truth, /segmentation_node/class_map: "
        "no image of this stamp"
    )


def test_small_messages_may_wait_longer(tmp_path):
    sent = drive(3 * WINDOW)
    frames, problems = frames_of(tmp_path, recorded(sent[::2] + sent[1::2]))
    assert pairs(frames) == [(i, i % 11) for i in range(3 * WINDOW)] and not problems


def test_a_stamp_that_comes_twice_is_said(tmp_path):
    sent = drive(2)
    frames, problems = frames_of(tmp_path, recorded([sent[0], sent[0], sent[1], sent[2], sent[3]]))
    assert pairs(frames) == [(0, 0), (1, 1)]
    assert len(problems) == 1 and "second message of stamp" in problems[0]


def test_a_stamp_that_comes_again_later_is_another_frame(tmp_path):
    """As where a simulation is reset, or a loop is recorded: nothing says that it is the same."""
    sent = []
    for number, index in enumerate([0, 1, 0, 1, 1]):
        (image, type_, stamp_ns, _), _ = drive(2)[2 * index : 2 * index + 2]
        pixels = np.full((48, 64, 3), number, np.uint8)
        ids = np.full((48, 64), 5 + number, np.uint8)
        sent.append((image, type_, 0, messages.raw_image(pixels, stamp_ns, "c")))
        sent.append((TRUTH, type_, 0, messages.raw_image(ids, stamp_ns, "c")))
    frames, problems = frames_of(tmp_path, recorded(sent))
    assert [(int(f.image_hwc[0, 0, 0]), int(f.truth_hw[0, 0])) for f in frames] == [
        (0, 5), (1, 6), (2, 7), (3, 8), (4, 9),
    ]  # fmt: skip
    assert not problems


def bag_of(path, **counts):
    """A bag with so many raw and so many compressed messages on each topic."""
    with BagWriter(str(path)) as writer:
        for base, (raw, packed) in counts.items():
            topic = "/" + base
            writer.add_topic(topic, messages.IMAGE)
            writer.add_topic(topic + "/compressed", messages.COMPRESSED)
            is_truth = topic == TRUTH
            pixels = np.zeros((16, 24) if is_truth else (16, 24, 3), np.uint8)
            form = "mono8; png compressed mono8" if is_truth else "rgb8; png compressed bgr8"
            for stamp_ns in range(10**18, 10**18 + raw * 10**8, 10**8):
                writer.write(topic, stamp_ns, messages.raw_image(pixels, stamp_ns, "c"))
            for stamp_ns in range(10**18, 10**18 + packed * 10**8, 10**8):
                found, _, _, data = compressed(
                    topic + "/compressed", stamp_ns, pixels, form, ".png"
                )
                writer.write(found, stamp_ns, data)
    return str(path)


def test_a_topic_without_messages_hides_no_other(tmp_path):
    path = bag_of(tmp_path / "bag", camera=(0, 3), rear=(0, 0), ground_truth=(0, 3))
    with open_bag(path, strict=True) as bag:
        topics = bag.choose_topics()
        assert topics.image.name == "/camera/compressed"
        assert topics.truth.name == "/ground_truth/compressed"
        assert len([frame for frame in bag.frames() if frame.truth_hw is not None]) == 3
        assert bag.choose_topics(image="/camera").image.count == 0  # it was asked for
        assert not bag.damage


def test_a_bag_whose_topics_are_all_empty_says_that_they_are(tmp_path, capsys):
    path = bag_of(tmp_path / "bag", camera=(0, 0), rear=(0, 0), ground_truth=(0, 0))
    assert main(["bag", path, "--model", tiny.FOLDER]) == 1
    assert capsys.readouterr().err == "error: %s: no message on /camera\n" % path
    with pytest.raises(DatasetError, match="no message on /camera$"):
        open_clip(path, 0)


def test_of_a_clip_only_a_truth_that_can_be_compared_is_taken(tmp_path, capsys):
    path = bag_of(tmp_path / "bag", camera=(3, 0), ground_truth=(3, 0))
    clip = open_clip(path, 2)
    assert (clip.truth, clip.length) == (None, 2)
    assert [frame.truth_hw for frame in clip.frames] == [None, None]
    (line,) = clip.warnings()
    assert line.endswith("what the ids on /ground_truth mean: accuracy is not measured")
    frame = Frame("1.png", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    for network, is_kept in (
        (CAMVID_11, True),
        (CITYSCAPES_19, True),
        (LABEL_SETS["voc21"], False),
    ):
        clip = demo.comparable(Clip(CAMVID_11, frames=iter([frame])), network)
        assert [item.truth_hw is not None for item in clip.frames] == [is_kept]
        assert (clip.truth is not None) == is_kept
    assert capsys.readouterr().err == (
        "note: accuracy is not measured: the network's classes (voc21) are not the clip's "
        "(camvid11)\n"
    )


def test_ground_truth_without_a_message_is_said_not_to_be_there(tmp_path, capsys):
    path = bag_of(tmp_path / "bag", camera=(2, 0), ground_truth=(0, 0))
    options = ["--model", tiny.FOLDER, "--backend", "onnxruntime", "--no-calibration"]
    assert main(["bag", path, *options]) == 0
    assert "no ground truth; it has" in capsys.readouterr().err


def test_a_compressed_topic_with_more_messages_is_named(tmp_path):
    path = bag_of(tmp_path / "bag", camera=(2, 20), ground_truth=(4, 3))
    with open_bag(path, strict=True) as bag:
        assert bag.choose_topics(image="/camera").image.count == 2
        assert not bag.damage  # it was asked for
        topics = bag.choose_topics()
        assert (topics.image.name, topics.truth.name) == ("/camera", TRUTH)
        (line,) = bag.damage
    assert line == (
        "%s: /camera is read, which has 2 messages; /camera/compressed has 20, and may be named "
        "(--image-topic; of make demo: TOPIC=)" % path
    )


def test_a_topic_of_several_types_is_refused_where_it_is_read(tmp_path):
    sent = drive(4)
    other = [
        ("/other", type_, sent[index][2], sent[index][3])
        for index, type_ in ((0, messages.IMAGE), (4, messages.LABEL_INFO))
    ]
    (tmp_path / "bag").mkdir()
    write_mcap(tmp_path / "bag" / "drive_0.mcap", sent[:4] + other[:1])
    write_mcap(tmp_path / "bag" / "drive_1.mcap", sent[4:] + other[1:])
    with open_bag(str(tmp_path / "bag")) as bag:
        assert "/other (sensor_msgs/msg/Image|segmentation_msgs/msg/LabelInfo, 2)" in bag.listing()
        assert len(list(bag.frames(bag.choose_topics(image=IMAGE)))) == 4
        with pytest.raises(BagError, match="topic /other has several types, sensor_.* and seg"):
            bag.choose_topics(image="/other")
        assert [message.type for message in bag.messages(["/other"])] == [t for _, t, *_ in other]


def test_topics_are_chosen_or_listed(tmp_path):
    sent = drive(2)
    front = [("/front/image_raw",) + item[1:] for item in sent[::2]]
    node = [("/segmentation_node/class_map",) + item[1:] for item in sent[1::2]]
    overlay = [("/segmentation_node/overlay",) + item[1:] for item in sent[::2]]
    with open_bag(str(write_bag(tmp_path / "one", "mcap", sent + node + overlay))) as bag:
        topics = bag.choose_topics()
        assert [topic.name for topic in topics[:3]] == [
            IMAGE, TRUTH, "/segmentation_node/class_map",
        ]  # fmt: skip
        with pytest.raises(
            BagError, match="no image topic /rear .*has /camera/image_raw .*Image, 2"
        ):
            bag.choose_topics(image="rear")
        with pytest.raises(BagError, match="no topic /nothing; it has"):
            next(bag.messages(["/nothing"]))
    with open_bag(str(write_bag(tmp_path / "two", "mcap", sent + front))) as bag:
        with pytest.raises(BagError, match="several topics could be meant.*camera.*front"):
            bag.choose_topics()
        assert bag.choose_topics(image="/front/image_raw").image.count == 2
