"""The node on an imported network: its class map is the original's, and 255 where that has none."""

import numpy as np
import pytest
from support.live import Image, LiveNode, image_message

from segmentation_node.evaluation.live.pairing import pixels

onnx = pytest.importorskip("onnx", reason="IMPORTED NETWORK NOT RUN: importing needs onnx")
from support import foreign_networks  # noqa: E402

from segmentation_node.importing.__main__ import main  # noqa: E402

pytestmark = pytest.mark.ros


def test_the_class_map_is_the_originals(peer, tmp_path):
    network = foreign_networks.Network(channels=3)
    network.gives(network.add("Sigmoid", [network.scores])).save(tmp_path / "net.onnx")
    images = foreign_networks.pictures(tmp_path / "images")
    labels = foreign_networks.labels_file(tmp_path / "labels.yaml", 3)
    model = tmp_path / "model"
    options = ["--scale", str(1 / 255), "--labels", str(labels), "--images", str(images)]
    assert main([str(tmp_path / "net.onnx"), "--output", str(model), *options]) == 0
    picture = foreign_networks.read(sorted(images.iterdir())[0])
    scores = foreign_networks.scores_of(picture, 3)
    expected = np.where(scores.max(axis=0) > 0, scores.argmax(axis=0), 255)
    parameters = {"model": str(model), "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path) as node:
        node.active()
        maps = node.listen(Image, "/class_map")
        node.camera().publish(image_message(picture.tobytes(), picture.shape[:2], "rgb8"))
        found = node.until(lambda: maps.messages, "the class map")[0]
        assert (pixels(found) == expected).mean() >= 0.999
        labels = node.until(lambda: node.label_info, "labels")
        names = [item.name for item in labels.classes]
        maps.close()
    assert names == ["class 0", "class 1", "class 2"]
