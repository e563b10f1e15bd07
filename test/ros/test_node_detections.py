"""Boxes from a node on a live graph: published, timed, drawn, and refused in one line."""

import importlib
import importlib.util
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from support import linear_model
from support.live import FrameLatency, Image, LiveNode, error_lines, image_message, values_of
from test_node_cameras import cameras_node
from test_node_load_model import load
from test_session import node as quiet_node

from segmentation_node.backends import BACKENDS, BackendOptions
from segmentation_node.boxes import LEAST_SHARE, component_boxes, make_boxes
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.images import draw_boxes
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import open_model
from segmentation_node.pipeline import Segmenter, open_batch
from segmentation_node.ros.outputs import missing_vision_msgs

pytestmark = pytest.mark.ros
assert quiet_node  # a fixture

SIZE = (48, 64)
IMAGE = linear_model.blocks(SIZE, 7)
CLASSES = ["car", "pedestrian", "fence"]
TIMEOUT_S = 900
needs_vision_msgs = pytest.mark.skipif(
    importlib.util.find_spec("vision_msgs") is None,
    reason="DETECTIONS NOT RUN: vision_msgs isn't installed here; make test-all builds it",
)


def message_of(image_hwc):
    return image_message(image_hwc.tobytes(), image_hwc.shape[:2], "rgb8", frame_id="mast")


def expected_boxes(image_hwc=IMAGE, window=None):
    """(class, left, top, right, bottom, score) of the image, or of its part outside of which
    nothing is."""
    class_map = linear_model.classify(image_hwc)
    if window is not None:
        left, top, width, height = window
        inside = np.zeros(class_map.shape, bool)
        inside[top : top + height, left : left + width] = True
        class_map[~inside] = 255
    boxes = component_boxes(
        class_map,
        linear_model.confidence(image_hwc),
        CAMVID_11.ids_of(CLASSES),
        max(1, int(LEAST_SHARE * class_map.size)),
    )
    assert len(boxes.scores) > 3
    return {
        (CAMVID_11.names[i], *box, round(score, 5))
        for box, i, score in zip(*(values.tolist() for values in boxes), strict=True)
    }


def boxes_of(message):
    found = set()
    for item in message.detections:
        (result,) = item.results
        assert item.header == message.header
        x, y = item.bbox.center.position.x, item.bbox.center.position.y
        half_x, half_y = item.bbox.size_x / 2, item.bbox.size_y / 2
        corners = (x - half_x, y - half_y, x + half_x, y + half_y)
        found.add((result.hypothesis.class_id, *corners, round(result.hypothesis.score, 5)))
    assert len(found) == len(message.detections)
    return found


def detections_type():
    return importlib.import_module("vision_msgs.msg").Detection2DArray


def first(node, listener, message, topic=None):
    """What a listener gets of a message that is sent until it does."""
    camera = node.camera(topic=topic)

    def answered():
        camera.publish(message)
        node.peer.spin_for(0.1)
        return listener.messages

    found = node.until(answered, "an answer")[0]
    node.peer.node.destroy_publisher(camera)
    return found


def node_of(peer, model, tmp_path, **parameters):
    given = {"model": model, "backend": "onnxruntime", "num_threads": 1}
    given["detections.from_classes"] = CLASSES
    return LiveNode(peer, dict(given, **parameters), tmp_path)


@needs_vision_msgs
def test_boxes_carry_the_images_header_names_and_scores(peer, tiny_folder, tmp_path):
    with node_of(peer, tiny_folder, tmp_path) as node:
        node.active()
        sent = message_of(IMAGE)
        with node.listen(detections_type(), "/detections") as listener:
            found = first(node, listener, sent)
            assert found.header == sent.header
            assert boxes_of(found) == expected_boxes()
            scores = [item.results[0].hypothesis.score for item in found.detections]
            assert scores == sorted(scores, reverse=True)
            node.until(lambda: node.statuses, "its diagnostics")
            assert values_of(node.statuses[-1])["detections"] == ", ".join(CLASSES)
            with node.listen(FrameLatency, "/latency") as latencies:
                assert first(node, latencies, sent).detections_ms > 0.0
        node.until(lambda: node.peer.node.count_subscribers(node.image_topic) == 0, "sleep")


@needs_vision_msgs
@pytest.mark.parametrize("resolution", ["input", "network"])
def test_boxes_are_where_they_are_in_the_whole_image(peer, tmp_path, resolution):
    """The network of 64x48 sees an upright part of a larger image, pixel by pixel."""
    model = linear_model.write_model(tmp_path / "model", (64, 48))
    roi = (8, 16, 64, 48)
    image = linear_model.blocks((80, 96), 9)
    parameters = {"input.roi": list(roi), "input.rotation": 90, "output_resolution": resolution}
    with node_of(peer, model, tmp_path, **parameters) as node:
        with node.active().listen(detections_type(), "/detections") as listener:
            found = first(node, listener, message_of(image))
    assert boxes_of(found) == expected_boxes(image, roi)


