"""The parts of the page: markup that escapes, ticks, histograms, timelines."""

import re

import numpy as np
import pytest

from segmentation_node.evaluation.report.charts import bins, histogram, reliability, ticks, timeline
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


def test_a_reliability_bar_is_as_high_as_its_share_is_right():
    """Against the diagonal: a bin that is as right as it is sure touches it in its middle."""
    found = {"above": 0.4, "up_to": 0.6, "pixels_share": 1.0, "mean_confidence": 0.5}
    empty = {"above": 0.6, "up_to": 0.8, "pixels_share": 0.0, "mean_confidence": None}
    bins = [dict(found, right_share=0.5), dict(empty, right_share=None)]
    drawn = reliability(bins)
    assert drawn.count("<rect") == 1
    rect, line = (attributes(drawn, tag) for tag in ("rect", "line"))
    assert rect["height"] == pytest.approx((line["y1"] - line["y2"]) / 2, abs=0.02)
    assert rect["y"] == pytest.approx((line["y1"] + line["y2"]) / 2, abs=0.02)
    assert rect["x"] + rect["width"] / 2 == pytest.approx((line["x1"] + line["x2"]) / 2, abs=0.02)


def attributes(drawn, tag):
    """The numbers of the last element of a kind."""
    text = drawn[drawn.rindex("<%s " % tag) :]
    found = re.findall(r' ([a-z0-9]+)="([-\d.]+)"', text[: text.index(">")])
    return {key: float(value) for key, value in found}
