"""The ladder of a model's sizes, on made-up latencies of frames that come at a steady rate."""

from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny

from segmentation_node.deadline import Ladder, rungs_of
from segmentation_node.model_card import AccuracyInfo, ArtifactInfo

DEADLINE_MS, RATE_HZ = 100.0, 10.0
# Of the rungs on an idle machine; a hog makes everything three times as slow.
TIMES_MS = (60.0, 30.0, 15.0)


class Clock:
    """Plays frames into a ladder: each has the time of its rung, times the load."""

    def __init__(self, times_ms=TIMES_MS, deadline_ms=DEADLINE_MS, rate_hz=RATE_HZ):
        self.times_ms, self.rate_hz, self.now_s = times_ms, rate_hz, 1000.0
        self.ladder = Ladder(deadline_ms, ["size %d" % index for index in range(len(times_ms))])
        self.lines, self.rungs, self.stepped_s = [], [], []

    def play(self, seconds, load=1.0, hiccups=()):
        """``hiccups`` are numbers of frames that take ten times as long."""
        for number in range(int(round(seconds * self.rate_hz))):
            self.now_s += 1.0 / self.rate_hz
            took_ms = self.times_ms[self.ladder.rung] * load * (10.0 if number in hiccups else 1.0)
            self.rungs.append(self.ladder.rung)
            line = self.ladder.look([took_ms], self.now_s, self.now_s + took_ms * 1e-3)
            self.lines += [line] * bool(line)
            self.stepped_s += [self.now_s] * bool(line)
        return self

    def steps(self):
        return self.ladder.rung, self.ladder.steps_down, self.ladder.steps_up


def test_on_an_idle_machine_the_best_runs():
    assert Clock().play(600).steps() == (0, 0, 0)


@pytest.mark.parametrize("frames_before", [0, 3, 30, 1000])
def test_it_steps_down_within_ten_frames_of_missing_the_deadline(frames_before):
    clock = Clock().play(frames_before / RATE_HZ).play(1.0, load=3.0)
    assert clock.steps() == (1, 1, 0) and clock.ladder.missed <= 10
    (line,) = clock.lines
    assert line == "deadline: down to rung 2 of 3, size 1; p95 was 180.0 ms, deadline_ms is 100"


def test_each_further_step_takes_ten_frames_at_most_too():
    assert Clock().play(2.0, load=5.0).steps() == (2, 2, 0)


def test_it_goes_no_further_than_the_last():
    clock = Clock().play(60.0, load=50.0)
    assert clock.steps() == (2, 2, 0) and clock.ladder.missed == 600


def test_few_hiccups_are_no_reason():
    clock = Clock().play(60.0, hiccups=range(0, 600, 25))  # 4 %
    assert clock.steps() == (0, 0, 0) and clock.ladder.missed == 24


def test_more_than_one_frame_in_twenty_is():
    assert Clock().play(60.0, hiccups=range(0, 600, 12)).ladder.steps_down > 0  # 8 %


def test_it_comes_back_up_slowly_once_the_load_is_gone():
    clock = Clock().play(60.0, load=6.0)
    assert clock.steps()[0] == 2
    clock.play(9.0)
    assert clock.steps()[0] == 2
    clock.play(8.0)
    assert clock.steps()[0] == 1
    clock.play(52.0)
    rung, down, up = clock.steps()
    assert rung == 0 and up == down == 2
    assert clock.lines[-1].startswith("deadline: up to rung 1 of 3, size 0; p95 was 30.0 ms")
    assert clock.stepped_s[-1] - clock.stepped_s[-2] >= 10.0  # each rung is tried for that long


def test_where_frames_are_rare_it_looks_at_twenty_before_it_climbs():
    clock = Clock(rate_hz=0.5).play(8.0, load=3.0)
    assert clock.steps() == (1, 1, 0)
    clock.play(30.0)
    assert clock.steps() == (1, 1, 0)
    clock.play(30.0)
    assert clock.steps() == (0, 1, 1)


def test_climbs_that_failed_are_forgotten_once_one_holds():
    clock = Clock(times_ms=(60.0, 20.0)).play(120.0, load=2.0)
    assert clock.ladder.steps_up > 2  # and each time it waited twice as long
    clock.play(300.0).play(1.0, load=2.0)
    assert clock.ladder.rung == 1
    assert clock.play(12.0).ladder.rung == 0


def test_it_does_not_oscillate_where_the_best_is_too_slow():
    clock = Clock(times_ms=(120.0, 30.0)).play(3600.0)
    # A try in a minute, each with the few frames that it takes to see that it fails.
    assert 50 <= clock.ladder.steps_up <= 70
    waits_s = np.diff(clock.stepped_s)[::2]  # from each step down to the climb after it
    assert waits_s[:5] == pytest.approx([10, 20, 40, 60, 60], abs=0.2)
    assert clock.ladder.missed <= 0.01 * 36000
    assert clock.rungs.count(1) >= 0.98 * 36000


def test_it_does_not_climb_where_too_little_is_left():
    assert Clock(times_ms=(110.0, 90.0)).play(3600.0).steps() == (1, 1, 0)


