"""The model's health in a live node's diagnostics: what the world makes of its confidence."""

import itertools

import numpy as np
import pytest
import yaml
from support import linear_model
from support.live import FrameLatency, Image, LiveNode, image_message, values_of

pytestmark = pytest.mark.ros

SIZE = (48, 64)


@pytest.fixture(scope="module")
def careful(tmp_path_factory):
    """A model that is as sure as its image is bright, and on whose data that was 200 of 255."""
    folder = tmp_path_factory.mktemp("model") / "careful"
    path = linear_model.write_model(folder, SIZE, name="careful")
    card = yaml.safe_load((folder / "model.yaml").read_text())
    sure = {"mean": 200 / 255.0, "deviation": 0.02, "unlabelled_share": 0.0}
    linear_model.write_card(folder, dict(card, confidence=sure))
    return path


class World:
    """Frames of one brightness, each another."""

    def __init__(self, node):
        self._node = node
        self._camera = node.camera()
        self._numbers = itertools.count()
        self.level = 200

    def shows(self, level):
        self.level = level

    def send(self):
        image = np.full(SIZE + (3,), self.level, np.uint8)
        random = np.random.RandomState(next(self._numbers))
        image[..., 1:] = random.randint(0, self.level, SIZE + (2,))
        stamp = self._node.peer.node.get_clock().now().to_msg()
        self._camera.publish(image_message(image.tobytes(), SIZE, "rgb8", stamp=stamp))
        self._node.peer.spin_for(0.015)

    def until_said(self, level, *words):
        seen = len(self._node.statuses)

        def said():
            self.send()
            return [
                status
                for status in self._node.statuses[seen:]
                if status.level == level and all(word in status.message for word in words)
            ]

        return self._node.until(said, "%s in the diagnostics" % (words,))[0]


def test_it_is_said_while_the_world_is_not_what_it_was_trained_on(peer, careful, tmp_path):
    parameters = {"model": careful, "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node, node.listen(Image, "/confidence"):
        world = World(node.active())

        def looked_at():
            world.send()
            told = values_of(node.statuses[-1]) if node.statuses else {}
            return told.get("mean_confidence", "n/a") != "n/a"

        node.until(looked_at, "enough looks")
        assert float(values_of(node.statuses[-1])["mean_confidence"]) == pytest.approx(
            200 / 255.0, abs=2e-3
        )
        assert "model" not in node.statuses[-1].message
        world.shows(120)
        world.until_said(b"\x01", "model: less sure than on its validation data", "0.784")
        world.shows(200)
        world.until_said(b"\x00", "running")
        world.shows(250)
        world.until_said(b"\x01", "model: more sure than on its validation data")


def test_it_is_said_though_nobody_asks_for_the_confidence(peer, careful, tmp_path):
    parameters = {"model": careful, "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node, node.listen(FrameLatency, "/latency"):
        world = World(node.active())
        world.shows(120)
        world.until_said(b"\x01", "model: less sure than on its validation data", "0.471")


def test_of_a_card_without_the_key_nothing_is_said(peer, tiny_folder, tmp_path):
    parameters = {"model": tiny_folder, "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node, node.listen(Image, "/confidence"):
        world = World(node.active())
        world.shows(30)
        status = world.until_said(b"\x00", "running")
        for _ in range(80):
            world.send()
        assert not any("model:" in item.message for item in node.statuses)
        assert values_of(status)["mean_confidence"] == "n/a"
