"""A node on simulated time: its latencies, its reports, and stamps that give none."""

import itertools
import math
import time

import pytest
from support import linear_model
from support.live import (
    Clock,
    FrameLatency,
    LiveNode,
    Time,
    image_message,
)

pytestmark = pytest.mark.ros

TINY = (48, 64)
SEEDS = itertools.count()


@pytest.fixture
def log_path(tmp_path):
    return tmp_path


def picture():
    """Pixels that no other image has: a camera that stands still is warned of."""
    return linear_model.blocks(TINY, next(SEEDS)).tobytes()


def time_message(time_s):
    return Time(sec=int(time_s), nanosec=int(round(time_s % 1 * 1e9)))


@pytest.fixture
def sim_node(peer, tiny_folder, log_path):
    parameters = {"model": tiny_folder, "num_threads": 1, "use_sim_time": True}
    with LiveNode(peer, parameters, log_path) as found:
        yield found.active()


def test_times_follow_the_simulated_clock(sim_node, peer):
    node = sim_node
    with node.listen(FrameLatency, "/latency") as latencies:
        camera = node.camera()
        node.status("WARN", "use_sim_time is set but nothing is on /clock")
        clock = node.publisher(Clock, 10, "/clock")

        def latency_at(clock_s, stamp_s):
            """One frame's latency, the clock standing at ``clock_s``."""
            image = image_message(picture(), TINY, "rgb8", stamp=time_message(stamp_s))
            del latencies.messages[:]

            def answered():
                clock.publish(Clock(clock=time_message(clock_s)))
                peer.spin_for(0.1)
                camera.publish(image)
                peer.spin_for(0.1)
                found = [item for item in latencies.messages if item.header == image.header]
                return found[3:]  # by then the clock has arrived

            return node.until(answered, "a latency")[-1]

        good = latency_at(100.0, 99.75)
        assert good.transport_ms == pytest.approx(250.0)
        assert good.end_to_end_ms == pytest.approx(250.0)
        assert 0.0 < good.processing_ms < 60e3
        for stamp_s, reason in ((0.0, "are zero"), (101.0, "in the future"), (39.0, "61 s old")):
            bad = latency_at(100.0, stamp_s)
            assert math.isnan(bad.transport_ms) and math.isnan(bad.end_to_end_ms)
            assert bad.inference_ms > 0.0
            timer = peer.node.create_timer(0.1, lambda: latency_shot(camera, stamp_s))  # noqa: B023
            node.status("WARN", "no transport latency", reason)
            peer.node.destroy_timer(timer)
        ahead = latency_at(100.0, 100.02)  # of the clock's next step
        assert math.isnan(ahead.transport_ms) and math.isnan(ahead.end_to_end_ms)
        timer = peer.node.create_timer(0.1, lambda: latency_shot(camera, 100.02))
        node.status("OK", "running")
        peer.node.destroy_timer(timer)
        assert_reports_at_1_hz(node)  # the clock stands still
        node.status("OK", "paused: simulated time stands still")
        assert latency_at(100.5, 100.25).transport_ms == pytest.approx(250.0)


def latency_shot(camera, stamp_s):
    stamp = time_message(stamp_s)
    camera.publish(image_message(picture(), TINY, "rgb8", stamp=stamp))


def assert_reports_at_1_hz(node):
    seen, start_s = len(node.statuses), time.monotonic()
    node.until(lambda: len(node.statuses) >= seen + 4, "reports")
    assert 2.5 < time.monotonic() - start_s < 6.0
