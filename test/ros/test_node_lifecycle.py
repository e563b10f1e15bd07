"""Configuring and its failures, transitions, and how the process ends."""

import os
import signal
import time

import numpy as np
import pytest
from support import linear_model
from support.live import FrameLatency, Image, LiveNode, error_lines, image_message, values_of

from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.labels import CITYSCAPES_19

pytestmark = pytest.mark.ros

SIZE = (48, 64)


@pytest.fixture
def log_path(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "other"
    return linear_model.write_model(
        folder, SIZE, "cityscapes19", with_confidence=False, name="other"
    )


def class_map_of(node, image):
    """The node's class map of an image, from a camera of its own."""
    with node.listen(Image, "/class_map") as maps:
        camera = node.camera()

        def answered():
            camera.publish(image_message(image.tobytes(), image.shape[:2], "rgb8"))
            node.peer.spin_for(0.1)
            return maps.messages

        found = node.until(answered, "a class map")[0]
    node.peer.node.destroy_publisher(camera)
    return pixels(found)


def test_another_model_after_cleanup(peer, tiny_folder, other_folder, log_path):
    image = linear_model.blocks(SIZE, 1)
    parameters = {"model": tiny_folder, "num_threads": 1}
    with LiveNode(peer, parameters, log_path) as node:
        node.until(lambda: node.label_info, "labels")
        assert (node.label_info.model, node.label_info.label_set) == ("linear", "camvid11")
        assert np.array_equal(class_map_of(node.active(), image), linear_model.classify(image))
        refused = node.set("model", other_folder)
        assert not refused.successful and "unconfigured" in refused.reason
        for _ in range(2):
            assert node.change("deactivate")
            node.status("OK", "inactive")
            assert not node.set("model", "another").successful
            assert node.change("cleanup")
            node.status("OK", "unconfigured")
            topics = [name for name, _ in peer.node.get_topic_names_and_types()]
            assert node.name + "/class_map" not in topics
            assert node.set("model", other_folder).successful
            assert node.change("configure") and node.change("activate")
            node.until(lambda: node.label_info.model == "other", "the other model's labels")
            names = [item.name for item in node.label_info.classes]
            assert names == list(CITYSCAPES_19.names)
            expected = linear_model.classify(image, "cityscapes19")
            assert np.array_equal(class_map_of(node, image), expected)
        topics = [name for name, _ in peer.node.get_topic_names_and_types()]
        assert node.name + "/confidence" not in topics
        assert "Traceback" not in node.log


def test_a_transition_that_the_state_does_not_have_is_refused(peer, tiny_folder, log_path):
    with LiveNode(peer, {"model": tiny_folder, "num_threads": 1}, log_path) as node:
        node.status("OK")
        for name in ("configure", "activate", "cleanup"):
            assert not node.change(name)
        assert node.change("deactivate") and node.change("activate")
        assert "transition refused" in node.log and "Traceback" not in node.log


def test_alpha_changes_the_overlay_at_once(peer, tiny_folder, log_path):
    image = linear_model.blocks(SIZE, 2)
    with LiveNode(peer, {"model": tiny_folder, "num_threads": 1}, log_path) as node:
        with node.listen(Image, "/overlay") as overlays:
            camera = node.camera()

            def overlay():
                seen = len(overlays.messages)

                def answered():
                    camera.publish(image_message(image.tobytes(), SIZE, "rgb8"))
                    peer.spin_for(0.1)
                    return overlays.messages[seen:]

                node.until(answered, "an overlay")
                peer.spin_for(0.5)
                return pixels(overlays.messages[-1])

            overlay()
            assert node.set("overlay.alpha", 0.0).successful
            assert np.array_equal(overlay(), image)
            assert node.set("overlay.alpha", 1.0).successful
            colors = overlay()
            assert len(np.unique(colors.reshape(-1, 3), axis=0)) <= 11


def test_deactivating_under_load_loses_no_count(peer, tmp_path, log_path):
    """Pausing with frames in work and waiting: they end, are booked, and it starts again."""
    model = linear_model.write_model(tmp_path / "slow", (360, 640), channels=48)
    image = linear_model.blocks((360, 640)).tobytes()
    parameters = {"model": model, "num_threads": 1, "frame_policy": "every"}
    with LiveNode(peer, parameters, log_path) as node:
        with node.listen(FrameLatency, "/latency") as latencies:
            camera = node.camera()
            for _ in range(3):
                seen = len(latencies.messages)
                for _ in range(12):
                    camera.publish(image_message(image, (360, 640), "rgb8"))

                def begun(seen=seen):
                    return len(latencies.messages) > seen

                node.until(begun, "a first latency")
                assert node.change("deactivate")
                counts = values_of(node.status("OK", "inactive"))
                assert counts["queued"] == "0"
                assert node.change("activate")
                node.until(camera.get_subscription_count, "the subscription")
            for item in latencies.messages:
                booked = item.processed + item.dropped + item.failed + item.queued
                assert item.received == booked
        assert "Traceback" not in node.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("what", ["idle", "working", "blocked"])
def test_it_ends_cleanly_and_soon(peer, tmp_path, log_path, number, what):
    model = linear_model.write_model(tmp_path / "slow", (360, 640), channels=48)
    policy = "every" if what == "blocked" else "latest"
    parameters = {"model": model, "num_threads": 1, "frame_policy": policy}
    image = linear_model.blocks((360, 640)).tobytes()
    begun_s = time.monotonic()
    with LiveNode(peer, parameters, log_path) as node:
        node.active()
        start_s, frame_s = time.monotonic() - begun_s, 0.0
        if what != "idle":
            latencies = node.listen(FrameLatency, "/latency")
            camera = node.camera()
            for _ in range(20):
                camera.publish(image_message(image, (360, 640), "rgb8"))
                peer.spin_for(0.01)
            node.until(lambda: latencies.messages, "a latency")
            frame_s = max(item.processing_ms for item in latencies.messages) * 1e-3
        asked_s = time.monotonic()
        os.kill(node.process.process.pid, number)
        assert node.exit_code() == 0
        # Twice what is promised, for the interpreter's own end; or as on a machine so busy that
        # the start took longer.
        assert time.monotonic() - asked_s < max(2.0, start_s) + 2.0 * frame_s
        assert error_lines(node.log) == [] and "rror" not in node.log
        if what != "idle":
            latencies.close()


def test_it_ends_without_a_word_after_service_calls(peer, log_path):
    for _ in range(3):
        with LiveNode(peer, {"autostart": False}, log_path) as node:
            for _ in range(10):
                assert node.state() == "unconfigured"
                assert len(node.get(["model", "backend"])) == 2
            # rclpy's, where a client is not known to the middleware within 100 ms
            unheard = node.log
            assert unheard == "" or "failed to send response (timeout)" in unheard
            os.kill(node.process.process.pid, signal.SIGINT)
            assert (node.exit_code(), node.log) == (0, unheard)


def test_it_ends_cleanly_while_a_model_is_loading(peer, tiny_folder, log_path):
    for _ in range(3):
        with LiveNode(peer, {"model": tiny_folder}, log_path) as node:
            node.until(lambda node=node: "images are converted" in node.log, "the start of loading")
            os.kill(node.process.process.pid, signal.SIGTERM)
            assert node.exit_code() == 0, node.log
            assert error_lines(node.log) == [] and "terminate" not in node.log


def test_a_repeated_ctrl_c_is_one_request(peer, tiny_folder, log_path):
    with LiveNode(peer, {"model": tiny_folder}, log_path) as node:
        node.active()
        for _ in range(3):
            os.kill(node.process.process.pid, signal.SIGINT)
            time.sleep(0.02)
        assert node.exit_code() == 0
        assert error_lines(node.log) == []


def test_it_ends_when_unconfigured_too(peer, log_path):
    with LiveNode(peer, {"autostart": False}, log_path) as node:
        assert node.state() == "unconfigured"
        os.kill(node.process.process.pid, signal.SIGTERM)
        assert node.exit_code() == 0
        assert error_lines(node.log) == []


def test_shutdown_by_transition(peer, tiny_folder, log_path):
    with LiveNode(peer, {"model": tiny_folder, "num_threads": 1}, log_path) as node:
        with node.active().listen(Image, "/class_map"):
            camera = node.camera()
            assert node.change("shutdown")
            node.until(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
            assert node.state() == "finalized"
            node.status("OK", "finalized")
        os.kill(node.process.process.pid, signal.SIGINT)
        assert node.exit_code() == 0
        assert error_lines(node.log) == []


def test_a_grouping_is_published_in_place_of_the_classes(peer, tiny_folder, log_path, tmp_path):
    path = tmp_path / "ways.yaml"
    path.write_text('{name: ways, groups: {way: [road, pavement], rest: "*"}}')
    image = linear_model.blocks(SIZE, 1)
    parameters = {"model": tiny_folder, "num_threads": 1, "grouping": str(path)}
    with LiveNode(peer, parameters, log_path) as node:
        node.until(lambda: node.label_info, "labels")
        names = [item.name for item in node.label_info.classes]
        assert (node.label_info.label_set, names) == ("ways", ["way", "rest"])
        expected = np.where(np.isin(linear_model.classify(image), (3, 4)), 0, 1)
        assert np.array_equal(class_map_of(node.active(), image), expected)


def test_a_grouping_that_does_not_fit_is_one_line(peer, tiny_folder, log_path, tmp_path):
    path = tmp_path / "ways.yaml"
    path.write_text("{name: ways, groups: {rail: [railway]}}")
    parameters = {"model": tiny_folder, "grouping": str(path), "autostart": False}
    with LiveNode(peer, parameters, log_path) as node:
        assert not node.change("configure")
        (line,) = error_lines(node.log)
        assert "ways" in line and "'rail'" in line and "camvid11" in line
