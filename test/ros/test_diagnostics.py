"""What /diagnostics says: the judgement on its own, then every reason on a live graph."""

import itertools
import os
import time

import numpy as np
import pytest
from support.live import (
    BEST_EFFORT,
    LEVELS,
    RELIABLE,
    Image,
    LiveNode,
    Time,
    image_message,
    values_of,
)

from segmentation_node.accounting import Counts
from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.ros.camera import InputAge
from segmentation_node.ros.diagnostics import (
    LATENCIES,
    Limits,
    Observation,
    diagnostic_status,
    figures,
    judge,
    summary,
)
from segmentation_node.timing import PERCENTILES

LIMITS = Limits(max_latency_ms=0.0, deadline_ms=0.0, min_rate_hz=0.0, input_timeout_s=2.0)
RUNNING = {
    "state": "active",
    "demanded": True,
    "topic": "/image",
    "publishers": 1,
    "counts": Counts(received=9, processed=9),
    "output_rate_hz": 10.0,
    "p95_ms": 50.0,
}
EVERY = {"frame_policy": "every", "counts": Counts(received=16, processed=9, queued=7)}

MISFIT = "/image carries sensor_msgs/msg/CompressedImage, which input.transport raw does not read"

JUDGEMENTS = [
    ({}, {}, "OK", "running"),
    ({"error": "no such model folder"}, {}, "ERROR", "no such model folder"),
    ({"state": "inactive"}, {}, "OK", "inactive"),
    ({"demanded": False, "publishers": 0}, {}, "OK", "idle, no subscriber"),
    ({"publishers": 0}, {}, "WARN", "no publisher on /image"),
    ({"incompatible": 1}, {}, "ERROR", "QoS incompatible"),
    ({"incompatible": 1, "publishers": 2}, {}, "WARN", "1 of the 2 publishers of /image offer"),
    ({"incompatible": 1, "publishers": 2, "recent_failed": 3}, {}, "WARN", "3 frames failed"),
    ({"misfit": "sensor_msgs/msg/CompressedImage", "publishers": 0}, {}, "ERROR", MISFIT),
    ({"paused": True}, {}, "OK", "paused: simulated time stands still"),
    ({"paused": True, "counts": Counts(received=1, queued=1)}, {}, "OK", "running"),
    ({"paused": True, "stamp_problem": "the images' stamps are old"}, {}, "OK", "paused"),
    ({"paused": True, "camera_problem": "camera: black"}, {}, "WARN", "camera: black"),
    ({"clock_waits": True}, {}, "WARN", "use_sim_time is set but nothing is on /clock"),
    ({"counts": Counts()}, {}, "OK", "waiting for input on /image"),
    ({"counts": Counts(), "input_age_s": 2.1}, {}, "WARN", "waiting for input"),
    ({"input_age_s": 2.1}, {}, "STALE", "no image on /image for 2.1 s"),
    ({"input_age_s": 2.1}, {"input_timeout_s": 3.0}, "OK", "running"),
    ({"input_age_s": 9.0, "counts": Counts(received=1, queued=1)}, {}, "OK", "running"),
    ({"recent_failed": 2, "last_failure": "step is 3"}, {}, "WARN", "2 frames failed, last: step"),
    ({"camera_problem": "camera: black"}, {"max_latency_ms": 49.0}, "WARN", "camera: black"),
    ({"model_problem": "model: less sure"}, {"max_latency_ms": 49.0}, "WARN", "model: less sure"),
    ({}, {"max_latency_ms": 49.0}, "WARN", "slow: p95 is 50.0 ms"),
    ({}, {"max_latency_ms": 51.0}, "OK", "running"),
    ({"p95_ms": float("nan")}, {"max_latency_ms": 1.0}, "OK", "running"),
    ({}, {"deadline_ms": 49.0}, "WARN", "deadline missed: p95 is 50.0 ms, deadline_ms is 49"),
    ({}, {"deadline_ms": 51.0}, "OK", "running"),
    ({}, {"min_rate_hz": 11.0}, "WARN", "slow: 10.00 Hz come out"),
    ({"output_rate_hz": float("nan")}, {"min_rate_hz": 11.0}, "OK", "running"),
    ({"recent_lost": 3}, {}, "WARN", "the middleware lost 3 frames"),
    ({"recent_dropped": 4}, {}, "WARN", "dropping: 4 frames were replaced"),
    (EVERY, {}, "OK", "running"),
    (dict(EVERY, recent_dropped=4), {}, "WARN", "4 frames came while 512 MiB of images waited"),
    (dict(EVERY, backlog_s=3.2), {}, "WARN", "behind: 7 frames wait, the oldest for 3.2 s"),
    ({"backlog_s": 3.2}, {}, "OK", "running"),
    ({"namesakes": 1, "state": "inactive"}, {}, "WARN", "1 other nodes have this node's name"),
    ({"namesakes": 1, "error": "no such model"}, {}, "ERROR", "no such model"),
    ({"stamp_problem": "the images' stamps are zero"}, {}, "WARN", "stamps are zero"),
]


