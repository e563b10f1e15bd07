"""Which messages of a bag make a frame: halves by stamp, within a window; which topics."""

import shutil

import pytest
from support.small_bags import IMAGE, TRUTH, drive, write_bag

from segmentation_node.errors import BagError
from segmentation_node.evaluation.bags import open_bag
from segmentation_node.evaluation.bags.frames import WINDOW
from segmentation_node.evaluation.frame import Frame, Problem


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
