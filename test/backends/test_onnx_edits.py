"""ONNX files edited as bytes: one output alone, classes selected early, ELUs and PReLUs in other
operators.

Held against onnx's own tool and against ONNX's own definition of the operators.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor
from support.shipped import one_of_each_network
from support.small_exports import operators

from benchmarks.measured_models import random_model, resized
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.onnx_edits import (
    decode_weights,
    keep_output,
    select_before_enlarging,
    spell_out_activations,
)

MODELS = sorted((Path(__file__).resolve().parents[2] / "models").glob("*/model.onnx"))
# Both sides of zero, the edges of exp, and values whose exp rounds to 1.
VALUES = np.array(
    [0.0, -0.0, 1e-9, -1e-9, -3e-8, -1e-7, -1e-4, 0.5, -0.5, 3.0, -3.0, 90.0, -90.0, -110.0,
     1e30, -1e30, np.inf, -np.inf],
    np.float32,
)  # fmt: skip
SHAPE = (1, 3, 2, len(VALUES))


# One output alone


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


@one_of_each_network("model", [path.parent for path in MODELS])
def test_the_class_map_stays_the_same(model):
    path = model / "model.onnx"
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


def test_nodes_in_any_order_and_constants_that_are_listed_as_inputs():
    """Run times sort the first; older files have the second, which nobody could feed."""
    nodes = [
        helper.make_node("Mul", ["hidden", "factor"], ["y"]),
        helper.make_node("Add", ["x", "shift"], ["z"]),
        helper.make_node("Dropout", ["x"], ["hidden", ""]),
    ]
    constants = [
        numpy_helper.from_array(np.full(1, 2.0, np.float32), n) for n in ("factor", "shift")
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        for name in ("x", "factor", "shift", "y", "z")
    ]
    graph = helper.make_graph(nodes, "graph", values[:3], values[3:], constants)
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    cut = keep_output(model, "y")
    assert [item.name for item in onnx.load_from_string(cut).graph.input] == ["x", "factor"]
    (found,) = onnxruntime.InferenceSession(cut).run(None, {"x": np.ones(1, np.float32)})
    np.testing.assert_array_equal(found, [2.0])


@pytest.mark.parametrize(
    "damage", [b"not a model", MODELS[0].read_bytes()[:-100], b"\x08" + b"\xff" * 1000000]
)
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


# Some classes alone


def choosing_model(
    axis=1, scales=(1, 1, 2, 2), more_outputs=(), constant_scales=True, kept=(2, 0), fixed=True
):
    """scores (1, 3, 4, 5), twice as large, channels or rows 2 and 0 of it: y."""
    nodes = [
        helper.make_node("Resize", ["scores", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Gather", ["large", "kept"], ["y"], axis=axis),
    ]
    entries = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, 4, 5])]
    values = {"kept": np.array(kept), "scales": np.array(scales, np.float32)}
    if not constant_scales:
        entries.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, [4]))
        del values["scales"]
    if not fixed:
        entries.append(helper.make_tensor_value_info("kept", TensorProto.INT64, [2]))
        del values["kept"]
    graph = helper.make_graph(
        nodes,
        "choosing",
        entries,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in (("y", 3 + np.ndim(kept)), *((name, 4) for name in more_outputs))
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opset, ir_version=8)
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def test_classes_are_selected_before_they_are_enlarged():
    model = choosing_model()
    changed = select_before_enlarging(model)
    onnx.checker.check_model(onnx.load_from_string(changed), full_check=True)
    assert operators(changed) == ["Gather", "Resize"]
    scores = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)
    found, expected = (
        onnxruntime.InferenceSession(item).run(None, {"scores": scores})[0]
        for item in (changed, model)
    )
    assert found.shape == (1, 2, 8, 10)
    np.testing.assert_array_equal(found, expected)
    assert select_before_enlarging(changed) == changed


@pytest.mark.parametrize(
    "model",
    [
        choosing_model(axis=2),
        choosing_model(scales=(1, 2, 2, 2)),
        choosing_model(more_outputs=["large"]),
        choosing_model(constant_scales=False),
        choosing_model(kept=1),  # which takes the channels' axis away
        choosing_model(kept=[[2, 0]]),
        choosing_model(fixed=False),
    ],
)
def test_another_choice_stays_where_it_is(model):
    assert select_before_enlarging(model) == model


def test_what_a_branch_may_read_stays_where_it_is():
    model = onnx.load_from_string(choosing_model())
    kept = helper.make_tensor_value_info("kept_as_it_is", TensorProto.FLOAT, [None] * 4)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["large"], ["kept_as_it_is"])], "branch", [], [kept]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    )
    content = model.SerializeToString()
    assert select_before_enlarging(content) == content


def test_the_shipped_model_of_some_classes_selects_them_early():
    (path,) = (path for path in MODELS if path.parent.name == "fast_elu_squeezenet_street")
    order = operators(select_before_enlarging(path.read_bytes()))
    enlargements = [index for index, name in enumerate(order) if name == "Resize"]
    assert enlargements[-2] < order.index("Gather") < enlargements[-1]


# Activations


def model_of(*nodes, opset=13, dtype=np.float32):
    """x -> y, with slopes of three channels under the name ``slope``."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    slope = np.array([0.25, -0.5, 2.0], dtype).reshape(3, 1, 1)
    graph = helper.make_graph(
        nodes,
        "activations",
        [helper.make_tensor_value_info("x", kind, SHAPE)],
        [helper.make_tensor_value_info("y", kind, SHAPE)],
        [numpy_helper.from_array(slope, "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


ELU = helper.make_node("Elu", ["x"], ["y"], alpha=1.0)
PRELU = helper.make_node("PRelu", ["x", "slope"], ["y"])


@pytest.mark.parametrize("node", [ELU, helper.make_node("Elu", ["x"], ["y"]), PRELU])
def test_values_are_those_of_the_operator(node, capfd):
    model = model_of(node)
    spelled = spell_out_activations(model)
    onnx.checker.check_model(onnx.load_from_string(spelled), full_check=True)
    assert not {"Elu", "PRelu"} & set(operators(spelled))
    x = np.broadcast_to(VALUES, SHAPE)
    if node.op_type == "Elu":
        expected = np.where(x > 0, x, np.expm1(np.minimum(x, 0).astype(np.float64)))
    else:
        x = np.nan_to_num(x) / 4
        expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    found = onnxruntime.InferenceSession(spelled).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1.2e-7)
    # ONNX Runtime complains of constants that nothing takes.
    assert "spelled_out" not in capfd.readouterr().err


def test_no_value_on_the_way_is_a_denormal_number():
    """One takes ten times as long, and activations of trained networks go far below -87."""
    model = onnx.load_from_string(spell_out_activations(model_of(ELU)))
    del model.graph.output[:]
    for node in model.graph.node:
        value = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, SHAPE)
        model.graph.output.append(value)
    x = np.linspace(-104, -80, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    for found in onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x}):
        assert (abs(found[found != 0]) >= np.finfo(np.float32).tiny).all()