@pytest.mark.parametrize(("change", "limits", "level", "reason"), JUDGEMENTS)
def test_judgement(change, limits, level, reason):
    observation = Observation(**dict(RUNNING, **change))
    found, message = judge(observation, Limits(**dict(vars(LIMITS), **limits)))
    assert (LEVELS[found], reason in message) == (level, True), message
    assert "\n" not in message


def test_figures_are_not_available_rather_than_zero():
    nothing = dict(figures(Counts(), None, {"input": float("nan")}, {}))
    assert nothing["input_rate_hz"] == "n/a" and nothing["received"] == "0"
    assert nothing["missed"] == "n/a"
    for name, rank in itertools.product(LATENCIES, PERCENTILES):
        assert nothing["%s_ms_p%d" % (name, rank)] == "n/a"
    some = dict(figures(Counts(processed=3), 5, {"input": 2.5}, {"queue": {50: 1.0, 95: 2.0}}))
    assert some["input_rate_hz"] == "2.500" and some["processed"] == "3"
    assert some["missed"] == "5"
    assert some["queue_ms_p95"] == "2.000" and some["queue_ms_p99"] == "n/a"


class FakeClock:
    def __init__(self, nanoseconds, ros_time_is_active):
        self.nanoseconds = nanoseconds
        self.ros_time_is_active = ros_time_is_active

    def now(self):
        return self


@pytest.mark.parametrize(
    ("since_ns", "now_ns", "then_ns"),
    [
        (10, 30, 10),
        (10**18, 5 * 10**9, 5 * 10**9),  # /clock jumped back, or use_sim_time was set
        (0, 7 * 10**9, 7 * 10**9),  # /clock began
        (0, 0, 0),
    ],
)
def test_the_age_of_the_input_follows_a_clock_that_jumps(since_ns, now_ns, then_ns):
    clock = FakeClock(since_ns, ros_time_is_active=True)
    age = InputAge(clock)
    clock.nanoseconds = now_ns
    assert age.seconds() == (now_ns - then_ns) * 1e-9
    clock.nanoseconds = now_ns + 3 * 10**9
    expected_s = (now_ns - then_ns) * 1e-9 + (3.0 if now_ns else 0.0)
    assert age.seconds() == pytest.approx(expected_s)


@pytest.mark.parametrize("now_ns", [0, 5, 10**18], ids=["back", "on", "far ahead"])
def test_the_age_of_the_input_is_none_of_a_system_clock_that_is_set(now_ns):
    """A machine without a battery for its clock learns the time from the network."""
    clock = FakeClock(5, ros_time_is_active=False)
    age = InputAge(clock)
    clock.nanoseconds = now_ns
    time.sleep(0.01)
    assert 0.01 <= age.seconds() < 5.0


def test_status():
    status = diagnostic_status("n: s", "cpu", (b"\x01", "slow"), [("key", "value")])
    assert (status.name, status.hardware_id) == ("n: s", "cpu")
    assert (status.level, status.message, values_of(status)) == (b"\x01", "slow", {"key": "value"})


def test_the_worst_camera_speaks_for_the_node():
    ok, idle = (b"\x00", "running"), (b"\x00", "idle, no subscriber")
    assert summary({"front": ok, "left": idle}) == (b"\x00", "1 of 2 cameras running")
    found = summary({"right": (b"\x01", "slow"), "front": ok, "left": (b"\x03", "stale")})
    assert found == (b"\x03", "left: stale; right: slow")
    found = summary({"left": (b"\x03", "stale"), "rear": (b"\x02", "no model")})
    assert found == (b"\x02", "rear: no model; left: stale")


@pytest.fixture(scope="module")
def node(peer, tiny_folder, tmp_path_factory):
    parameters = {"model": tiny_folder, "num_threads": 1, "diagnostics.input_timeout_s": 3.0}
    with LiveNode(peer, parameters, tmp_path_factory.mktemp("log")) as found:
        yield found.active()


def picture(peer, **fields):
    """A good image stamped now, of noise."""
    fields.setdefault("stamp", peer.node.get_clock().now().to_msg())
    return image_message(os.urandom(48 * 64 * 3), (48, 64), "rgb8", **fields)


def thermal_picture():
    """14 bits in mono16, in the part of the range where a thermal core's values lie."""
    values = np.random.default_rng().integers(7000, 8021, (48, 64), np.uint16)
    return image_message(values.astype("<u2").tobytes(), (48, 64), "mono16")


def sending(node, camera, make):
    """A look at the diagnostics that sends an image each time."""

    def status(level, *fragments):
        timer = node.peer.node.create_timer(0.1, lambda: camera.publish(make()))
        try:
            return node.status(level, *fragments)
        finally:
            node.peer.node.destroy_timer(timer)

    return status


