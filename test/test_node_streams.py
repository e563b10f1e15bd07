"""Camera -> node -> listener on a live graph, each in its own process."""

import contextlib
import itertools
import math
import time

import cv2
import linear_model
import numpy as np
import pytest
from live import (
    BEST_EFFORT,
    Clock,
    CompressedImage,
    FrameLatency,
    Image,
    LiveNode,
    Time,
    compressed_message,
    image_message,
    values_of,
)

from segmentation_node.labels import CAMVID_11
from segmentation_node.ros.pairing import pixels
from segmentation_node.ros.replay import Replay

pytestmark = pytest.mark.ros

NETWORK = (360, 640)
TINY = (48, 64)
COUNTS = ("processed", "dropped", "failed", "queued")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return linear_model.write_model(tmp_path_factory.mktemp("model") / "linear", NETWORK)


@pytest.fixture(scope="module")
def log_path(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@contextlib.contextmanager
def replaying(node, **options):
    replay = Replay(node.name, node.image_topic, name=node.name[1:] + "_replay", **options)
    try:
        replay.wait_until_ready(node.process)
        yield replay
    finally:
        replay.destroy_node()


def adds_up(latency):
    return latency.received == sum(getattr(latency, name) for name in COUNTS)


@pytest.fixture(scope="module")
def every_node(peer, model, log_path):
    parameters = {"model": model, "backend": "onnxruntime", "frame_policy": "every"}
    parameters["num_threads"] = 1
    with LiveNode(peer, parameters, log_path) as found:
        yield found.active()


def play_all(node, size, frames, **options):
    images = [linear_model.blocks(size, seed) for seed in range(frames)]
    with replaying(node) as replay:
        replay.play(images, node.process, **options)
        assert [len(replay.results), replay.missing()] == [frames, []]
        return images, replay.results


@pytest.mark.parametrize("size", [(360, 640), (720, 1280)], ids=["640x360", "1280x720"])
def test_every_frame_arrives_right(every_node, size):
    images, results = play_all(every_node, size, 12)
    for index, (image, result) in enumerate(zip(images, results, strict=True)):
        assert result.index == index and result.headers_match and len(result.headers) == 3
        assert result.frame_id == "camera"
        expected = linear_model.classify(image)
        assert np.array_equal(result.class_map_hw, expected)
        colors = CAMVID_11.palette()[expected]
        difference = result.overlay_hwc - (image.astype(float) + colors) / 2
        assert np.abs(difference).max() <= 0.5
        assert adds_up(result.latency) and result.latency.dropped == 0
        assert result.latency.backend == "onnxruntime"
        assert_times(result.latency)


def assert_times(latency):
    stages = ("queue", "convert", "preprocess", "inference", "postprocess", "publish")
    times = [getattr(latency, stage + "_ms") for stage in stages]
    assert min(times) >= 0.0 and latency.inference_ms > 0.0
    assert latency.processing_ms == pytest.approx(sum(times), abs=1.0)
    assert 0.0 < latency.transport_ms <= latency.end_to_end_ms < 60e3


def test_every_frame_arrives_when_the_camera_does_not_wait(every_node):
    _, results = play_all(every_node, (360, 640), 40, in_flight=0)
    assert [result.index for result in results] == list(range(40))
    assert all(adds_up(result.latency) for result in results)
    assert {result.latency.dropped for result in results} == {0}


def test_latest_stays_fresh_when_the_camera_is_faster(peer, tmp_path, log_path):
    model = linear_model.write_model(tmp_path / "slow", NETWORK, channels=48)
    parameters = {"model": model, "num_threads": 1}
    period_s, duration_s = 0.03, 6.0
    image = linear_model.blocks(NETWORK)
    with LiveNode(peer, parameters, log_path) as node:
        with replaying(node, with_overlay=False) as replay:
            end_s = time.monotonic() + duration_s
            for due_s in itertools.takewhile(
                lambda due_s: due_s < end_s, itertools.count(time.monotonic(), period_s)
            ):
                replay.send(image)
                replay.spin_for(max(0.0, due_s + period_s - time.monotonic()))
            replay.spin_for(1.0)
            latencies = [result.latency for result in replay.results]
            assert replay.sent > 1.2 * len(latencies), "the camera was not faster"
            status = node.status("OK", "")
    ages_ms = [item.end_to_end_ms for item in latencies]
    work_ms = [item.processing_ms - item.queue_ms for item in latencies]
    frame_ms = np.percentile(work_ms, 95) + period_s * 1e3
    assert len(latencies) >= 5
    # The slack is for a busy machine; a queue would grow by seconds.
    assert np.percentile(ages_ms, 90) < 2 * frame_ms + 100.0
    assert all(adds_up(item) for item in latencies)
    assert latencies[-1].dropped > 0 and latencies[-1].failed == 0
    counts = {name: int(values_of(status)[name]) for name in ("received",) + COUNTS}
    assert counts["received"] == sum(counts[name] for name in COUNTS)
    assert counts["queued"] == 0


def test_one_remap_moves_the_compressed_topics_too(peer, tiny_folder, log_path):
    parameters = {"model": tiny_folder, "input.transport": "compressed", "num_threads": 1}
    with LiveNode(peer, parameters, log_path, ["~/overlay:=/foo/overlay"]) as node:
        maps = node.listen(Image, "/class_map")
        packed = node.listen(CompressedImage, "/class_map/compressed")
        overlays = peer.listen(Image, "/foo/overlay")
        packed_overlays = peer.listen(CompressedImage, "/foo/overlay/compressed")
        listeners = (maps, packed, overlays, packed_overlays)
        camera = node.camera(CompressedImage, topic=node.image_topic + "/compressed")
        topics = [name for name, _ in peer.node.get_topic_names_and_types()]
        assert node.name + "/overlay" not in topics
        assert node.name + "/overlay/compressed" not in topics
        image = linear_model.blocks(TINY, 7)
        data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        sent = compressed_message(data, "png")

        def answered():
            camera.publish(sent)
            peer.spin_for(0.1)
            return all(listener.messages for listener in listeners)

        node.until(answered, "all four outputs")
        assert {item.messages[0].header.frame_id for item in listeners} == {"camera"}
        assert all(item.messages[0].header == sent.header for item in listeners)
        class_map = pixels(maps.messages[0])
        assert np.array_equal(class_map, linear_model.classify(image))
        unpacked = unpack(packed.messages[0], cv2.IMREAD_UNCHANGED)
        assert unpacked.dtype == np.uint8 and np.array_equal(unpacked, class_map)
        assert "png" in packed.messages[0].format
        overlay = unpack(packed_overlays.messages[0], cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(overlay.astype(int) - pixels(overlays.messages[0])).mean() < 10
        assert "jpeg" in packed_overlays.messages[0].format
        for listener in listeners:
            listener.close()


def unpack(message, flags):
    return cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)


@pytest.fixture(scope="module")
def tiny_node(peer, tiny_folder, log_path):
    parameters = {"model": tiny_folder, "num_threads": 1}
    with LiveNode(peer, parameters, log_path) as found:
        yield found.active()


@pytest.mark.parametrize(
    ("message_type", "topic"),
    [
        (Image, "/class_map"),
        (Image, "/overlay"),
        (Image, "/confidence"),
        (CompressedImage, "/class_map/compressed"),
        (CompressedImage, "/overlay/compressed"),
        (CompressedImage, "/confidence/compressed"),
        (FrameLatency, "/latency"),
    ],
)
def test_any_output_wakes_the_node_and_its_absence_lets_it_sleep(
    tiny_node, peer, message_type, topic
):
    camera = tiny_node.publisher(qos=BEST_EFFORT)
    peer.spin_for(0.3)
    assert camera.get_subscription_count() == 0
    with tiny_node.listen(message_type, topic) as listener:
        tiny_node.until(camera.get_subscription_count, "the image subscription")
        image = linear_model.blocks(TINY, 2)
        sent = image_message(image.tobytes(), TINY, "rgb8")

        def answered():
            camera.publish(sent)
            peer.spin_for(0.1)
            return listener.messages

        first = tiny_node.until(answered, topic)[0]
        assert first.header == sent.header
        if topic == "/confidence":
            assert np.array_equal(pixels(first), linear_model.confidence(image))
    tiny_node.until(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
    peer.node.destroy_publisher(camera)


def test_listeners_that_come_and_go_under_load(tiny_node, peer):
    """Its subscription ends while images arrive, again and again."""
    camera = tiny_node.publisher()
    image = image_message(bytes(720 * 1280 * 3), (720, 1280), "rgb8")
    timer = peer.node.create_timer(0.01, lambda: camera.publish(image))
    for _ in range(8):
        with tiny_node.listen(Image, "/class_map") as maps:
            tiny_node.until(lambda maps=maps: maps.messages, "a class map")
        tiny_node.until(lambda: camera.get_subscription_count() == 0, "sleep")
    peer.node.destroy_timer(timer)
    peer.node.destroy_publisher(camera)
    figures = values_of(tiny_node.status("OK", "idle, no subscriber"))
    assert int(figures["received"]) == sum(int(figures[name]) for name in COUNTS)
    assert (figures["failed"], figures["queued"]) == ("0", "0")
    assert "Traceback" not in tiny_node.log


def test_without_listeners_nothing_is_asked_for(tiny_node, peer):
    camera = tiny_node.publisher()
    status = tiny_node.status("OK", "idle, no subscriber")
    received = values_of(status)["received"]
    for _ in range(5):
        camera.publish(image_message(bytes(48 * 64 * 3), TINY, "rgb8"))
    figures = values_of(tiny_node.status("OK", "idle, no subscriber"))
    assert figures["received"] == received
    rates = [value for key, value in figures.items() if "_rate_hz" in key or "_ms_" in key]
    assert len(rates) == 2 + 9 * 3 and set(rates) == {"n/a"}
    assert camera.get_subscription_count() == 0
    peer.node.destroy_publisher(camera)


def test_an_overlay_is_coloured_only_for_listeners_and_at_its_rate(tiny_node, peer):
    image = linear_model.blocks((960, 1280), 3, block=160)

    def postprocess_ms(frames):
        camera = tiny_node.camera()
        with tiny_node.listen(FrameLatency, "/latency") as latencies:

            def answered():
                message = image_message(image.tobytes(), (960, 1280), "rgb8")
                camera.publish(message)
                peer.spin_for(0.1)
                return len(latencies.messages) >= frames

            tiny_node.until(answered, "latencies")
            peer.node.destroy_publisher(camera)
            return np.median([item.postprocess_ms for item in latencies.messages])

    with tiny_node.listen(Image, "/class_map"):
        without = postprocess_ms(8)
        with tiny_node.listen(Image, "/overlay") as overlays:
            coloured = postprocess_ms(8)
            assert len(overlays.messages) >= 6
            assert coloured > without
            assert tiny_node.set("overlay.max_rate_hz", 0.01).successful
            seen = len(overlays.messages)
            postprocess_ms(8)
            assert len(overlays.messages) <= seen + 1
            assert tiny_node.set("overlay.max_rate_hz", 0.0).successful


def test_confidence_threshold_unlabels(tiny_node, peer):
    image = linear_model.blocks(TINY, 4)
    assert tiny_node.set("confidence.threshold", 0.8).successful
    with tiny_node.listen(Image, "/class_map") as maps:
        camera = tiny_node.camera()

        def answered():
            camera.publish(image_message(image.tobytes(), TINY, "rgb8"))
            peer.spin_for(0.1)
            return maps.messages

        found = pixels(tiny_node.until(answered, "a class map")[0])
    assert tiny_node.set("confidence.threshold", 0.0).successful
    unsure = linear_model.confidence(image) < 0.8 * 255
    assert unsure.any() and not unsure.all()
    assert np.array_equal(found, np.where(unsure, 255, linear_model.classify(image)))
    peer.node.destroy_publisher(camera)


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
            image = image_message(bytes(48 * 64 * 3), TINY, "rgb8", stamp=time_message(stamp_s))
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
        assert_reports_at_1_hz(node)  # the clock stands still
        assert latency_at(100.5, 100.25).transport_ms == pytest.approx(250.0)


def latency_shot(camera, stamp_s):
    stamp = time_message(stamp_s)
    camera.publish(image_message(bytes(48 * 64 * 3), TINY, "rgb8", stamp=stamp))


def assert_reports_at_1_hz(node):
    seen, start_s = len(node.statuses), time.monotonic()
    node.until(lambda: len(node.statuses) >= seen + 4, "reports")
    assert 2.5 < time.monotonic() - start_s < 6.0
