"""Temporal consistency against pixels counted by hand."""

import numpy as np
import pytest

from segmentation_node.evaluation.run.consistency import TemporalConsistency
from segmentation_node.labels import CAMVID_11

SKY, BUILDING, ROAD, VOID = 0, 1, 3, 255


def class_map(*rows):
    return np.array(rows, np.uint8)


FIRST = class_map([SKY, SKY, SKY, BUILDING], [ROAD, ROAD, ROAD, ROAD])
# One sky pixel becomes building, the building road, one road pixel unlabelled.
SECOND = class_map([SKY, SKY, BUILDING, ROAD], [ROAD, ROAD, ROAD, VOID])


@pytest.fixture
def counted():
    return TemporalConsistency(CAMVID_11)


def test_changed_pixels_are_counted_by_hand(counted):
    assert counted.add(FIRST, ("", 7)) is None
    change = counted.add(SECOND, ("", 8))
    assert change.share == 3 / 8.0
    np.testing.assert_array_equal(change.before_hw, FIRST)
    counted.add(SECOND, ("", 9))
    assert counted.as_json() == {
        "frame_pairs": 2,
        "pixels": 16,
        "changed_pixels": 3,
        "changed_share": 3 / 16.0,
        "consistency": 13 / 16.0,
        "class_pixels": {"sky": 5, "building": 2, "road": 8, "unlabelled": 1},
        "class_changed_pixels": {"sky": 1, "building": 1, "road": 1, "unlabelled": 0},
        # Of 3 + 2 sky pixels one left; of 1 + 1 of building one; of 4 + 4 of road one; the
        # unlabelled one stayed.
        "class_changed_share": {
            "sky": pytest.approx(1 / 5.0),
            "building": pytest.approx(1 / 2.0),
            "road": pytest.approx(1 / 8.0),
            "unlabelled": 0.0,
        },
    }


@pytest.mark.parametrize(
    "position",
    [None, ("", 7), ("", 6), ("", 9), ("other drive", 8)],
    ids=["no position", "same frame", "earlier frame", "a frame between is lost", "another drive"],
)
def test_frames_that_do_not_follow_each_other_are_not_compared(counted, position):
    counted.add(FIRST, ("", 7))
    assert counted.add(SECOND, position) is None
    assert counted.as_json()["changed_share"] is None
    assert counted.frame_pairs == 0


def test_counting_goes_on_after_a_lost_frame(counted):
    counted.add(FIRST, ("", 0))
    counted.add(SECOND, ("", 2))
    assert counted.add(FIRST, ("", 3)).share == 3 / 8.0
    assert (counted.frame_pairs, counted.pixels) == (1, 8)


def test_maps_of_different_sizes_are_not_compared(counted):
    counted.add(FIRST, ("", 0))
    assert counted.add(SECOND[:1], ("", 1)) is None
    assert counted.add(SECOND[:1], ("", 2)).share == 0.0


def test_nothing_counted_is_undefined(counted):
    result = counted.as_json()
    assert result["changed_share"] is None and result["consistency"] is None
    assert result["class_changed_share"] == {}
