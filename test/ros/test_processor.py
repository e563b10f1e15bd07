"""Frames of several cameras through one run: each is booked by its own camera, whatever fails."""

from types import SimpleNamespace

import numpy as np
import pytest
from support import live

from segmentation_node.accounting import Accounts
from segmentation_node.errors import ImageError
from segmentation_node.ros.outputs import encode_jpeg, encode_png
from segmentation_node.ros.processor import FrameInWork, FrameProcessor, process_together
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


def test_a_frame_is_out_before_anybody_looks_at_its_health():
    events, image = [], np.zeros((2, 3, 3), np.uint8)

    def note(event, result=None):
        return lambda *_: events.append(event) or result

    kept = SimpleNamespace(resize=lambda size: np.zeros(size, np.uint8))
    outputs = SimpleNamespace(
        class_map=SimpleNamespace(kept=kept, publish=note("published")),
        confidence=None,
        latency=SimpleNamespace(get_subscription_count=lambda: 0),
    )
    segmenter = SimpleNamespace(
        output_size=lambda size: size,
        finish=lambda *given: (image[..., 0], None),
        certainty=note("looked at the model"),
    )
    accounts = Accounts()
    accounts.model = SimpleNamespace(look=lambda *_: None)
    accounts.camera = SimpleNamespace(look=note("looked at the camera"))
    clock = SimpleNamespace(
        now=note("took the time", SimpleNamespace(nanoseconds=7 * 10**9)), ros_time_is_active=False
    )
    processor = FrameProcessor(None, outputs, None, accounts, clock, None)
    message = SimpleNamespace(header=live.Header(stamp=live.Time(sec=6)))
    work = FrameInWork(
        Frame(message, 0.0, 7 * 10**9), StageTimer(), image, *[False] * 5, 0.0, to_look_at=True
    )
    assert processor.finish(segmenter, work, None, 0) is not None
    looks = ["looked at the model", "looked at the camera"]
    assert events == ["published", "took the time", *looks]
    assert accounts.latencies.percentiles()["end_to_end"][50] == pytest.approx(1000.0)
    assert accounts.counters.snapshot().processed == 1


@pytest.mark.parametrize(
    ("published_s", "end_to_end_ms"),
    [(7.25, 1250.0), (6.875, float("nan")), (2.0, float("nan"))],
    ids=["on", "back", "far back"],
)
def test_a_clock_that_goes_back_while_a_frame_is_in_work_gives_no_end_to_end(
    published_s, end_to_end_ms
):
    times_ms, _ = times_and_problem(published_s, is_simulated=False)
    assert times_ms["transport"] == pytest.approx(1000.0)
    assert times_ms["end_to_end"] == pytest.approx(end_to_end_ms, nan_ok=True)


def times_and_problem(published_s, is_simulated, stamp_s=6.0):
    """Of a frame that came at 7 s of a clock."""
    clock = SimpleNamespace(
        now=lambda: SimpleNamespace(nanoseconds=int(published_s * 1e9)),
        ros_time_is_active=is_simulated,
    )
    processor = FrameProcessor(None, None, None, Accounts(), clock, None)
    stamp = live.Time(sec=int(stamp_s), nanosec=int(stamp_s % 1 * 1e9))
    message = SimpleNamespace(header=live.Header(stamp=stamp))
    times_ms = processor._times_ms(Frame(message, 0.0, 7 * 10**9), StageTimer())
    return times_ms, processor.stamp_problem


@pytest.mark.parametrize(
    ("is_simulated", "stamp_s", "problem"),
    [
        (True, 7.0625, ""),
        (True, 7.125, "the images' stamps lie 0.125 s in the future"),
        (False, 7.0625, "the images' stamps lie 0.062 s in the future"),
    ],
)
def test_an_image_may_be_ahead_of_a_clock_that_comes_in_steps(is_simulated, stamp_s, problem):
    times_ms, found = times_and_problem(7.25, is_simulated, stamp_s)
    assert np.isnan([times_ms["transport"], times_ms["end_to_end"]]).all()
    assert found == problem


@pytest.mark.parametrize("topic", ["class map", "overlay"])
def test_an_image_that_no_file_format_takes_is_one_line(topic):
    """OpenCV's JPEG ends at 65,500 columns, its PNG at 1,000,000."""
    encode, pixels = {
        "class map": (encode_png, np.zeros((1, 1000001), np.uint8)),
        "overlay": (encode_jpeg, np.zeros((1, 70000, 3), np.uint8)),
    }[topic]
    with pytest.raises(ImageError, match="pixels; listen to the topic without /compressed"):
        encode(pixels)


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
