"""ONNX files that a backend refuses when it opens them, in one line."""

from pathlib import Path

import onnx
import pytest
import yaml
from onnx import helper
from support.linear_model import write_model

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.errors import BackendError
from segmentation_node.model_card import read_card, sha256_of


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    folder = Path(write_model(tmp_path / "linear", (48, 64)))
    _replace_graph(folder, b"\x0f not a model")
    with pytest.raises(BackendError, match="ONNX Runtime cannot load it: not protobuf") as caught:
        open_backend("onnxruntime", read_card(str(folder)), BackendOptions())
    assert "\n" not in str(caught.value)


def _replace_graph(folder, content):
    """Another graph under the card's name, with its hash."""
    card = yaml.safe_load((folder / "model.yaml").read_text())
    artifact = next(item for item in card["artifacts"] if item["kind"] == "onnx")
    (folder / artifact["file"]).write_bytes(content)
    artifact["sha256"] = sha256_of(str(folder / artifact["file"]))
    (folder / "model.yaml").write_text(yaml.safe_dump(card))


def _skip_unless_it_is_there(backend):
    missing = BACKENDS[backend].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("place", ["initializer", "node"])
def test_weights_in_another_file_are_refused(backend, place, tmp_path, monkeypatch):
    """They lie where a run time would find them: in the folder that the process is in."""
    _skip_unless_it_is_there(backend)
    folder = Path(write_model(tmp_path / "linear", (48, 64)))
    model = onnx.load(folder / "model.onnx")
    tensor = next(item for item in model.graph.initializer if item.name == "weight")
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    if place == "node":
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=tensor))
        tensor = model.graph.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    _replace_graph(folder, model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendError, match="its weights are in 'weights.bin'") as caught:
        open_backend(backend, read_card(str(folder)), BackendOptions())
    assert "\n" not in str(caught.value)
    # What the message says to do.
    (folder / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes())
    onnx.save(onnx.load(folder / "model.onnx"), folder / "model.onnx")
    _replace_graph(folder, (folder / "model.onnx").read_bytes())
    open_backend(backend, read_card(str(folder)), BackendOptions()).close()


def test_a_group_in_a_file_is_one_line_on_openvino(tmp_path):
    """OpenVINO passes over it, as over every unknown field."""
    _skip_unless_it_is_there("openvino")
    folder = Path(write_model(tmp_path / "linear", (48, 64)))
    _replace_graph(folder, (folder / "model.onnx").read_bytes() + b"\xa3\x06\xa4\x06")
    with pytest.raises(BackendError, match="cannot load it: not protobuf: wire type 3"):
        open_backend("openvino", read_card(str(folder)), BackendOptions())
