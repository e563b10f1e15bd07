"""Rate, jitter and percentiles against values computed by hand."""

import numpy as np
import pytest

from segmentation_node.evaluation.run.timeline import FrameTable, pace, percentiles

NAN = float("nan")


def test_a_steady_rate_has_no_jitter():
    found = pace(np.arange(11) * 0.1)
    assert found["rate_hz"] == pytest.approx(10.0)
    assert found["interval_ms"] == pytest.approx({"p50": 100.0, "p95": 100.0, "p99": 100.0})
    assert found["jitter_ms"] == pytest.approx(
        {"std": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0}, abs=1e-9
    )


def test_jitter_by_hand():
    # Intervals of 10, 30 and 20 ms; steps between them of 20 and 10 ms.
    found = pace(np.array([1.0, 1.010, 1.040, 1.060]))
    assert found["rate_hz"] == pytest.approx(3 / 0.060)
    assert found["interval_ms"]["p50"] == pytest.approx(20.0)
    assert found["jitter_ms"]["std"] == pytest.approx(np.sqrt((100 + 100 + 0) / 3.0))
    assert found["jitter_ms"]["p50"] == pytest.approx(15.0)
    assert found["jitter_ms"]["p95"] == pytest.approx(10 + 0.95 * 10)


@pytest.mark.parametrize("results", [0, 1])
def test_too_few_results_have_no_pace(results):
    found = pace(np.zeros(results))
    assert found["rate_hz"] is None
    assert found["interval_ms"] == {"p50": None, "p95": None, "p99": None}
    assert found["jitter_ms"] == {"std": None, "p50": None, "p95": None, "p99": None}


def test_one_interval_has_a_rate_but_no_step():
    found = pace(np.array([0.0, 0.5]))
    assert found["rate_hz"] == pytest.approx(2.0)
    assert found["jitter_ms"]["std"] == 0.0 and found["jitter_ms"]["p95"] is None


def test_percentiles_leave_out_what_was_not_measured():
    values = np.append(np.arange(101.0), [NAN, NAN])
    assert percentiles(values) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles(np.array([NAN])) == {"p50": None, "p95": None, "p99": None}


def test_a_table_fills_figures_that_some_frames_lack():
    table = FrameTable()
    table.add("a", 5, {"x": 1.0})
    table.add("b", None, {"y": 2.0})
    table.add("c", 7, {"x": 3.0, "y": 4.0})
    np.testing.assert_array_equal(table.column("x"), [1.0, NAN, 3.0])
    np.testing.assert_array_equal(table.column("y"), [NAN, 2.0, 4.0])
    assert np.isnan(table.column("never")).tolist() == [True] * 3
    rows = table.rows()
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert [row["stamp_ns"] for row in rows] == [5, None, 7]
    assert rows[1:] == [
        {"name": "b", "stamp_ns": None, "x": None, "y": 2.0},
        {"name": "c", "stamp_ns": 7, "x": 3.0, "y": 4.0},
    ]
