"""What is computed for whom: outputs that are listened to, and nothing else."""

import numpy as np
import pytest
from support import linear_model
from support.live import (
    BEST_EFFORT,
    CompressedImage,
    FrameLatency,
    Image,
    LiveNode,
    image_message,
    values_of,
)

from segmentation_node.evaluation.live.pairing import pixels

pytestmark = pytest.mark.ros

TINY = (48, 64)
COUNTS = ("processed", "dropped", "failed", "queued")


@pytest.fixture(scope="module")
def log_path(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


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
    assert len(rates) == 2 + 10 * 3 and set(rates) == {"n/a"}
    assert camera.get_subscription_count() == 0
    peer.node.destroy_publisher(camera)


def test_an_overlay_is_coloured_only_for_listeners_and_at_its_rate(tiny_node, peer):
    image = linear_model.blocks((960, 1280), 3, block=160)
    sent = []

    def postprocess_ms(frames):
        camera = tiny_node.camera()
        with tiny_node.listen(FrameLatency, "/latency") as latencies:

            def answered():
                message = image_message(image.tobytes(), (960, 1280), "rgb8")
                sent.append(message.header.stamp)
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
            tiny_node.until(lambda: len(overlays.messages) >= 6, "overlays")
            assert coloured > without
            assert tiny_node.set("overlay.max_rate_hz", 0.01).successful
            before = list(sent)
            postprocess_ms(8)
            new = [one for one in overlays.messages if one.header.stamp not in before]
            assert len(new) <= 1, "the first under the limit"
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
