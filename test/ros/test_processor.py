"""Frames of several cameras through one run: each is booked by its own camera, whatever fails."""

from types import SimpleNamespace

import pytest
from support import live

from segmentation_node.ros.processor import process_together
from segmentation_node.ros.worker import Frame
from segmentation_node.timing import StageTimer

assert live  # skips this file, loudly, where ROS is missing


class Books:
    """A camera's processor that writes down what happens to its frames."""

    def __init__(self, fails=False, needs_confidence=False, with_features=False):
        self.fails = fails
        self.needs_confidence = needs_confidence
        self.with_features = with_features
        self.events = []
        self.timer = StageTimer()

    def prepare(self, segmenter, frame, slot):
        if self.fails:
            self.events.append("failed early")
            return None
        return SimpleNamespace(
            timer=self.timer,
            needs_confidence=self.needs_confidence,
            with_features=self.with_features,
        )

    def finish(self, segmenter, work, prediction, slot):
        self.events.append((segmenter.name, prediction, slot))

    def fail(self, error):
        self.events.append(str(error))


def process(books, run):
    batch = SimpleNamespace(run=run)
    segmenters = [SimpleNamespace(name=number, batch=batch) for number in range(len(books))]
    process_together(
        books, segmenters, [Frame(None, 0.0, 0, number) for number in range(len(books))]
    )
    return [item.events for item in books]


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("needs", [False, True])
def test_frames_share_a_run_and_each_has_its_slot(needs, features):
    runs = []
    books = [Books(), Books(fails=True), Books(needs_confidence=needs, with_features=features)]
    found = process(books, lambda *given: runs.append(given) or "maps")
    assert found == [[(0, "maps", 0)], ["failed early"], [(2, "maps", 1)]]
    assert runs == [(needs, features)]
    assert {"queue", "inference"} == set(books[0].timer.stages_ms)


def test_a_run_that_fails_is_booked_for_each_frame():
    def run(with_confidence, with_features):
        raise RuntimeError("out of memory")

    assert process([Books(), Books()], run) == [["out of memory"]] * 2


def test_without_a_good_frame_nothing_runs():
    assert process([Books(fails=True)], None) == [["failed early"]]
