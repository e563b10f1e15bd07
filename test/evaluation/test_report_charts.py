"""The parts of the page: markup that escapes, ticks, histograms, timelines."""

import numpy as np
import pytest

from segmentation_node.evaluation.report.charts import bins, histogram, ticks, timeline
from segmentation_node.evaluation.report.markup import element


def test_markup_escapes_all_but_markup():
    inner = element("b", "<&>", title='"<')
    assert element("p", inner, "<i>") == ('<p><b title="&quot;&lt;">&lt;&amp;&gt;</b>&lt;i&gt;</p>')


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 0.7, [0, 0.2, 0.4, 0.6]), (93, 108, [95, 100, 105])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_frames_are_counted_in_whole_numbers():
    assert ticks(0, 1, 8, whole=True) == [0, 1]
    assert ticks(0, 100, 8, whole=True) == [0, 20, 40, 60, 80, 100]


def test_a_histogram_holds_every_value_and_is_not_squeezed_by_one():
    values = np.append(np.linspace(10, 20, 999), 5000.0)
    edges, counts, outliers = bins(values)
    assert sum(counts) == 1000 and outliers == 1 and edges[-1] < 40
    edges, counts, outliers = bins(np.full(7, 3.0))
    assert sum(counts) == 7 and outliers == 0
    assert histogram(np.full(7, 3.0), "ms", "all the same").count("7 frames") == 1


def test_a_timeline_leaves_gaps_where_nothing_was_measured():
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    drawn = timeline(values, list("abcde"), "ms", "title")
    assert drawn.count("<polyline") == 2 and drawn.count("<circle") == 4
    assert "c: " not in drawn
