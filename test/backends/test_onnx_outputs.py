"""Cutting a graph down to one output, against onnx's own tool."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.utils import Extractor

from segmentation_node.backends.onnx_outputs import keep_output

MODELS = sorted((Path(__file__).resolve().parents[2] / "models").glob("*/model.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_a_shipped_graph_keeps_what_the_class_map_needs_and_nothing_else(path):
    cut = onnx.load_from_string(keep_output(path.read_bytes(), "class_map"))
    onnx.checker.check_model(cut, full_check=True)
    expected = Extractor(onnx.load(path)).extract_model(["image"], ["class_map"])
    assert list(cut.graph.node) == list(expected.graph.node)
    named = {item.name: item for item in cut.graph.initializer}
    assert named == {item.name: item for item in expected.graph.initializer}
    assert cut.graph.output == expected.graph.output
    assert cut.metadata_props == onnx.load(path).metadata_props


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_the_class_map_stays_the_same(path):
    whole = onnxruntime.InferenceSession(str(path))
    cut = onnxruntime.InferenceSession(keep_output(path.read_bytes(), "class_map"))
    shape = whole.get_inputs()[0].shape
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(
        cut.run(None, {"image": image})[0], whole.run(["class_map"], {"image": image})[0]
    )


def test_an_output_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'depth'.*class_map"):
        keep_output(MODELS[0].read_bytes(), "depth")


@pytest.mark.parametrize("damage", [b"not a model", MODELS[0].read_bytes()[:-100]])
def test_what_is_no_model_is_refused(damage):
    with pytest.raises(ValueError, match="not protobuf"):
        keep_output(damage, "class_map")


def test_a_graph_with_control_flow_stays_whole():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["hidden"], ["negated"])],
        "branch",
        [],
        [helper.make_tensor_value_info("negated", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["hidden"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Abs", ["x"], ["z"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xyz"]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "graph", [values[0], condition], values[1:])
    model = helper.make_model(graph).SerializeToString()
    assert keep_output(model, "y") == model