@needs_vision_msgs
def test_each_camera_has_boxes_of_its_own(peer, tiny_folder, tmp_path):
    parameters = {"detections.from_classes": CLASSES}
    with cameras_node(peer, tiny_folder, tmp_path, ("front", "left"), **parameters) as node:
        node.active()
        with node.listen(detections_type(), "/left/detections") as listener:
            found = first(node, listener, message_of(IMAGE), node.input_of("left"))
            assert boxes_of(found) == expected_boxes()
            assert node.peer.node.count_subscribers(node.input_of("front")) == 0


def test_the_overlay_shows_boxes_while_it_is_told_to(peer, tiny_folder, tmp_path):
    with node_of(peer, tiny_folder, tmp_path) as node:
        node.active()

        def overlay_and_latency():
            with node.listen(FrameLatency, "/latency") as latencies:
                with node.listen(Image, "/overlay") as listener:
                    found = first(node, listener, message_of(IMAGE))
                    node.until(lambda: latencies.messages, "a latency")
            return pixels(found), latencies.messages[-1].detections_ms

        drawn, drawn_ms = overlay_and_latency()
        assert node.set("overlay.boxes", False).successful
        plain, plain_ms = overlay_and_latency()
        assert drawn_ms > 0.0 and plain_ms == 0.0
    expected = plain.copy()
    draw_boxes(expected, np.array([box[1:5] for box in expected_boxes()]))
    assert (expected != plain).any()
    np.testing.assert_array_equal(drawn, expected)


HEAD_MODEL = "elu_squeezenet_street"


@pytest.fixture(scope="module")
def by_head():
    """A street, and its boxes by the shipped head: (image, segmenter, segmentation)."""
    image = StreetDrive(3006).frame(250)[0]
    batch = open_batch(open_model(HEAD_MODEL), "onnxruntime", BackendOptions(num_threads=1))
    batch.open_boxes()
    with Segmenter(batch) as segmenter:
        yield image, segmenter, segmenter.segment(image, with_boxes=True)


@needs_vision_msgs
def test_the_boxes_of_a_box_head_are_published(peer, tmp_path, by_head):
    image, segmenter, expected = by_head
    parameters = {"model": HEAD_MODEL, "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node:
        with node.active().listen(detections_type(), "/detections") as listener:
            found = boxes_of(first(node, listener, message_of(image)))
    rows = zip(*(values.tolist() for values in expected.boxes), strict=True)
    wanted = {(segmenter.labels.names[i], *box, round(score, 5)) for box, i, score in rows}
    assert len(wanted) > 5
    for one, other in zip(sorted(found), sorted(wanted), strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:], abs=1e-3)


