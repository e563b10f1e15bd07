"""Proposals: what a box head looks at has to hold the things, whatever their areas look like."""

import numpy as np
import pytest

from segmentation_node.boxes import iou_matrix
from segmentation_node.proposals import propose

ROAD, PERSON, CAR = 0, 11, 13
CLASSES = (PERSON, CAR)
SHAPES = ((0.3, 0.5), (1.2, 1.8))


def scene(*things, size=(90, 160)):
    """A class map of filled boxes: (class, left, top, right, bottom)."""
    class_map = np.full(size, ROAD, np.uint8)
    for class_id, left, top, right, bottom in things:
        class_map[top:bottom, left:right] = class_id
    return class_map


def proposed(class_map, count=128):
    return propose(class_map, CLASSES, SHAPES, count)


def best_overlaps(class_map, boxes, count=128):
    return iou_matrix(np.array(boxes, np.float32), proposed(class_map, count)).max(axis=1)


def test_a_thing_by_itself_is_proposed_as_it_is():
    class_map = scene((CAR, 20, 40, 60, 70), (PERSON, 100, 30, 110, 60))
    found = proposed(class_map)
    assert found.dtype == np.float32
    assert found[:2].tolist() == [[20.0, 40.0, 60.0, 70.0], [100.0, 30.0, 110.0, 60.0]]


@pytest.mark.parametrize(
    "cars",
    [
        [(20, 40, 60, 70), (60, 40, 100, 70)],
        [(20, 40, 60, 70), (60, 45, 90, 66), (90, 48, 112, 64)],
        [(10, 30, 70, 75), (70, 50, 90, 64)],
        # One behind the other: its right half shows.
        [(20, 40, 62, 70), (62, 36, 88, 62)],
    ],
)
def test_cars_that_touch_are_proposed_one_by_one(cars):
    class_map = scene(*((CAR, *car) for car in cars))
    assert best_overlaps(class_map, cars).min() >= 0.7
    union = np.array(cars)
    whole = [*union[:, :2].min(axis=0), *union[:, 2:].max(axis=0)]
    assert best_overlaps(class_map, [whole])[0] == 1.0


def test_a_thing_behind_a_pole_is_proposed_in_one_piece():
    class_map = scene((CAR, 20, 40, 70, 70), (5, 42, 10, 47, 90))
    assert best_overlaps(class_map, [(20, 40, 70, 70)])[0] == 1.0


def test_there_are_no_more_than_asked_for_and_the_likeliest_come_first():
    rng = np.random.RandomState(0)
    things = [(CAR, x, y, x + 30, y + 12) for x, y in rng.randint(0, (130, 78), (20, 2)).tolist()]
    class_map = scene(*things)
    many = proposed(class_map, 64)
    assert len(many) == 64
    np.testing.assert_array_equal(proposed(class_map, 16), many[:16])
    np.testing.assert_array_equal(proposed(class_map.copy(), 64), many)


def test_boxes_are_in_the_image_and_differ():
    class_map = scene((CAR, 0, 60, 160, 90), (PERSON, 150, 0, 160, 50))
    found = proposed(class_map)
    assert (found >= 0).all() and (found <= [160, 90, 160, 90]).all()
    assert (found[:, 2:] > found[:, :2]).all()
    overlaps = iou_matrix(found, found)
    np.fill_diagonal(overlaps, 0.0)
    assert overlaps.max() <= 0.85 + 1e-6


@pytest.mark.parametrize(
    "class_map",
    [
        scene(),
        scene((CAR, 3, 3, 6, 6)),
        np.full((90, 160), 255, np.uint8),
        np.full((1, 1), CAR, np.uint8),
    ],
)
def test_where_nothing_is_nothing_is_proposed(class_map):
    assert proposed(class_map).shape == (0, 4)
