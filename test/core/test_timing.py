"""Stage times on a clock of our own, percentiles against NumPy's."""

import math

import numpy as np
import pytest

from segmentation_node.timing import RateLimit, RollingPercentiles, StageTimer


def clock(*times_s):
    return iter(times_s).__next__


def test_a_lap_lasts_from_the_one_before():
    timer = StageTimer(clock=clock(10.0, 10.25, 11.0))
    timer.lap("preprocess")
    timer.lap("inference")
    assert timer.stages_ms == {"preprocess": 250.0, "inference": 750.0}


def test_the_first_lap_begins_at_the_given_start():
    timer = StageTimer(start_s=9.5, clock=clock(10.0))
    timer.lap("queue")
    assert timer.stages_ms == {"queue": 500.0}


def test_laps_of_one_stage_add_up():
    timer = StageTimer(clock=clock(0.0, 1.0, 3.0, 7.0))
    for stage in ("publish", "convert", "publish"):
        timer.lap(stage)
    assert timer.stages_ms == {"publish": 5000.0, "convert": 2000.0}


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 300])
def test_percentiles_are_numpys_over_the_window(count):
    values = np.random.RandomState(count).gamma(2.0, 10.0, count)
    rolling = RollingPercentiles(window=20)
    for value in values:
        rolling.add(value)
    expected = np.percentile(values[-20:], [50, 95, 99])
    assert rolling.percentiles() == dict(zip((50, 95, 99), expected))


def test_what_is_not_measurable_is_left_out():
    rolling = RollingPercentiles()
    for value in (1.0, float("nan"), 3.0):
        rolling.add(value)
    assert rolling.percentiles((0, 50, 100)) == {0: 1.0, 50: 2.0, 100: 3.0}


def test_without_values_percentiles_are_nan():
    rolling = RollingPercentiles()
    rolling.add(math.nan)
    assert all(math.isnan(value) for value in rolling.percentiles().values())


def passed(times_s, max_rate_hz):
    limit = RateLimit()
    return [time_s for time_s in times_s if limit.allows(time_s, max_rate_hz)]


def test_a_rate_limit_lets_a_jittery_stream_of_its_own_rate_through():
    jitter_s = np.random.RandomState(0).uniform(-0.03, 0.03, 100)
    times_s = 100.0 + 0.2 * np.arange(100) + jitter_s
    assert len(passed(times_s, 5.0)) == 100


@pytest.mark.parametrize("camera_hz", [7.0, 10.0, 30.0, 200.0])
def test_a_rate_limit_holds_for_faster_streams(camera_hz):
    count = len(passed(np.arange(0.0, 20.0, 1.0 / camera_hz), 5.0))
    assert 90 <= count <= 101


def test_a_rate_limit_that_is_raised_holds_at_once():
    limit = RateLimit()
    assert limit.allows(100.0, 0.01) and not limit.allows(100.1, 0.01)
    found = [limit.allows(time_s, 5.0) for time_s in (100.2, 100.21, 100.4)]
    assert found == [True, False, True]


def test_a_rate_limit_saves_nothing_up():
    assert passed([0.0, 100.0, 100.01, 100.02, 100.03], 5.0) == [0.0, 100.0]
    assert passed([0.0, 0.1, 0.2], 0.0) == [0.0, 0.1, 0.2]
