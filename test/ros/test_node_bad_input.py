"""Bad input on a running node: it is named, counted, and the next good frame is segmented."""

import cv2
import numpy as np
import pytest
from support import linear_model
from support.live import (
    CompressedImage,
    Image,
    LiveNode,
    Round,
    compressed_message,
    image_message,
    values_of,
)

from segmentation_node.evaluation.live.pairing import pixels

pytestmark = pytest.mark.ros

SIZE = (48, 64)
GREY = np.full(SIZE, 150, np.uint8)


@pytest.fixture(scope="module")
def node(peer, tiny_folder, tmp_path_factory):
    parameters = {"model": tiny_folder, "num_threads": 1, "frame_policy": "every"}
    with LiveNode(peer, parameters, tmp_path_factory.mktemp("log")) as found:
        yield found.active()


@pytest.fixture(scope="module")
def send(node):
    with Round(node) as found:
        yield found


def good(seed, size=SIZE):
    image = linear_model.blocks(size, seed)
    return image, image_message(image.tobytes(), size, "rgb8")


def assert_segmented(send, image, message):
    class_map, latency = send(message)
    assert class_map.header == message.header
    assert np.array_equal(pixels(class_map), linear_model.classify(image))
    return latency


RGB = bytes(48 * 64 * 3)
# One of each way in which it is found: test_conversions.py has all that is refused.
BAD = [
    ("step below the width", image_message(RGB, SIZE, "rgb8", step=191), "step is 191"),
    ("nothing at all", image_message(b"", (0, 0), ""), "encoding '' is not supported"),
    (
        "huge in all",
        image_message(RGB, (2**32 - 1, 2**32 - 1), "mono8", step=2**32 - 1),
        "the image is 4294967295x4294967295",
    ),
    ("odd width", image_message(bytes(48 * 63 * 2), (48, 63), "yuyv"), "63x48 image of yuyv"),
]


@pytest.mark.parametrize(("message", "reason"), [case[1:] for case in BAD], ids=[c[0] for c in BAD])
def test_bad_image(node, send, message, reason):
    before = assert_segmented(send, *good(1))
    send.camera.publish(message)
    status = node.status("WARN", "1 frames failed, last: ", reason)
    assert "\n" not in status.message
    after = assert_segmented(send, *good(2))
    assert (after.failed, after.processed) == (before.failed + 1, before.processed + 1)
    assert after.received == after.processed + after.dropped + after.failed + after.queued
    assert int(values_of(status)["failed"]) == after.failed
    lines = [line for line in node.log.splitlines() if reason in line]
    assert len(lines) <= 1 and all("frame failed: " in line for line in lines)
    assert "Traceback" not in node.log


def padded(image):
    return np.hstack([image.reshape(48, -1), np.full((48, 13), 7, np.uint8)])


def wide(image, order):
    return (image.astype(np.uint16) * 257).astype(order + "u2")


IMAGE = linear_model.blocks(SIZE, 3)
GREY_RGB = np.stack([GREY] * 3, axis=-1)
UNUSUAL = {
    "padded step": (IMAGE, padded(IMAGE), "rgb8", False),
    "bgr8": (IMAGE, IMAGE[..., ::-1], "bgr8", False),
    "rgb16": (IMAGE, wide(IMAGE, "<"), "rgb16", False),
    "rgb16 big-endian": (IMAGE, wide(IMAGE, ">"), "rgb16", True),
    "mono8": (GREY_RGB, GREY, "mono8", False),
    "mono16": (GREY_RGB, wide(GREY, "<"), "mono16", False),
    "mono16 big-endian": (GREY_RGB, wide(GREY, ">"), "mono16", True),
    "bayer_rggb8": (GREY_RGB, GREY, "bayer_rggb8", False),
    "bayer_gbrg16": (GREY_RGB, wide(GREY, "<"), "bayer_gbrg16", False),
    "8 bit said to be big-endian": (IMAGE, IMAGE, "rgb8", True),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_image_is_segmented(send, name):
    image, data, encoding, big = UNUSUAL[name]
    latency = assert_segmented(send, image, image_message(data.tobytes(), SIZE, encoding, big=big))
    assert latency.received == latency.processed + latency.failed


def test_a_size_that_changes(node, send):
    with node.listen(Image, "/overlay") as overlays:
        for index, size in enumerate([(96, 128), SIZE, (192, 256), SIZE, (48, 128), SIZE]):
            image = linear_model.blocks(size, index, block=16)
            assert_segmented(send, image, image_message(image.tobytes(), size, "rgb8"))
        node.until(lambda: overlays.messages and overlays.messages[-1].width == 64, "overlays")
        assert all(len(item.data) == item.step * item.height for item in overlays.messages)


def test_the_log_is_not_flooded_and_hides_no_other_failure(node, send):
    for number in range(40):
        send.camera.publish(image_message(RGB, SIZE, "rgb8", step=50 + number))
    send.camera.publish(image_message(RGB, SIZE, "nonsense"))
    assert_segmented(send, *good(4))
    lines = [line for line in node.log.splitlines() if "frame failed: step is" in line]
    assert len(lines) < 20
    assert "encoding 'nonsense'" in node.log


def encoded(image, kind=".png"):
    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


def test_bad_compressed_images(peer, tiny_folder, tmp_path):
    parameters = {"model": tiny_folder, "num_threads": 1, "input.transport": "compressed"}
    parameters["frame_policy"] = "every"
    jpeg = encoded(linear_model.blocks(SIZE, 5), ".jpg")
    bad = [
        (b"", "0 bytes that are no picture"),
        (jpeg[: len(jpeg) // 2], "of a JPEG that is cut off"),
    ]
    with LiveNode(peer, parameters, tmp_path) as node:
        maps = node.listen(Image, "/class_map")
        camera = node.camera(CompressedImage, topic=node.image_topic + "/compressed")
        for number, (data, reason) in enumerate(bad, 1):
            camera.publish(compressed_message(data))
            status = node.status("WARN", "1 frames failed, last: ", reason)
            assert values_of(status)["failed"] == str(number)
            assert "\n" not in status.message
        camera.publish(compressed_message(encoded(IMAGE), "png"))
        node.until(lambda: maps.messages, "the class map of a good image")
        assert np.array_equal(pixels(maps.messages[0]), linear_model.classify(IMAGE))
        assert "Traceback" not in node.log
        maps.close()
