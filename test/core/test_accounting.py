"""Every frame has one fate, whoever counts it."""

import math
import threading

import numpy as np

from segmentation_node.accounting import (
    Accounts,
    Counts,
    FrameCounters,
    LatencyStatistics,
    RateMeter,
    SequenceGaps,
)
from segmentation_node.model_card import ConfidenceInfo
from segmentation_node.model_health import LEAST_LOOKS, Certainty


def test_counters_book_each_fate():
    counters = FrameCounters()
    for _ in range(10):
        counters.receive()
    counters.process()
    counters.process()
    for _ in range(4):
        counters.drop()
    counters.fail()
    counters.lose(7)
    counters.replace(5)
    counters.miss(2)
    assert counters.snapshot() == Counts(
        received=15, processed=2, dropped=9, failed=1, queued=3, lost=9, missed=7
    )
    counters.reset()
    assert counters.snapshot() == Counts()


def test_counters_add_up_under_threads():
    counters = FrameCounters()
    fates = [counters.process, counters.drop, counters.fail, lambda: None]
    looks = []

    def hammer():
        for number in range(2000):
            counters.receive()
            fates[number % 4]()
            if number % 100 == 0:
                looks.append(counters.snapshot())

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot() == Counts(16000, 4000, 4000, 4000, 4000, 0)
    for look in looks:
        assert look.received == look.processed + look.dropped + look.failed + look.queued
        assert look.queued >= 0


def test_latencies_are_kept_by_stage_within_the_window():
    statistics = LatencyStatistics(window=3)
    for value in (100.0, 1.0, 2.0, 6.0):
        statistics.add({"queue": value, "transport": float("nan")})
    found = statistics.percentiles()
    assert found["queue"] == {rank: np.percentile([1.0, 2.0, 6.0], rank) for rank in (50, 95, 99)}
    assert all(math.isnan(value) for value in found["transport"].values())
    statistics.clear()
    assert statistics.percentiles() == {}


def test_latencies_of_several_threads_all_arrive():
    statistics = LatencyStatistics(window=8000)

    def add(thread):
        for number in range(1000):
            statistics.add({"inference": float(thread * 1000 + number)})

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statistics.percentiles()["inference"][50] == 3999.5


def test_a_rate_is_frames_per_second_between_the_looks():
    meter = RateMeter(window=2)
    assert math.isnan(meter.rate_hz("processed"))
    meter.look(10.0, Counts(received=5, processed=4))
    assert math.isnan(meter.rate_hz("processed")) and meter.recent("processed") == 0
    meter.look(12.0, Counts(received=25, processed=14))
    assert meter.rate_hz("processed") == 5.0 and meter.rate_hz("received") == 10.0
    assert meter.recent("received") == 20


def test_a_rate_forgets_what_left_the_window():
    meter = RateMeter(window=2)
    for now_s, processed in ((0.0, 0), (1.0, 100), (2.0, 101), (3.0, 103)):
        meter.look(now_s, Counts(processed=processed))
    assert meter.rate_hz("processed") == 1.5
    assert meter.recent("processed") == 2
    meter.clear()
    assert math.isnan(meter.rate_hz("processed")) and meter.recent("processed") == 0


def test_two_looks_at_one_moment_give_no_rate():
    meter = RateMeter()
    meter.look(1.0, Counts())
    meter.look(1.0, Counts(processed=3))
    assert math.isnan(meter.rate_hz("processed"))


def missed(gaps, senders=("camera",)):
    """What is told of gaps that came before: at the second call."""
    return [gaps.settle(list(senders)) for _ in range(2)][1]


def come(gaps, *numbers):
    for number in numbers:
        gaps.come(number)


def test_gaps_in_the_numbers_are_missed_frames():
    gaps = SequenceGaps()
    assert not gaps.known
    gaps.settle(["camera"])
    come(gaps, 100, 101, 104, 105, 110)
    assert missed(gaps) == 6
    assert missed(gaps) == 0
    come(gaps, 111, 113)
    assert missed(gaps) == 1 and gaps.known


def test_what_the_middleware_reports_as_lost_is_not_missed_as_well():
    gaps = SequenceGaps()
    gaps.settle(["camera"])
    gaps.lose(2)
    come(gaps, 1, 6)
    assert missed(gaps) == 2
    come(gaps, 9)
    assert gaps.settle(["camera"]) == 0
    gaps.lose(2)  # said a little later than the gap was seen
    assert gaps.settle(["camera"]) == 0


def test_a_sender_that_starts_anew_leaves_no_gap():
    gaps = SequenceGaps()
    gaps.settle(["camera"])
    come(gaps, 500, 1, 2, 4)
    assert missed(gaps) == 1
    gaps.settle(["another camera"])
    come(gaps, 900, 902)
    assert missed(gaps, ["another camera"]) == 1


def test_a_number_that_none_can_have_reached_is_no_gap():
    gaps = SequenceGaps()
    gaps.settle(["one"])
    for number in (1, 2**64 - 2**32, 2, 3):
        gaps.come(number)
    assert [gaps.settle(["one"]) for _ in range(3)] == [0, 0, 0]


def test_numbers_of_several_senders_or_none_say_nothing():
    gaps = SequenceGaps()
    gaps.settle(["camera"])
    come(gaps, 1, 500, 2, 501)
    for _ in range(2):
        assert missed(gaps, ["camera", "another"]) == 0
        assert not gaps.known
        come(gaps, 3, 502, 4)
    gaps.settle(["camera"])
    come(gaps, None, None)
    assert missed(gaps) == 0 and not gaps.known


def test_what_was_seen_before_images_were_asked_for_anew_is_forgotten(monkeypatch):
    clock_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock_s[0])
    accounts = Accounts()
    accounts.begin()
    accounts.latencies.add({"inference": 1.0})
    accounts.model.expect(ConfidenceInfo(0.9, 0.01, 0.0))
    for now_s in range(LEAST_LOOKS):
        accounts.camera.look(np.zeros((48, 64, 3), np.uint8), float(now_s))
        accounts.model.look(Certainty(0.1, 0.0), float(now_s))
    assert "black" in accounts.camera.problem and "less sure" in accounts.model.problem
    clock_s[0] = 100.0
    accounts.begin()
    assert accounts.camera.problem == accounts.model.problem == ""
    assert accounts.latencies.percentiles() == {}
    clock_s[0] = 102.0
    accounts.counters.receive()
    accounts.look()
    assert accounts.rates.rate_hz("received") == 0.5
