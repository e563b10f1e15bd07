"""Boxes against pixel counts: overlap, suppression, and the connected areas of a class map."""

import numpy as np
import pytest

from segmentation_node.boxes import (
    Boxes,
    component_boxes,
    iou_matrix,
    make_boxes,
    non_maximum_suppression,
    things_of,
)

CAR, PERSON = 13, 11


def painted(box):
    mask = np.zeros((40, 40), bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


def flooded(mask_hw):
    """Connected areas by a flood of its own: lists of (y, x)."""
    todo, areas = {tuple(spot) for spot in np.argwhere(mask_hw)}, []
    while todo:
        area, edge = [], [todo.pop()]
        while edge:
            y, x = edge.pop()
            area.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            edge.extend(near)
        areas.append(area)
    return areas


def test_overlap_is_that_of_painted_pixels():
    random = np.random.RandomState(1)
    corners = random.randint(0, 20, (12, 2))
    boxes = np.hstack([corners, corners + random.randint(1, 20, (12, 2))])
    expected = [
        [(painted(a) & painted(b)).sum() / (painted(a) | painted(b)).sum() for b in boxes[5:]]
        for a in boxes[:5]
    ]
    assert iou_matrix(boxes[:5].astype(np.float32), boxes[5:]) == pytest.approx(np.array(expected))


def test_no_boxes_and_empty_ones_overlap_nothing():
    none, empty = np.zeros((0, 4), np.float32), np.array([[5, 5, 5, 9]], np.float32)
    assert iou_matrix(none, empty).shape == (0, 1)
    assert iou_matrix(empty, empty).tolist() == [[0.0]]
    assert len(non_maximum_suppression(make_boxes([], [], []), 0.5).scores) == 0


def test_suppression_keeps_the_best_of_each_class():
    boxes = Boxes(
        np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [30, 0, 40, 10]], np.float32),
        np.array([CAR, CAR, PERSON, CAR]),
        np.array([0.5, 0.9, 0.6, 0.1], np.float32),
    )
    kept = non_maximum_suppression(boxes, 0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.6, 0.1])
    assert kept.class_ids.tolist() == [CAR, PERSON, CAR]
    # The first two share 9 of 11 columns.
    assert len(non_maximum_suppression(boxes, 0.82).scores) == 4


def test_what_a_suppressed_box_overlaps_stays():
    boxes = make_boxes([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], [CAR] * 3, [0.9, 0.8, 0.7])
    assert non_maximum_suppression(boxes, 0.3).scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("with_confidence", [False, True])
def test_boxes_of_a_class_map_are_those_of_a_flood(with_confidence):
    random = np.random.RandomState(2)
    class_map = random.choice([0, CAR, PERSON], (30, 41), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    confidence = random.randint(0, 256, class_map.shape).astype(np.uint8)
    boxes = component_boxes(
        class_map, confidence if with_confidence else None, (PERSON, CAR), least_pixels=3
    )
    expected = []
    for class_id in (PERSON, CAR):
        for area in flooded(class_map == class_id):
            if len(area) >= 3:
                ys, xs = np.transpose(area)
                score = confidence[ys, xs].mean() / 255 if with_confidence else 1.0
                box = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                expected.append((class_id,) + tuple(map(int, box)) + (round(float(score), 5),))
    found = [
        (int(class_id),) + tuple(map(int, box)) + (round(float(score), 5),)
        for box, class_id, score in zip(*boxes)
    ]
    assert sorted(found) == sorted(expected) and len(found) > 10
    assert (np.diff(boxes.scores) <= 0).all()
    assert [values.dtype for values in boxes] == [np.float32, np.int64, np.float32]


def test_a_thing_has_a_ten_thousandth_of_the_map():
    class_map = np.zeros((150, 200), np.uint8)
    class_map[10, 20:22] = class_map[40, 60:63] = CAR
    assert things_of(class_map, None, (CAR,)).boxes_xyxy.tolist() == [[60, 40, 63, 41]]
    alone = np.full((1, 1), CAR, np.uint8)
    assert things_of(alone, None, (CAR,)).boxes_xyxy.tolist() == [[0, 0, 1, 1]]


def test_a_class_map_without_the_class_has_no_boxes():
    boxes = component_boxes(np.full((4, 5), 255, np.uint8), None, (CAR,), 1)
    assert [values.shape for values in boxes] == [(0, 4), (0,), (0,)]
