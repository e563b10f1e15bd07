"""Configuring and its failures, transitions, and how the process ends."""

import contextlib
import importlib.util
import os
import shutil
import signal
import time
from pathlib import Path

import linear_model
import numpy as np
import pytest
import yaml
from live import FrameLatency, Image, LiveNode, image_message, values_of

from segmentation_node.labels import CITYSCAPES_19
from segmentation_node.ros.pairing import pixels

pytestmark = pytest.mark.ros

SIZE = (48, 64)


@pytest.fixture
def log_path(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def without_model(folder):
    return {"model": str(folder / "nowhere")}, ["nowhere", "neither a folder nor a model"]


def with_unknown_key(folder):
    edit_card(folder, lambda card: card.update(colour="blue"))
    return {"model": str(folder)}, ["model.yaml", "unknown key colour"]


def with_wrong_hash(folder):
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\n")
    return {"model": str(folder)}, ["sha256 is", "the model card expects"]


def with_other_label_set(folder):
    edit_card(folder, lambda card: card.update(label_set="cityscapes19"))
    return {"model": str(folder)}, ["label set camvid11", "the model card says cityscapes19"]


def with_unknown_backend(folder):
    return {"model": str(folder), "backend": "abacus"}, ["backend is 'abacus'", "onnxruntime"]


def with_execution_that_the_backend_lacks(folder):
    parameters = {"model": str(folder), "backend": "onnxruntime", "execution": "graph"}
    return parameters, ["backend onnxruntime: execution 'graph'", "['auto', 'eager']"]


def with_missing_tensorrt(folder):
    return {"model": str(folder), "backend": "tensorrt"}, ["backend tensorrt:"]


def with_threads_out_of_range(folder):
    return {"model": str(folder), "num_threads": -1}, ["num_threads", "-1", "from 0 to 256"]


def with_alpha_out_of_range(folder):
    return {"model": str(folder), "overlay.alpha": 2.0}, ["overlay.alpha", "from 0 to 1"]


def with_wrong_type(folder):
    return {"model": str(folder), "num_threads": "many"}, ["num_threads", "INTEGER"]


def with_threshold_without_confidence(folder):
    model = linear_model.write_model(folder.parent / "unsure", SIZE, with_confidence=False)
    parameters = {"model": model, "confidence.threshold": 0.5}
    return parameters, ["confidence.threshold is 0.5", "gives no confidence"]


FAILURES = [
    without_model,
    with_unknown_key,
    with_wrong_hash,
    with_other_label_set,
    with_unknown_backend,
    with_execution_that_the_backend_lacks,
    with_missing_tensorrt,
    with_threads_out_of_range,
    with_alpha_out_of_range,
    with_wrong_type,
    with_threshold_without_confidence,
]


def edit_card(folder, edit):
    card = yaml.safe_load((folder / "model.yaml").read_text())
    edit(card)
    linear_model.write_card(folder, card)


def spoil(case, tiny_folder, tmp_path):
    """Parameters that cannot work, and what the one line must say."""
    folder = Path(shutil.copytree(tiny_folder, str(tmp_path / "spoilt")))
    return case(folder)


def error_lines(log):
    return [line for line in log.splitlines() if "[ERROR]" in line or "Traceback" in line]


@pytest.fixture(scope="module")
def failed(peer, tiny_folder, tmp_path_factory):
    """By case: exit code, log, diagnostics, and what has to be said; started all at once."""
    folder = tmp_path_factory.mktemp("failures")
    nodes, found = {}, {}
    with contextlib.ExitStack() as stack:
        for case in FAILURES:
            (folder / case.__name__).mkdir()
            parameters, fragments = spoil(case, tiny_folder, folder / case.__name__)
            nodes[case] = stack.enter_context(LiveNode(peer, parameters, folder)), fragments
        for case, (node, fragments) in nodes.items():
            code = node.exit_code()
            peer.spin_for(0.2)
            found[case] = code, node.log, node.statuses, fragments
    return found


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.__name__)
def test_a_known_error_is_one_line_and_exit_code_1(failed, case):
    if case is with_missing_tensorrt and importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    code, log, statuses, fragments = failed[case]
    assert code == 1
    (line,) = error_lines(log)
    for fragment in fragments:
        assert fragment in line
    for status in statuses[-1:]:  # none where the process ended before it was found
        assert status.level == b"\x02"
        assert all(fragment in status.message for fragment in fragments)


def test_before_it_exits_the_error_is_in_the_diagnostics(peer, tmp_path, log_path):
    for _ in range(3):  # discovery takes its time, and the process does not live for ever
        with LiveNode(peer, without_model(tmp_path)[0], log_path) as node:
            assert node.exit_code() == 1
            if [status for status in node.statuses if status.level == b"\x02"]:
                return
    raise AssertionError("no diagnostic ERROR from three nodes that failed")


def test_without_autostart_it_stays_and_says_why_until_it_is_put_right(
    peer, tiny_folder, tmp_path, log_path
):
    parameters, _ = spoil(with_threads_out_of_range, tiny_folder, tmp_path)
    parameters.update(autostart=False, backend="abacus")
    with LiveNode(peer, parameters, log_path) as node:
        node.status("OK", "unconfigured")
        assert not node.change("configure")
        assert node.state() == "unconfigured"
        node.status("ERROR", "num_threads", "; backend is 'abacus'")
        assert node.set("num_threads", 1).successful
        for case in (without_model, with_unknown_key, with_wrong_hash, with_other_label_set):
            folder = tmp_path / case.__name__
            shutil.copytree(tiny_folder, str(folder))
            parameters, fragments = case(folder)
            assert node.set("model", parameters["model"]).successful
            assert node.set("backend", "auto").successful
            assert not node.change("configure")
            node.status("ERROR", *fragments)
        assert node.set("model", tiny_folder).successful
        assert node.change("configure")
        status = node.status("OK", "inactive")
        assert values_of(status)["model"] == "linear"
        assert node.change("activate")
        node.status("OK", "idle, no subscriber")
        assert "Traceback" not in node.log


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
            assert not node.set("model", other_folder).successful
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
    with LiveNode(peer, parameters, log_path) as node:
        node.active()
        frame_s = 0.0
        if what != "idle":
            latencies = node.listen(FrameLatency, "/latency")
            camera = node.camera()
            for _ in range(20):
                camera.publish(image_message(image, (360, 640), "rgb8"))
                peer.spin_for(0.01)
            node.until(lambda: latencies.messages, "a latency")
            frame_s = max(item.processing_ms for item in latencies.messages) * 1e-3
        start_s = time.monotonic()
        os.kill(node.process.process.pid, number)
        assert node.exit_code() == 0
        # Twice what is promised, for the interpreter's own end on a busy machine.
        assert time.monotonic() - start_s < 2.0 + 2.0 * frame_s
        assert error_lines(node.log) == [] and "rror" not in node.log
        if what != "idle":
            latencies.close()


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