def test_several_in_one_graph_stay_apart():
    first = helper.make_node("Elu", ["x"], ["hidden"])
    spelled = spell_out_activations(model_of(first, helper.make_node("Elu", ["hidden"], ["y"])))
    onnx.checker.check_model(onnx.load_from_string(spelled), full_check=True)
    x = np.linspace(-4, 4, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    expected = np.where(x > 0, x, np.expm1(np.expm1(np.minimum(x, 0))))
    found = onnxruntime.InferenceSession(spelled).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize(
    "model",
    [
        model_of(helper.make_node("Elu", ["x"], ["y"], alpha=0.5)),
        model_of(helper.make_node("Tanh", ["x"], ["y"])),
        model_of(ELU, opset=10),
        model_of(PRELU, dtype=np.float16),
        model_of(
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Elu", ["half"], ["below"]),
            helper.make_node("Cast", ["below"], ["y"], to=TensorProto.FLOAT),
        ),
        model_of(
            helper.make_node(
                "Constant", [], ["half"], value=numpy_helper.from_array(np.ones(1, np.float16))
            ),
            helper.make_node("CastLike", ["x", "half"], ["halves"]),
            helper.make_node("Elu", ["halves"], ["below"]),
            helper.make_node("CastLike", ["below", "slope"], ["y"]),
            opset=15,
        ),
    ],
    ids=[
        "another alpha",
        "nothing to do",
        "clip without inputs",
        "half precision",
        "cast to half precision",
        "a node's half precision",
    ],
)
def test_what_cannot_be_spelled_out_stays_as_it_is(model):
    assert spell_out_activations(model) == model


def test_a_node_of_another_domain_is_not_taken_for_onnxs():
    node = helper.make_node("Elu", ["x"], ["y"], domain="somebody.else")
    graph = helper.make_graph(
        [node],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("somebody.else", 1), helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets).SerializeToString()
    assert spell_out_activations(model) == model


@pytest.mark.parametrize("network", ["elu_squeezenet", "enet", "fast_elu_squeezenet"])
def test_the_backend_gives_the_class_map_of_the_file(network, tmp_path, one_thread):
    """The backend, which spells them out, against ONNX Runtime on the file as it is."""
    card = resized(random_model(network, "camvid11", tmp_path / network), (32, 48), tmp_path)
    path = card.artifact_path("onnx")
    with open(path, "rb") as file:
        assert {"Elu", "PRelu"} & set(operators(file.read()))
    image = np.random.default_rng(3).integers(0, 256, (1, 32, 48, 3), np.uint8)
    expected = onnxruntime.InferenceSession(path).run(["class_map"], {"image": image})[0]
    assert len(np.unique(expected)) > 1
    with open_backend("onnxruntime", card, BackendOptions(num_threads=1)) as backend:
        found = backend.run(image).class_map_nhw
    assert (found == expected).mean() >= 0.999


def _add_a_nameless_constant(model):
    model.graph.initializer.add().raw_data = b""


def _add_a_gather_without_inputs(model):
    model.graph.node.append(helper.make_node("Gather", [], ["gathered"], axis=1))


def _give_the_operators_no_version(model):
    model.opset_import[0].ClearField("version")


@pytest.mark.parametrize(
    "change",
    [
        _add_a_nameless_constant,
        _add_a_gather_without_inputs,
        _give_the_operators_no_version,
    ],
)
def test_what_a_run_time_refuses_is_left_to_it(change):
    model = onnx.load_from_string(choosing_model())
    change(model)
    content = model.SerializeToString()
    changed = spell_out_activations(select_before_enlarging(decode_weights(content)))
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        onnxruntime.InferenceSession(changed)


def test_an_operator_without_ends_is_left_to_the_run_time():
    model = onnx.load_from_string(model_of(ELU))
    model.graph.node.add().op_type = "Elu"
    assert operators(spell_out_activations(model.SerializeToString()))[-1] == "Elu"
