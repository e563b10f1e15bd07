"""Scores against confusion matrices counted by hand."""

import math

import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node.evaluation.run import confusion as metrics
from segmentation_node.evaluation.run.confusion import ConfusionMatrix, joint_histogram

VOID = 255


def labels(*rows):
    return np.array(rows, np.uint8)


@pytest.fixture
def matrix():
    """Three classes; class 2 neither occurs nor is predicted."""
    matrix = ConfusionMatrix(3)
    matrix.add(
        labels([0, 0, 0, 0, VOID], [1, 1, 1, 1, VOID]),
        labels([0, 0, 1, VOID, 0], [1, 1, 1, 0, VOID]),
    )
    return matrix


def test_counts_leave_void_out_and_book_unlabelled_predictions_apart(matrix):
    assert matrix.counts.tolist() == [[2, 1, 0, 1], [1, 3, 0, 0], [0, 0, 0, 0]]


def test_iou_counts_an_unlabelled_prediction_as_a_miss(matrix):
    np.testing.assert_array_equal(matrix.class_iou(), [2 / 5, 3 / 5, np.nan])
    assert matrix.mean_iou() == pytest.approx(0.5)


def test_accuracy_is_recall(matrix):
    np.testing.assert_array_equal(matrix.class_accuracy(), [2 / 4, 3 / 4, np.nan])
    assert matrix.mean_accuracy() == pytest.approx(5 / 8)
    assert matrix.global_accuracy() == pytest.approx(5 / 8)


def test_a_class_that_is_only_predicted_has_iou_zero_but_no_accuracy():
    matrix = ConfusionMatrix(2)
    matrix.add(labels([0, 0]), labels([0, 1]))
    assert matrix.class_iou().tolist() == [0.5, 0.0]
    assert matrix.class_accuracy()[0] == 0.5 and math.isnan(matrix.class_accuracy()[1])


def test_images_add_up(matrix):
    matrix.add(labels([2, 2]), labels([2, 0]))
    assert matrix.counts.tolist() == [[2, 1, 0, 1], [1, 3, 0, 0], [1, 0, 1, 0]]


def test_without_labelled_pixels_everything_is_undefined():
    matrix = ConfusionMatrix(2)
    matrix.add(labels([VOID, VOID]), labels([0, 1]))
    for value in (matrix.mean_iou(), matrix.mean_accuracy(), matrix.global_accuracy()):
        assert math.isnan(value)


def test_ids_that_are_no_class_are_refused():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError) as caught:
        matrix.add(labels([0, 3]), labels([0, 0]))
    assert_one_line(caught, "truth", "id 3", "0-2 or 255")
    assert not matrix.counts.any()


@pytest.mark.parametrize("wrong", [3, 4, 254])
def test_predicted_ids_that_are_no_class_are_refused(wrong):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError) as caught:
        matrix.add(labels([0, 1]), labels([0, wrong]))
    assert_one_line(caught, "prediction", "id %d" % wrong, "0-2 or 255")
    assert not matrix.counts.any()


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError) as caught:
        ConfusionMatrix(3).add(labels([0, 1]), labels([0], [1]))
    assert_one_line(caught, "(1, 2)", "(2, 1)")


def test_grouping_equals_counting_the_groups(matrix):
    lut = np.array([1, 0, 1], np.uint8)
    grouped = matrix.grouped(lut, 2)
    assert grouped.counts.tolist() == [[3, 1, 0], [1, 2, 1]]
    assert grouped.class_iou().tolist() == [3 / 5, 2 / 5]
    assert matrix.counts[0, 0] == 2, "the matrix itself stays as it was"


def test_frequency_weighted_iou_by_hand(matrix):
    # Both classes have 4 labelled pixels; IoU 2/5 and 3/5.
    assert matrix.frequency_weighted_iou() == pytest.approx(0.5 * 2 / 5 + 0.5 * 3 / 5)
    matrix.add(labels([2] * 8), labels([2] * 6 + [0] * 2))
    # Of 16 pixels 4, 4 and 8; IoU 2/7, 3/5 and 6/8.
    expected = (4 * 2 / 7 + 4 * 3 / 5 + 8 * 6 / 8) / 16
    assert matrix.frequency_weighted_iou() == pytest.approx(expected)


def test_a_class_that_is_only_predicted_has_no_weight():
    matrix = ConfusionMatrix(3)
    matrix.add(labels([0, 0]), labels([0, 1]))
    assert matrix.frequency_weighted_iou() == 0.5


@pytest.mark.parametrize("part_pixels", [1 << 24, 7])
def test_pairs_are_counted_as_numpy_counts_them(monkeypatch, part_pixels):
    """Also in parts, as images are counted that one histogram could not count exactly."""
    monkeypatch.setattr(metrics, "_EXACT_PIXELS", part_pixels)
    random = np.random.RandomState(1)
    # Every other row and column: a view that is not contiguous.
    first, second = random.randint(0, 256, (2, 60, 50)).astype(np.uint8)[:, ::2, ::2]
    expected = np.zeros((256, 256), int)
    np.add.at(expected, (first, second), 1)
    np.testing.assert_array_equal(joint_histogram(first, second), expected)


def test_labels_of_another_type_are_refused():
    with pytest.raises(ValueError) as caught:
        ConfusionMatrix(3).add(labels([0, 1]).astype(np.int64), labels([0, 1]))
    assert_one_line(caught, "int64", "uint8")