def test_the_overlay_shows_the_boxes_of_a_box_head(peer, tmp_path, by_head):
    image, segmenter, expected = by_head
    parameters = {"model": HEAD_MODEL, "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node:
        node.active()
        with node.listen(FrameLatency, "/latency") as latencies:
            with node.listen(Image, "/overlay") as listener:
                found = pixels(first(node, listener, message_of(image)))
                node.until(lambda: latencies.messages, "a latency")
        assert latencies.messages[-1].detections_ms > 0.0
        node.until(lambda: node.statuses, "its diagnostics")
        told = values_of(node.statuses[-1])["detections"]
        assert told == (missing_vision_msgs() or "person, rider, car, bicycle")
        alpha = node.get(["overlay.alpha"])[0].double_value
        drawn = segmenter.overlay(image, expected.class_map_hw, alpha, boxes=expected.boxes)
        np.testing.assert_array_equal(found, drawn)
        assert (drawn != segmenter.overlay(image, expected.class_map_hw, alpha)).any()


def test_a_class_that_the_model_lacks_is_one_line(peer, tiny_folder, tmp_path):
    parameters = {"detections.from_classes": ["car", "lorry"], "autostart": False}
    with node_of(peer, tiny_folder, tmp_path, **parameters) as node:
        said = "detections.from_classes: camvid11 has no class 'lorry'; its classes are sky,"
        assert not node.change("configure")
        node.status("ERROR", said)
        assert node.state() == "unconfigured"
        (line,) = error_lines(node.log)
        assert said in line
        assert not node.set("detections.from_classes", ["car", "car"]).successful
        assert node.set("detections.from_classes", ["car"]).successful
        assert node.change("configure")
        assert not node.set("detections.from_classes", ["pedestrian"]).successful


def test_a_model_without_a_wanted_class_is_not_taken(peer, tiny_folder, tmp_path):
    other = linear_model.write_model(tmp_path / "other", SIZE, "cityscapes19")
    with node_of(peer, tiny_folder, tmp_path) as node:
        node.active()
        found = load(node, other)
        assert not found.success and "cityscapes19 has no class 'pedestrian'" in found.message
        assert node.get(["model"])[0].string_value == tiny_folder


def test_missing_vision_msgs_is_said_once_and_in_the_diagnostics(quiet_node, monkeypatch, capfd):
    from support.live import Parameter

    for name in ("VisionLabelInfo", "Detection2DArray"):
        monkeypatch.setattr("segmentation_node.ros.outputs." + name, None)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    missing = "vision_msgs is not installed; install ros-jazzy-vision-msgs"
    assert quiet_node.trigger_configure().name == "SUCCESS"
    assert "detections" not in dict(quiet_node.session.identity())
    assert "no ~/detections" not in capfd.readouterr().err
    assert quiet_node.trigger_cleanup().name == "SUCCESS"
    names = [Parameter("detections.from_classes", value=["car"])]
    assert quiet_node.set_parameters(names)[0].successful
    assert quiet_node.trigger_configure().name == "SUCCESS"
    assert dict(quiet_node.session.identity())["detections"] == missing
    assert capfd.readouterr().err.count("no ~/detections: " + missing) == 1


def test_a_run_time_without_the_head_is_told_and_no_warning(quiet_node, monkeypatch):
    """Nobody has asked for boxes."""
    from support.live import Parameter

    monkeypatch.setattr(BACKENDS["onnxruntime"], "runs_boxes", False)
    given = {"model": HEAD_MODEL, "backend": "onnxruntime"}
    asked = [Parameter(name, value=value) for name, value in given.items()]
    assert all(found.successful for found in quiet_node.set_parameters(asked))
    assert quiet_node.trigger_configure().name == "SUCCESS"
    session = quiet_node.session
    assert session.model.warnings == [] and not session.model.has_boxes
    told = dict(session.identity())["detections"]
    assert told.startswith("none: backend onnxruntime runs no box head")


def test_under_a_grouping_the_diagnostics_name_the_groups_that_the_boxes_carry(
    quiet_node, tmp_path
):
    from support.live import Parameter

    path = tmp_path / "groups.yaml"
    for groups, told in (
        ("{vehicle: [car, bicycle], way: [road], rest: '*'}", "rest, vehicle"),
        ("{way: [road]}", "none: the grouping has no group of what the box head finds"),
    ):
        path.write_text("name: g\ngroups: %s\n" % groups)
        given = {"model": HEAD_MODEL, "backend": "onnxruntime", "grouping": str(path)}
        asked = [Parameter(name, value=value) for name, value in given.items()]
        assert all(found.successful for found in quiet_node.set_parameters(asked))
        assert quiet_node.trigger_configure().name == "SUCCESS"
        session = quiet_node.session
        expected = missing_vision_msgs() if session.model.has_boxes else ""
        assert dict(session.identity())["detections"] == (expected or told)
        assert session.model.boxes_text == told
        assert quiet_node.trigger_cleanup().name == "SUCCESS"


def test_the_message_by_stand_ins(monkeypatch):
    """What goes where in the message, also where vision_msgs is missing."""
    from segmentation_node.ros import outputs

    def detection(header, results):
        point = SimpleNamespace(x=0.0, y=0.0)
        bbox = SimpleNamespace(center=SimpleNamespace(position=point), size_x=0.0, size_y=0.0)
        return SimpleNamespace(header=header, results=results, bbox=bbox)

    def result():
        return SimpleNamespace(hypothesis=SimpleNamespace(class_id="", score=0.0))

    monkeypatch.setattr(outputs, "Detection2D", detection)
    monkeypatch.setattr(outputs, "ObjectHypothesisWithPose", result)
    monkeypatch.setattr(outputs, "Detection2DArray", partial(SimpleNamespace, detections=[]))
    boxes = make_boxes([[1, 2, 4, 7], [0, 0, 9, 9]], [8, 9], [0.25, 0.5])
    message = outputs.detections_message(boxes, CAMVID_11, "the image's")
    assert message.header == "the image's"
    assert boxes_of(message) == {
        ("pedestrian", 0.0, 0.0, 9.0, 9.0, 0.5), ("car", 1.0, 2.0, 4.0, 7.0, 0.25),
    }  # fmt: skip


@pytest.mark.slow
def test_all_of_it_with_vision_msgs_from_source(vision_msgs):
    """The tests above that need it, in an environment that has it."""
    command = [*vision_msgs, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "not slow", __file__],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={key: value for key, value in os.environ.items() if key != "PYTEST_XDIST_WORKER"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
