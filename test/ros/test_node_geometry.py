"""Roi, rotation and ignored pixels of a node on a live graph, for one camera and for several."""

import cv2
import numpy as np
import pytest
from support import linear_model
from support.live import Image, LiveNode, image_message, refusal, values_of
from test_node_cameras import cameras_node, streams_of

from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.geometry import Geometry

pytestmark = pytest.mark.ros

SIZE = (48, 64)


def message_of(image_hwc):
    return image_message(image_hwc.tobytes(), image_hwc.shape[:2], "rgb8")


def told_by(node):
    return values_of(node.statuses[-1]) if node.statuses else {}


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mask") / "hood.png")
    marked = np.zeros((80, 100), np.uint8)
    marked[70:, 10:40] = 1
    cv2.imwrite(path, marked)
    return path


def test_outputs_stay_aligned_to_the_whole_image(peer, tiny_folder, mask, tmp_path):
    roi = (5, 7, 48, 64)
    parameters = {
        "model": tiny_folder,
        "backend": "onnxruntime",
        "input.roi": list(roi),
        "input.rotation": 90,
        "input.ignore_mask": mask,
        "overlay.alpha": 1.0,
    }
    image = np.random.RandomState(1).randint(0, 256, (80, 100, 3)).astype(np.uint8)
    geometry = Geometry(roi, 90, cv2.imread(mask, cv2.IMREAD_GRAYSCALE) * np.uint8(255))
    outside = geometry.left_out((80, 100)) > 0
    expected = linear_model.classify(image)
    expected[outside] = 255
    with LiveNode(peer, parameters, tmp_path) as node:
        topics = ("/class_map", "/overlay", "/confidence")
        listeners = [node.listen(Image, topic) for topic in topics]
        camera = node.camera()

        def all_came():
            camera.publish(message_of(image))
            node.peer.spin_for(0.2)
            return all(listener.messages for listener in listeners)

        node.until(all_came, "all outputs")
        class_map, overlay, confidence = (pixels(item.messages[-1]) for item in listeners)
        node.until(lambda: "roi" in told_by(node), "the geometry in diagnostics")
        values = told_by(node)
        for listener in listeners:
            listener.close()
    np.testing.assert_array_equal(class_map, expected)
    np.testing.assert_array_equal(overlay[outside], image[outside])
    assert (overlay[~outside] != image[~outside]).any()
    np.testing.assert_array_equal(confidence[outside], 0)
    sure = linear_model.confidence(image)
    np.testing.assert_array_equal(confidence[~outside], sure[~outside])
    assert values["roi"] == "[5, 7, 48, 64]" and values["rotation"] == "90"
    assert values["ignore_mask"] == mask


def test_an_image_of_another_size_is_a_frame_that_failed(peer, tiny_folder, mask, tmp_path):
    parameters = {"model": tiny_folder, "input.roi": [0, 0, 100, 64], "input.ignore_mask": mask}
    with LiveNode(peer, parameters, tmp_path) as node:
        maps = node.listen(Image, "/class_map")
        camera = node.camera()

        def send(size):
            camera.publish(message_of(np.zeros(size + (3,), np.uint8)))
            node.peer.spin_for(0.2)

        for size, said in (
            ((80, 99), "the image is 99x80, but the roi of 100x64 at (0, 0) reaches (100, 64)"),
            ((81, 100), "the image is 100x81, but the mask %s 100x80" % mask),
        ):
            node.until(lambda size=size, said=said: send(size) or said in node.log, said)
        node.until(lambda: send((80, 100)) or maps.messages, "the result of a good frame")
        assert "Traceback" not in node.log
        maps.close()


def test_each_camera_has_a_geometry_of_its_own(peer, tiny_folder, tmp_path):
    given = {"front.input.rotation": 180, "input.rotation": 0, "left.input.roi": [32, 0, 32, 48]}
    with cameras_node(peer, tiny_folder, tmp_path, ("front", "left"), **given) as node:
        node.active()
        front, left = streams_of(node, ("front", "left"))
        # Pixel by pixel a network does not see which way up its image is.
        front.check()
        node.until(lambda: node.statuses_of("left"), "the cameras' statuses")
        assert values_of(node.statuses_of("front")[-1])["rotation"] == "180"
        assert values_of(node.statuses_of("left")[-1])["roi"] == "[32, 0, 32, 48]"
        assert "roi" not in values_of(node.statuses_of("front")[-1])
        found = pixels(left.maps.messages[-1])
        assert (found[:, :32] == 255).all() and (found[:, 32:] != 255).all()
        front.close()
        left.close()


def test_a_cameras_own_wins_over_that_for_all(peer, tiny_folder, tmp_path):
    given = {"input.rotation": 180, "left.input.rotation": 0}
    with cameras_node(peer, tiny_folder, tmp_path, ("front", "left"), **given) as node:
        node.active()
        node.until(lambda: node.statuses_of("left"), "the cameras' statuses")
        assert values_of(node.statuses_of("front")[-1])["rotation"] == "180"
        assert "rotation" not in values_of(node.statuses_of("left")[-1])
        assert node.change("deactivate") and node.change("cleanup")
        assert node.set("cameras", ["back"]).successful
        assert node.change("configure")  # declares its parameters
        assert node.change("cleanup")
        refused = node.set("back.input.rotation", 45)
        assert (
            not refused.successful and "back.input.rotation: the rotation is 45" in refused.reason
        )
        assert node.set("back.input.rotation", 270).successful
        assert node.change("configure") and node.change("activate")
        node.until(lambda: node.statuses_of("back"), "the new camera's status")
        assert values_of(node.statuses_of("back")[-1])["rotation"] == "270"


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"input.roi": [1, 2, 3]}, "input.roi: the roi is [1, 2, 3]; expected four whole numbers"),
        ({"input.roi": [0, 0, 0, 9]}, "input.roi: the roi is [0, 0, 0, 9]; expected x and y of 0"),
        ({"input.roi": "all"}, "input.roi: the roi is 'all'; expected four whole numbers"),
        ({"input.rotation": 45}, "input.rotation: the rotation is 45; expected one of 0, 90, 180"),
        ({"input.ignore_mask": "/none.png"}, "the mask /none.png: No such file or directory"),
        (
            {"cameras": ["front"], "front.input.rotation": "upside down"},
            "front.input.rotation: the rotation is 'upside down'; expected one of 0, 90",
        ),
        (
            {"cameras": ["front"], "front.input.ignore_mask": "/none.png"},
            "the mask /none.png: No such file or directory",
        ),
    ],
)
def test_what_no_image_can_have_is_one_line(ros, tiny_folder, capfd, parameters, line):
    given = {"model": tiny_folder, "backend": "onnxruntime", **parameters}
    assert line in refusal(given, capfd)
