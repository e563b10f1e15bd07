"""The model's health against a card: what is said, when, and when nothing is."""

import numpy as np
import pytest

from segmentation_node.model_card import ConfidenceInfo
from segmentation_node.model_health import (
    FRAMES_APART,
    LEAST_LOOKS,
    LOOKS_KEPT,
    Certainty,
    ModelHealth,
    certainty,
)

CARD = ConfidenceInfo(mean=0.8, deviation=0.02, unlabelled_share=0.05)


def health_after(means, expected=CARD, unlabelled=0.05):
    health = ModelHealth()
    health.expect(expected)
    for number, mean in enumerate(means):
        health.look(Certainty(mean, unlabelled), 100.0 + number)
    return health


def test_certainty_is_the_mean_of_what_counts():
    confidence = np.full((90, 130), 51, np.uint8)
    confidence[:, 65:] = 255
    ids = np.zeros((90, 130), np.uint8)
    ids[:45] = 255
    found = certainty(ids, confidence)
    assert found.mean == pytest.approx(0.6, abs=0.02)
    assert found.unlabelled_share == pytest.approx(0.5, abs=0.02)
    ignored = np.zeros_like(ids)
    ignored[:, 65:] = 255
    assert certainty(ids, confidence, ignored).mean == pytest.approx(0.2)
    assert certainty(ids, confidence, np.full_like(ids, 255)) is None


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64), (65, 63), (1080, 1920)])
def test_any_size_is_sampled(size):
    maps = np.full(size, 255, np.uint8)
    assert certainty(maps, maps) == Certainty(1.0, 1.0)


@pytest.mark.parametrize("mean", [0.745, 0.8, 0.855])
def test_within_three_deviations_nothing_is_said(mean):
    health = health_after([mean] * 9)
    assert health.problem == "" and health.mean == pytest.approx(mean)


@pytest.mark.parametrize(("mean", "said"), [(0.7, "less sure"), (0.9, "more sure")])
def test_beyond_them_it_is_said_in_one_line_with_both_figures(mean, said):
    problem = health_after([mean] * 9).problem
    assert problem.startswith("model: %s than on its validation data" % said)
    assert "%.3f in the last 8 s, 0.800 (deviation 0.020)" % mean in problem
    assert "\n" not in problem


def test_a_few_frames_say_nothing_and_what_passes_is_forgotten():
    assert health_after([0.1] * (LEAST_LOOKS - 1)).problem == ""
    assert health_after([0.1] * LEAST_LOOKS).problem
    assert health_after([0.1] * 20 + [0.8] * LOOKS_KEPT).problem == ""


def test_a_tiny_deviation_is_not_taken_for_exactness():
    expected = ConfidenceInfo(0.8, 0.0, 0.0)
    assert health_after([0.78] * 9, expected, 0.0).problem == ""
    assert health_after([0.76] * 9, expected, 0.0).problem


def test_more_pixels_without_a_class_are_said():
    assert health_after([0.8] * 9, unlabelled=0.14).problem == ""
    problem = health_after([0.8] * 9, unlabelled=0.3).problem
    assert "gave no class to 30 % of the pixels in the last 8 s, to 5 % on" in problem


def test_of_a_card_without_the_key_nothing_is_asked_or_said():
    health = ModelHealth()
    health.expect(None)
    assert not any(health.wants(float(second), True) for second in range(100))
    assert health_after([0.1] * 9, expected=None).problem == ""


def test_another_model_starts_anew():
    health = health_after([0.1] * 9)
    health.expect(ConfidenceInfo(0.1, 0.02, 0.05))
    assert health.problem == "" and health.mean != health.mean


def test_frames_whose_confidence_is_for_this_alone_are_far_apart():
    health = ModelHealth()
    health.expect(CARD)
    wanted = [number for number in range(200) if health.wants(number * 0.1, False)]
    assert wanted == list(range(0, 200, FRAMES_APART))


def test_where_it_is_computed_anyway_two_frames_a_second_are_looked_at():
    health = ModelHealth()
    health.expect(CARD)
    assert sum(health.wants(number * 0.02, True) for number in range(500)) == pytest.approx(
        20, abs=1
    )


def test_a_slow_camera_is_looked_at_no_more_often():
    health = ModelHealth()
    health.expect(CARD)
    assert sum(health.wants(number * 10.0, False) for number in range(100)) == 4
