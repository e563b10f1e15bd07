"""When a replay's next message is due."""

import time

import pytest

from segmentation_node.evaluation.live.replay import Pace


def test_a_rate_counts_from_the_first_image_though_none_was_recorded():
    pace = Pace(rate_hz=10.0, factor=0.0)
    start_s = pace.due_s(None)
    due_s = [pace.due_s(None) - start_s for _ in range(4)]
    time.sleep(0.2)
    assert due_s == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert pace.due_s(None) - start_s == pytest.approx(0.5)
