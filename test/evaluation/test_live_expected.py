"""What a listener expects of a bag: image and truth come from it, and each frame counts once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support import recorded
from support.live import FrameLatency, image_message
from support.small_bags import IMAGE, TRUTH, drive, write_mcap

from segmentation_node.errors import BagError
from segmentation_node.evaluation import bags
from segmentation_node.evaluation.frame import Frame, Lost, Problem
from segmentation_node.evaluation.live.pairing import OpenPairing, Result
from segmentation_node.evaluation.live.played import SourceOptions, open_expected, open_played
from segmentation_node.evaluation.live.scorer import LiveScorer
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import BagOptions
from segmentation_node.labels import CAMVID_11

pytestmark = pytest.mark.ros
SIZE = (16, 24)


class Unconnected:
    """A node whose subscriptions hear nothing."""

    def create_subscription(self, *_):
        pass


class Listener:
    """The pairing of a bag's frames with results that come as a test says."""

    def __init__(self, expected):
        self.found, self.left_out = [], []
        self.pairing = OpenPairing(
            Unconnected(), "/node", False, 10.0, expected.numbers, expected.repeated
        )
        self.pairing.on_result = lambda result: self.found.append(expected.frame(result))
        self.pairing.on_lost = expected.lost

    def image(self, index):
        self.pairing.take_image(self.message(index).header, None, "")

    def answer(self, index):
        self.pairing._take("class_map", self.message(index))
        self.pairing._take("latency", FrameLatency(header=self.message(index).header))

    def message(self, index):
        stamp = recorded.time_message(recorded.stamp_ns(index))
        return image_message(bytes(16 * 24), SIZE, "mono8", stamp=stamp)


@pytest.fixture
def bag(tmp_path):
    return recorded.write_bag(tmp_path / "drive", SIZE, 6, broken={2})


def test_what_the_listener_misses_is_taken_from_the_bag(bag):
    """It hears three of the images and no truth; the node answers five of six, one is broken."""
    with open_expected(SourceOptions(bag)) as expected:
        listener = Listener(expected)
        for index in (0, 3, 4):
            listener.image(index)
        for index in (0, 1, 3, 5):
            listener.answer(index)
        listener.pairing.give_up("the end")
        rest = list(expected.rest())
    assert all(isinstance(frame, Frame) for frame in listener.found)
    assert [frame.position[1] for frame in listener.found] == [0, 1, 3, 5]
    for frame, index in zip(listener.found, (0, 1, 3, 5)):
        np.testing.assert_array_equal(frame.truth_hw, recorded.truth_of(index, SIZE))
    assert not listener.pairing.unpaired_count
    broken, lost = rest
    assert isinstance(broken, Problem) and not isinstance(broken, Lost)
    assert "000002" in broken.name
    assert isinstance(lost, Lost) and lost.name.startswith("000004")
    assert "meanwhile the node counted" in lost.reason


def test_a_frame_that_is_played_again_counts_once(bag):
    with open_expected(SourceOptions(bag)) as expected:
        listener = Listener(expected)
        for index in (0, 1, 0, 1):
            listener.image(index)
            listener.answer(index)
        rest = list(expected.rest())
    assert [frame and frame.position[1] for frame in listener.found] == [0, 1, None, None]
    assert [item.name[:6] for item in rest if isinstance(item, Lost)] == [
        "000003", "000004", "000005",
    ]  # fmt: skip
    assert all("no result came" in item.reason for item in rest if isinstance(item, Lost))


def test_a_result_of_no_image_of_the_bag_is_unpaired(bag):
    with open_expected(SourceOptions(bag)) as expected:
        listener = Listener(expected)
        listener.answer(77)
        listener.pairing.give_up("the end")
    assert not listener.found and listener.pairing.unpaired == [recorded.stamp_ns(77)]


def test_a_topic_of_several_types_cannot_be_played_beside_the_images(tmp_path):
    """It has no type to be published with; a bag that merely holds it is played."""
    (tmp_path / "bag").mkdir()
    sent = drive(2)
    for index, type_ in enumerate(["sensor_msgs/msg/Imu", "sensor_msgs/msg/Image"]):
        other = ("/other", type_, sent[0][2], sent[0][3])
        path = tmp_path / "bag" / ("drive_%d.mcap" % index)
        write_mcap(path, [*sent[2 * index : 2 * index + 2], other])
    options = SourceOptions(
        str(tmp_path / "bag"), topics=BagOptions(IMAGE, labels="camvid11"), also=["all"]
    )
    with pytest.raises(BagError, match="/other has several types, sensor_msgs/msg/Imu and sens"):
        with open_played(options):
            pass
    with open_played(replace(options, also=[TRUTH])) as played:
        assert set(played.other_topics) == {TRUTH} and played.data.length == 2


@pytest.mark.parametrize(("also", "times"), [([], 1), ([TRUTH], 2)])
def test_a_bag_is_opened_again_only_for_what_is_played_beside_the_images(
    bag, also, times, monkeypatch
):
    opened, open_bag = [], bags.open_bag
    monkeypatch.setattr(bags, "open_bag", lambda *args: opened.append(args) or open_bag(*args))
    with open_played(SourceOptions(bag, also=also)) as played:
        frames = [item for item in played.items if isinstance(item, Frame)]
    assert len(frames) == 5 and len(opened) == times


def test_a_frame_whose_boxes_cannot_be_read_is_left_out_and_the_others_count():
    run = Run(CAMVID_11, None, {"model": "a foreign node"})
    image_hwc = np.zeros(SIZE + (3,), np.uint8)
    with LiveScorer(run, False, SimpleNamespace(close=int, update=int, total=3), {}) as scorer:
        for index, centre in enumerate((5.0, float("nan"), 6.0)):
            box = SimpleNamespace(
                results=[SimpleNamespace(hypothesis=SimpleNamespace(class_id="car", score=0.5))],
                bbox=SimpleNamespace(
                    center=SimpleNamespace(position=SimpleNamespace(x=centre, y=3.0)),
                    size_x=2.0,
                    size_y=2.0,
                ),
            )
            result = Result(index, index, class_map_hw=image_hwc[..., 0])
            result.detections = SimpleNamespace(detections=[box])
            scorer.take(result, Frame("frame %d" % index, image_hwc), {})
    assert [row["name"] for row in run.as_json()["per_frame"]] == ["frame 0", "frame 2"]
    (problem,) = run.skipped
    assert str(problem).startswith("frame 1: a box with the corners (nan, 2.0")
