"""The node on its other CPU backends: what it publishes, and what it says of how it runs."""

import numpy as np
import pytest
from support.live import Image, LiveNode, image_message, values_of

from segmentation_node import pipeline
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.model_card import open_model

pytestmark = pytest.mark.ros

MODEL = "fast_elu_squeezenet_camvid"


@pytest.fixture(scope="module", params=["torch", "openvino"])
def name(request):
    missing = BACKENDS[request.param].unavailable()
    if missing:
        pytest.skip(f"NOT RUN: {missing}")
    return request.param


@pytest.fixture(scope="module")
def node(peer, name, tmp_path_factory):
    parameters = {"model": MODEL, "backend": name, "device": "cpu", "num_threads": 1}
    with LiveNode(peer, parameters, tmp_path_factory.mktemp("log")) as found:
        yield found.active()


def test_the_class_map_is_onnxruntimes(node):
    card = open_model(MODEL)
    image = np.random.RandomState(0).randint(0, 256, (*card.input_size, 3)).astype(np.uint8)
    with open_backend("onnxruntime", card, BackendOptions(device="cpu")) as backend:
        expected = backend.run(image[None]).class_map_nhw[0]
    maps = node.listen(Image, "/class_map")
    message = image_message(image.tobytes(), card.input_size, "rgb8")
    node.camera().publish(message)
    found = node.until(lambda: maps.messages, "the class map")[0]
    assert (pixels(found) == expected).mean() >= 0.9999
    maps.close()


def test_diagnostics_say_how_it_runs(node, name):
    values = values_of(node.until(lambda: node.statuses, "diagnostics")[-1])
    assert (values["backend"], values["device"], values["precision"]) == (name, "cpu", "fp32")
    assert values["execution"] == "eager"


def test_what_a_backend_warns_of_is_in_the_log(ros, monkeypatch, capfd):
    from segmentation_node.ros.node import SegmentationNode

    def with_a_warning(*arguments):
        backend = open_backend(*arguments)
        backend.warnings.append("backend torch: the CUDA graph could not be captured")
        return backend

    monkeypatch.setattr(pipeline, "open_backend", with_a_warning)
    node = SegmentationNode()
    try:
        node.on_configure(None)
        assert node.state == "inactive"
    finally:
        node.stop()
        node.destroy_node()
    lines = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len(lines) == 1 and "the CUDA graph could not be captured" in lines[0]
