"""Fast R-CNN's way from the head's outputs to boxes, against values worked out by hand."""

import numpy as np
import pytest

from segmentation_node.fast_rcnn import (
    LEAST_SCORE,
    MOST_BOXES,
    decode_boxes,
    deltas_between,
    moved,
    pad_rois,
)

PERSON, CAR = 11, 13
SIZE = (100, 200)


def decoded(proposals, scores, deltas=None, size=SIZE):
    proposals = np.array(proposals, np.float32).reshape(-1, 4)
    scores = np.array(scores, np.float32)
    if deltas is None:
        deltas = np.zeros((len(scores), 8), np.float32)
    return decode_boxes(proposals, scores, np.array(deltas, np.float32), (PERSON, CAR), size)


def test_deltas_move_by_shares_of_the_size_and_scale_by_their_exponential():
    box = np.array([[10.0, 20.0, 30.0, 60.0]], np.float32)
    deltas = np.array([[0.5, -0.25, np.log(2.0), np.log(0.5)]], np.float32)
    np.testing.assert_allclose(moved(box, deltas), [[10.0, 20.0, 50.0, 40.0]], atol=1e-5)


def test_deltas_between_two_boxes_move_one_onto_the_other():
    rng = np.random.RandomState(0)
    corners = rng.uniform(0, 100, (2, 50, 2))
    boxes, targets = (
        np.concatenate((first, first + rng.uniform(10, 30, (50, 2))), axis=1).astype(np.float32)
        for first in corners
    )
    np.testing.assert_allclose(moved(boxes, deltas_between(boxes, targets)), targets, atol=1e-3)


def test_a_box_has_the_deltas_of_its_own_class_and_the_cards_class_id():
    deltas = [[9.0, 9.0, 9.0, 9.0, 0.1, 0.0, 0.0, 0.0]]
    boxes = decoded([[20, 20, 60, 40]], [[0.1, 0.01, 0.89]], deltas)
    assert boxes.class_ids.tolist() == [CAR]
    np.testing.assert_allclose(boxes.boxes_xyxy, [[24.0, 20.0, 64.0, 40.0]], atol=1e-5)
    assert boxes.scores.tolist() == pytest.approx([0.89])


def test_of_boxes_that_overlap_the_surest_of_a_class_stays():
    proposals = [[20, 20, 60, 40], [22, 20, 62, 40], [100, 20, 140, 40]]
    scores = [[0.1, 0.2, 0.7], [0.1, 0.0, 0.9], [0.5, 0.0, 0.5]]
    boxes = decoded(proposals, scores)
    found = list(zip(boxes.class_ids.tolist(), boxes.boxes_xyxy[:, 0].tolist()))
    assert found == [(CAR, 22.0), (CAR, 100.0), (PERSON, 20.0)]
    assert boxes.scores.tolist() == sorted(boxes.scores.tolist(), reverse=True)


def test_boxes_are_cut_at_the_image_and_none_is_empty():
    proposals = [[150, 20, 190, 60], [0, 0, 40, 20]]
    deltas = np.zeros((2, 8))
    deltas[0, 4] = 0.5
    deltas[1, 4] = -3.0
    boxes = decoded(proposals, [[0, 0, 1.0], [0, 0, 1.0]], deltas)
    assert boxes.boxes_xyxy.tolist() == [[170.0, 20.0, 200.0, 60.0]]


def test_rows_beyond_the_proposals_and_unlikely_boxes_count_for_nothing():
    unlikely = [1.0, 0.0, LEAST_SCORE / 2]
    boxes = decoded([[0, 0, 20, 20], [50, 0, 70, 20]], [[0, 0, 0.9], unlikely, [0, 0, 1.0]])
    assert boxes.boxes_xyxy.tolist() == [[0.0, 0.0, 20.0, 20.0]]
    assert not len(decoded([], [[0, 0, 1.0]]).scores)


def test_deltas_beyond_reason_give_boxes_all_the_same():
    boxes = decoded([[50, 20, 90, 60]], [[0, 0, 1.0]], [[0] * 6 + [80.0, 80.0]])
    assert np.isfinite(boxes.boxes_xyxy).all()


def test_there_are_no_more_boxes_than_the_limit():
    count = MOST_BOXES + 20
    left = np.arange(count) * 4.0
    proposals = np.stack([left, left * 0, left + 3.0, left * 0 + 9.0], axis=1)
    boxes = decoded(proposals, [[0, 0, 0.9]] * count, size=(10, 4 * count))
    assert len(boxes.scores) == MOST_BOXES


def test_proposals_are_padded_with_empty_boxes():
    rois = pad_rois(np.ones((2, 4), np.float32), 5)
    assert rois.dtype == np.float32 and rois.shape == (5, 4)
    assert rois[:2].all() and not rois[2:].any()