@pytest.mark.ros
def test_input_reasons_in_turn(node, peer):
    idle = node.status("OK", "idle, no subscriber")
    assert values_of(idle)["input_rate_hz"] == values_of(idle)["processing_ms_p95"] == "n/a"
    with node.listen(Image, "/class_map"):
        node.status("WARN", "no publisher on " + node.image_topic)
        camera = node.camera()
        node.status("OK", "waiting for input on " + node.image_topic)
        waiting = node.status("WARN", "waiting for input on " + node.image_topic)
        assert "config/fastdds_large_images.xml" in waiting.message
        running = sending(node, camera, lambda: picture(peer))("OK", "running")
        assert float(values_of(running)["processing_ms_p95"]) > 0.0
        sending(node, camera, lambda: picture(peer))("OK", "running")
        node.status("STALE", "no image on " + node.image_topic)
        node.status("STALE", "no image on " + node.image_topic)
        said = [line for line in node.log.splitlines() if "[WARN]" in line]
        waiting, stale = [line for line in said if node.image_topic in line]  # each once
        assert "waiting for input" in waiting and "stale: no image on" in stale
    again = node.status("OK", "idle, no subscriber")
    assert values_of(again)["output_rate_hz"] == values_of(again)["processing_ms_p50"] == "n/a"
    peer.node.destroy_publisher(camera)


@pytest.mark.ros
def test_work_reasons(node, peer):
    with node.listen(Image, "/class_map"):
        camera = node.camera()
        assert node.set("diagnostics.max_latency_ms", 0.001).successful
        sending(node, camera, lambda: picture(peer))("WARN", "slow: p95 is")
        assert node.set("diagnostics.max_latency_ms", 0.0).successful
        assert node.set("diagnostics.min_rate_hz", 5000.0).successful
        sending(node, camera, lambda: picture(peer))("WARN", "slow:", "Hz come out")
        assert node.set("diagnostics.min_rate_hz", 0.0).successful
        bad = sending(node, camera, lambda: picture(peer, step=5))
        bad("WARN", "frames failed, last: step is 5")
        sending(node, camera, lambda: picture(peer))("OK", "running")
        zero = sending(node, camera, lambda: picture(peer, stamp=Time(sec=0, nanosec=0)))
        zero("WARN", "no transport latency: the images' stamps are zero")
        sending(node, camera, lambda: picture(peer, stamp=Time(sec=2**31 - 1)))(
            "WARN", "in the future"
        )
        sending(node, camera, lambda: picture(peer, stamp=Time(sec=7)))("WARN", "s old")
    peer.node.destroy_publisher(camera)


@pytest.mark.ros
def test_a_camera_that_gives_nothing_useful_is_named_until_it_does(node, peer):
    with node.listen(Image, "/class_map"):
        camera = node.camera()
        sending(node, camera, thermal_picture)(
            "WARN", "camera: 100 % of the pixels lie within 2 %", "scale them to the whole range"
        )
        sending(node, camera, lambda: picture(peer))("OK", "running")
    peer.node.destroy_publisher(camera)


@pytest.mark.ros
def test_a_reliability_that_publishers_lack_is_named(peer, tiny_folder, tmp_path):
    parameters = {"model": tiny_folder, "num_threads": 1, "input.reliability": "reliable"}
    with LiveNode(peer, parameters, tmp_path) as node, node.listen(Image, "/class_map"):
        node.publisher(qos=BEST_EFFORT)
        node.status("ERROR", "QoS incompatible", "set it to auto or best_effort")


def reliabilities(peer, node):
    found = peer.node.get_subscriptions_info_by_topic(node.image_topic)
    return [item.qos_profile.reliability for item in found]


@pytest.mark.ros
def test_auto_reliability_follows_the_publishers(node, peer):
    with node.listen(Image, "/class_map") as maps:
        for qos in (BEST_EFFORT, RELIABLE, BEST_EFFORT):
            camera = node.camera(qos=qos)
            seen = len(maps.messages)

            def arrives(camera=camera, seen=seen):
                camera.publish(picture(peer))
                peer.spin_for(0.1)
                return len(maps.messages) > seen

            node.until(arrives, "a class map from a camera with %s" % qos.reliability)
            # A reliable camera is heard before the node has seen that it is one.
            node.until(
                lambda qos=qos: reliabilities(peer, node) == [qos.reliability],
                "a subscription with %s" % qos.reliability,
            )
            peer.node.destroy_publisher(camera)
        # A best-effort camera that joins a reliable one is followed too.
        node.camera(qos=RELIABLE)
        node.publisher(qos=BEST_EFFORT)

        def best_effort():
            found = peer.node.get_subscriptions_info_by_topic(node.image_topic)
            return [i.qos_profile.reliability for i in found] == [BEST_EFFORT.reliability]

        node.until(best_effort, "a subscription that takes both cameras")


@pytest.mark.ros
def test_two_nodes_of_one_name_are_named(peer, node, tiny_folder, tmp_path):
    with open(tmp_path / "log", "wb") as log:
        parameters = {"model": tiny_folder, "autostart": False}
        other = NodeProcess(parameters, ["__node:=" + node.name[1:]], log)
        try:
            node.status("WARN", "1 other nodes have this node's name", "names of their own")
        finally:
            other.stop()
    node.status("OK", "idle, no subscriber")