def test_a_deadline_that_the_smaller_size_misses_now_and_then_is_no_calm():
    clock = Clock(times_ms=(300.0, 30.0)).play(20.0, hiccups=range(0, 200, 12))
    assert clock.steps() == (1, 1, 0)


def test_frames_that_came_before_a_step_say_nothing_of_the_new_rung():
    clock = Clock()
    clock.play(1.0)
    for number in range(4):
        assert clock.steps() == (0, 0, 0)
        clock.ladder.look([200.0], clock.now_s, clock.now_s + 0.2 * number)
    stepped_s = clock.now_s + 0.6
    # Under frame policy every a pile of them waits, and each has waited long.
    for _ in range(5):
        clock.ladder.look([200.0], stepped_s - 0.1, stepped_s + 0.1)
    for _ in range(4):
        assert clock.steps() == (1, 1, 0)
        clock.ladder.look([200.0], stepped_s - 0.1, stepped_s + 0.1)
    assert clock.steps() == (2, 2, 0) and clock.ladder.missed == 13


def test_the_frames_of_a_run_are_looked_at_together_and_counted_apart():
    ladder = Ladder(DEADLINE_MS, ["one", "two"])
    for second in range(3):
        assert not ladder.look([150.0] * 6, float(second), second + 0.15)
    assert ladder.look([150.0, 20.0], 3.0, 3.15)
    assert not ladder.look([], 4.0, 4.0)  # all of them failed
    assert (ladder.rung, ladder.missed) == (1, 19)


def test_one_size_is_counted_on():
    clock = Clock(times_ms=(120.0,)).play(10.0)
    assert clock.steps() == (0, 0, 0) and clock.ladder.missed == 100


def test_what_is_shown():
    clock = Clock().play(1.0, load=3.0)
    assert dict(clock.ladder.facts()) == {
        "deadline_ms": "100",
        "rung": "2 of 3: size 1",
        "rungs": "size 0, size 1, size 2",
        "steps_down": "1",
        "steps_up": "0",
        "deadline_missed": "4",
    }


# Which rungs there are


SIZES = ((6, 8), (3, 4), (12, 16))


def card_with(figures, kind="onnx"):
    """The tiny card in three sizes; ``figures``: mean IoU by size, data set, artifact."""
    graphs = [ArtifactInfo("%d.onnx" % h, kind, "0" * 64, "", h, w) for h, w in SIZES[1:]]
    accuracy = [
        AccuracyInfo(data, "val", 9, score, 0.9, artifact, height=height, width=width)
        for (height, width), data, artifact, score in figures
    ]
    card = tiny.card()
    return replace(card, accuracy=accuracy, artifacts=card.artifacts + graphs)


def found(card, kind="onnx", precision="fp32"):
    return [(rung.card.input_size, rung.mean_iou) for rung in rungs_of(card, kind, precision)]


def test_without_figures_they_go_by_size():
    by_size = [((12, 16), None), ((6, 8), None), ((3, 4), None)]
    assert found(card_with([])) == by_size
    assert rungs_of(card_with([]), "onnx", "fp32")[0].text == "12x16"
    # Figures that not all have, or of different data, compare nothing.
    some = [(SIZES[0], "camvid", "onnx", 0.6), (SIZES[1], "camvid", "onnx", 0.7)]
    assert found(card_with(some)) == by_size
    assert found(card_with(some + [(SIZES[2], "street", "onnx", 0.9)])) == by_size


def test_with_figures_they_go_by_mean_iou_and_what_is_no_better_for_its_size_is_left_out():
    figures = [(SIZES[0], "camvid", "onnx", 0.6), (SIZES[1], "camvid", "onnx", 0.5)]
    larger = figures + [(SIZES[2], "camvid", "onnx", 0.7)]
    assert found(card_with(larger)) == [((12, 16), 0.7), ((6, 8), 0.6), ((3, 4), 0.5)]
    # Trained at 6x8, a network may do worse on larger pictures.
    worse = figures + [(SIZES[2], "camvid", "onnx", 0.55)]
    assert found(card_with(worse)) == [((6, 8), 0.6), ((3, 4), 0.5)]
    equal = figures + [(SIZES[2], "camvid", "onnx", 0.6)]
    assert found(card_with(equal)) == [((6, 8), 0.6), ((3, 4), 0.5)]
    assert rungs_of(card_with(worse), "onnx", "fp32")[1].text == "3x4 (mean IoU 0.500)"


def test_weights_have_every_size_and_their_graphs_figures():
    figures = [(size, "camvid", "onnx", size[0] / 20) for size in SIZES]
    assert found(card_with(figures), "weights", "bf16") == found(card_with(figures))


def test_a_kind_has_its_own_sizes_and_figures():
    assert found(card_with([]), "onnx_int8", "int8") == [((6, 8), None)]
    # Of a kind that there is none of loading says so.
    assert found(card_with([]), "onnx_fp16", "fp16") == [((6, 8), None)]
    figures = [(size, "camvid", "onnx_int8", size[0] / 20) for size in SIZES]
    card = card_with(figures, kind="onnx_int8")
    assert [score for _, score in found(card, "onnx_int8", "int8")] == [0.6, 0.3, 0.15]
    assert found(card, "onnx") == [((6, 8), None)]
