"""The player and its pairing on a live graph: stamps that repeat, frames that fail, strangers."""

import contextlib
import time
from dataclasses import replace

import numpy as np
import pytest
from support import linear_model, recorded
from support.live import Image, LiveNode, image_message

from segmentation_node.errors import ReplayError
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.target import RunningNode

pytestmark = pytest.mark.ros

SIZE = (48, 64)


@pytest.fixture(scope="module")
def node(peer, tiny_folder, tmp_path_factory):
    parameters = {"model": tiny_folder, "frame_policy": "every", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path_factory.mktemp("log")) as found:
        yield found.active()


@contextlib.contextmanager
def replaying(node, **options):
    # Where the node takes its images is for the replay to find.
    replay = Replay(node.name, "", with_overlay=False, name=node.name[1:] + "_replay", **options)
    try:
        replay.wait_until_ready(node.process)
        yield replay
    finally:
        replay.destroy_node()


def played(index, stamp_ns=None, message=None):
    stamp_ns = recorded.stamp_ns(index) if stamp_ns is None else stamp_ns
    message = message or recorded.image_bytes(index, SIZE, stamp_ns)
    image = linear_model.blocks(SIZE, index)
    return Frame(str(index), image, stamp_ns=stamp_ns, message=message, recorded_ns=stamp_ns)


def assert_right(results, indices):
    assert [result.payload.name for result in results] == [str(index) for index in indices]
    for result in results:
        expected = linear_model.classify(linear_model.blocks(SIZE, int(result.payload.name)))
        assert np.array_equal(result.class_map_hw, expected) and result.headers_match


@pytest.mark.parametrize("stamp_ns", [0, recorded.FIRST_NS], ids=["zero", "the same"])
def test_images_of_one_stamp_are_never_mistaken_for_each_other(node, stamp_ns):
    with replaying(node) as replay:
        replay.play([played(index, stamp_ns) for index in range(8)], node.process, in_flight=4)
        assert_right(replay.pairing.results, range(8))
        assert (replay.repeated_stamps, replay.pairing.unpaired_count) == (7, 0)


def test_an_image_that_fails_in_the_node_is_lost_at_once_and_the_reason_known(node):
    items = [played(index) for index in range(6)]
    items[3] = played(3, message=recorded.broken_image_bytes(3, SIZE))
    # Longer than the whole test may take: the loss is seen by what came after it.
    with replaying(node, quiet_s=600.0) as replay:
        replay.play(items, node.process, in_flight=3)
        assert_right(replay.pairing.results, [0, 1, 2, 4, 5])
        ((result, reason),) = replay.pairing.lost
        assert result.payload.name == "3" and " received, 0 dropped, 1 failed, 0 lost" in reason
        assert result.stamp_ns == recorded.stamp_ns(3) and not replay.in_flight


def test_an_image_is_read_once_there_is_room_for_it(node):
    with replaying(node) as replay:
        on_their_way = []

        def read(index):
            on_their_way.append(replay.in_flight)
            return played(index)

        replay.play(map(read, range(4)), node.process, in_flight=1)
        assert_right(replay.pairing.results, range(4))
        assert on_their_way == [0] * 4


def test_after_a_silence_no_later_image_of_that_stamp_is_sent(node):
    broken = played(0, message=recorded.broken_image_bytes(0, SIZE))
    with replaying(node, quiet_s=2.0) as replay:
        replay.play([broken, played(5, broken.stamp_ns), played(6)], node.process, in_flight=1)
        assert_right(replay.pairing.results, [6])
        reasons = [reason for _, reason in replay.pairing.lost]
        assert reasons[0] == "no result within 2 s" and reasons[1].startswith("not sent: ")


def test_results_of_another_camera_are_unpaired(node):
    with replaying(node) as replay:
        stranger = node.publisher(Image)
        node.until(stranger.get_subscription_count, "the node at the other camera")
        image = linear_model.blocks(SIZE, 9)
        stranger.publish(image_message(image.tobytes(), SIZE, "rgb8"))
        node.until(lambda: replay.spin_for(0.1) or replay.pairing.unpaired_count, "its result")
        replay.play([played(1)], node.process)
        assert_right(replay.pairing.results, [1])
        assert replay.pairing.unpaired_count == 2  # class map and latency


def test_a_node_that_leaves_ends_the_replay(peer, tiny_folder, tmp_path):
    with LiveNode(peer, {"model": tiny_folder}, tmp_path) as node:
        node.active()
        with replaying(node) as replay:
            running = RunningNode(replay, node.name)
            running.check()
            node.process.stop()
            with pytest.raises(ReplayError, match="nothing publishes /seg_.*class_map any more"):
                replay.play([played(0)], running)


def test_a_node_on_simulated_time_lives_in_recorded_time(peer, tiny_folder, tmp_path):
    items = [
        replace(item, recorded_ns=item.stamp_ns + 250_000_000) for item in map(played, range(10))
    ]
    parameters = {"model": tiny_folder, "frame_policy": "every", "use_sim_time": True}
    with LiveNode(peer, parameters, tmp_path) as node:
        node.active()
        with replaying(node, with_clock=True) as replay:
            start_s = time.monotonic()
            replay.play(items, node.process, factor=0.5)
            # Ten frames at 20 Hz take 0.45 s from first to last, twice that at half the rate.
            assert time.monotonic() - start_s > 0.9
            assert_right(replay.pairing.results, range(10))
            # 250 ms, but clock and images come on two threads: on a busy machine one is ahead of
            # the other by some frames. (The wall clock would be years away.)
            delays_ms = [result.latency.transport_ms for result in replay.pairing.results]
            assert all(-1000.0 < delay_ms < 1000.0 for delay_ms in delays_ms), delays_ms
            assert max(delays_ms) > 150.0, delays_ms


def test_a_clock_that_nobody_hears_is_told(node):
    replay = Replay(node.name, "", with_overlay=False, name="unheard", with_clock=True)
    with pytest.raises(ReplayError, match="nobody listens to /clock; start /seg_"):
        replay.wait_until_ready(node.process, timeout_s=3.0)
    replay.destroy_node()
