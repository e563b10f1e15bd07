"""A box head's steps on images that show nothing of its classes."""

import math

import numpy as np
import pytest
import torch

from segmentation_node.networks.box_head import BoxHead
from training.box_samples import Sample, targets_of
from training.boxes import frame_losses, train_head

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(boxes, proposals):
    return Sample(
        {8: torch.rand(1, 4, 6, 8).half(), 16: torch.rand(1, 4, 3, 4).half()},
        np.zeros((48, 64), np.uint8),
        [1],
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(boxes), np.int64),
        np.zeros(len(boxes), bool),
        np.zeros(len(boxes), bool),
        np.array(proposals, np.float32).reshape(-1, 4),
    )


def test_an_image_that_shows_nothing_of_the_classes_costs_nothing():
    torch.manual_seed(0)
    head = BoxHead(1, {8: 4, 16: 4}, width=4, hidden=8)
    empty, full = sample([], []), sample([[8, 8, 24, 40]], [[0, 0, 20, 20], [9, 8, 24, 40]])
    assert frame_losses(head, empty, np.random.default_rng(0)).tolist() == [0.0, 0.0]
    losses = list(train_head(head, [empty, empty, full], epochs=2))
    assert all(math.isfinite(value) for pair in losses for value in pair)
    assert all(parameter.isfinite().all() for parameter in head.parameters())


def test_a_region_in_an_area_of_many_is_no_background():
    """It may be one of the many; a thing beside them, and what lies elsewhere, count as ever."""
    thing, area, elsewhere = [40, 8, 60, 40], [0, 0, 40, 48], [44, 42, 64, 48]
    crowded = sample([thing, area], [[4, 4, 14, 24], [41, 8, 60, 40], elsewhere, [30, 42, 64, 48]])
    crowded.ignored[1] = crowded.areas[1] = True
    found = targets_of(crowded, np.random.default_rng(0))
    background = found.rois_xyxy[found.labels == 0].tolist()
    assert sorted(box for box in background if box[1] == 42) == [[30, 42, 64, 48], elsewhere]
    assert all(box[0] >= 30 for box in background)
    assert [41, 8, 60, 40] in found.rois_xyxy[found.labels == 1].tolist()
