"""The node on its other CPU backends: what it publishes, and what it says of how it runs."""

import json
import re
import shutil

import numpy as np
import pytest
from support.core import tiny
from support.live import Image, LiveNode, image_message, values_of
from support.vnni import need_vnni

from segmentation_node import pipeline
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.importing.model_folder import put_on_card
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


@pytest.fixture
def unsure(tmp_path):
    """The tiny model, whose card says that int8 keeps its classes; and the engine folder."""
    shutil.copytree(tiny.FOLDER, tmp_path / "model")
    scored = {"dataset": "camvid", "split": "val", "frames": 9, "mean_iou": 0.5}
    scored["global_accuracy"] = 0.9
    put_on_card(tmp_path / "model", accuracy=[scored, {**scored, "artifact": "onnx_int8"}])
    names = [name for name in ("openvino", "onnxruntime") if not BACKENDS[name].unavailable()]
    need_vnni()
    return tmp_path, [f"{name} {precision}" for name in names for precision in ("fp32", "int8")]


def test_what_auto_measured_and_took_is_told_and_remembered(peer, unsure):
    folder, candidates = unsure
    parameters = {"model": folder / "model", "backend": "auto", "precision": "auto"}
    parameters.update(engine_dir=folder / "engines", device="cpu", num_threads=1)
    with LiveNode(peer, parameters, folder) as node:
        values = values_of(node.active().until(lambda: node.statuses, "diagnostics")[-1])
        log = node.log
    times = re.findall(r"(\w+ \w+) ([\d.]+) ms", values["measured"])
    assert sorted(name for name, _ in times) == sorted(candidates)
    assert [float(ms) for _, ms in times] == sorted(float(ms) for _, ms in times)
    taken = "{backend} {precision}".format(**values)
    assert taken == times[0][0]
    assert f"auto: {values['precision']}, fastest of {len(candidates)}, " in log

    # What is remembered decides the next time, whatever would be measured then.
    path = folder / "engines" / "choices.json"
    content = json.loads(path.read_text())
    (entry,) = content["measured"]
    entry["times_ms"] = [
        1.0 if pair[:2] == ["onnxruntime", "int8"] else 9.0 for pair in entry["of"]["candidates"]
    ]
    path.write_text(json.dumps(content))
    with LiveNode(peer, parameters, folder) as node:
        values = values_of(node.active().until(lambda: node.statuses, "diagnostics")[-1])
        assert "[WARN]" not in node.log
    assert (values["backend"], values["precision"]) == ("onnxruntime", "int8")
    assert values["measured"].startswith("onnxruntime int8 1.0 ms, ")
    assert "int8 keeps the classes: mean IoU 50.0 %" in values["backend_choice"]

    path.write_text("{")
    with LiveNode(peer, parameters, folder) as node:
        node.active()
        (line,) = [line for line in node.log.splitlines() if "[WARN]" in line]
    assert f"auto: {path}: not valid JSON" in line and "measured anew" in line


def test_what_a_backend_warns_of_is_in_the_log(ros, tiny_folder, monkeypatch, capfd):
    from rclpy.parameter import Parameter

    from segmentation_node.ros.node import SegmentationNode

    def with_a_warning(*arguments):
        backend = open_backend(*arguments)
        backend.warnings.append("backend torch: the CUDA graph could not be captured")
        return backend

    monkeypatch.setattr(pipeline, "open_backend", with_a_warning)
    given = {"model": tiny_folder, "backend": "onnxruntime"}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = SegmentationNode(parameter_overrides=overrides)
    try:
        node.on_configure(None)
        assert node.state == "inactive"
    finally:
        node.stop()
        node.destroy_node()
    lines = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len(lines) == 1 and "the CUDA graph could not be captured" in lines[0]
