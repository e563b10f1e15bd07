"""Weights that an ONNX file stores as int8, decoded as bytes.

Held against ONNX's own definition of DequantizeLinear.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.small_exports import operators

from segmentation_node.backends.onnx_edits import (
    decode_weights,
)


def decoding_model(*others, axis=1, zero_point=False, codes_are_input=False):
    """x -> y, which adds int8 codes (2, 3) times scales along an axis, and ``others`` before it."""
    codes = np.array([[1, -127, 3], [0, 5, -6]], np.int8)
    scales = np.array([0.5, 0.25, 3.0][: codes.shape[axis]], np.float32)
    inputs = ["codes", "scales", "zeros"] if zero_point else ["codes", "scales"]
    constants = {"codes": codes, "scales": scales, "zeros": np.ones(len(scales), np.int8)}
    constants["shift"] = np.float32(2.0)
    taken = {name for node in others for name in node.input} | set(inputs)
    values = {name: value for name, value in constants.items() if name in taken}
    entries = [helper.make_tensor_value_info("x", TensorProto.FLOAT, codes.shape)]
    if codes_are_input:
        entries.append(helper.make_tensor_value_info("codes", TensorProto.INT8, codes.shape))
        del values["codes"]
    last = others[-1].output[0] if others else "x"
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", inputs, ["weights"], axis=axis),
            *others,
            helper.make_node("Add", [last, "weights"], ["y"]),
        ],
        "decoding",
        entries,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, codes.shape)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("others", [[], [helper.make_node("Add", ["x", "shift"], ["z"])]])
def test_int8_weights_become_float32_and_the_rest_stays(axis, others):
    model = decoding_model(*others, axis=axis)
    decoded = decode_weights(model)
    onnx.checker.check_model(onnx.load_from_string(decoded), full_check=True)
    assert operators(decoded) == [node.op_type for node in others] + ["Add"]
    constants = [item.name for item in onnx.load_from_string(decoded).graph.initializer]
    assert sorted(constants) == ["shift"] * len(others) + ["weights"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found, expected = (
        onnxruntime.InferenceSession(item).run(None, {"x": x})[0] for item in (decoded, model)
    )
    np.testing.assert_array_equal(found, expected)
    assert decode_weights(decoded) == decoded


@pytest.mark.parametrize(
    "model",
    [
        decoding_model(zero_point=True),
        decoding_model(codes_are_input=True),
        # It computes in int8.
        decoding_model(helper.make_node("QuantizeLinear", ["x", "shift"], ["q"]),
                       helper.make_node("DequantizeLinear", ["q", "shift"], ["z"])),
    ],
)  # fmt: skip
def test_other_int8_stays_as_it_is(model):
    assert decode_weights(model) == model


def changed(model, change):
    """A model's bytes after ``change(graph)``."""
    loaded = onnx.load_from_string(model)
    change(loaded.graph)
    return loaded.SerializeToString()


def _leave_the_axis_out(graph):
    del graph.node[0].attribute[:]  # ONNX says that it is 1


def _count_the_axis_from_behind(graph):
    graph.node[0].attribute[0].i = -1


def _list_the_codes_as_input(graph):
    graph.input.append(helper.make_tensor_value_info("codes", TensorProto.INT8, [2, 3]))


def _give_the_codes_too(graph):
    graph.output.append(helper.make_tensor_value_info("codes", TensorProto.INT8, [2, 3]))


@pytest.mark.parametrize(
    "change",
    [
        _leave_the_axis_out,
        _count_the_axis_from_behind,
        _list_the_codes_as_input,
        _give_the_codes_too,
    ],
)
def test_int8_weights_are_decoded_however_the_file_says_it(change):
    model = changed(decoding_model(), change)
    decoded = decode_weights(model)
    assert operators(decoded) == ["Add"]
    x = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    runs = [onnxruntime.InferenceSession(item).run(None, x) for item in (decoded, model)]
    for found, expected in zip(*runs, strict=True):
        np.testing.assert_array_equal(found, expected)


def _store_the_scales_as_numbers(graph):
    scales = next(item for item in graph.initializer if item.name == "scales")
    values = numpy_helper.to_array(scales).tolist()
    scales.CopyFrom(helper.make_tensor("scales", TensorProto.FLOAT, [3], values))


def _cut_the_codes_short(graph):
    codes = next(item for item in graph.initializer if item.name == "codes")
    codes.raw_data = codes.raw_data[:-1]


def _share_scales_by_blocks(graph):
    graph.node[0].attribute.append(helper.make_attribute("block_size", 2))


def _add_a_branch(graph):
    kept = helper.make_tensor_value_info("kept", TensorProto.INT8, [2, 3])
    branch = helper.make_graph(
        [helper.make_node("Identity", ["codes"], ["kept"])], "branch", [], [kept]
    )
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    )


@pytest.mark.parametrize(
    "change",
    [_store_the_scales_as_numbers, _cut_the_codes_short, _share_scales_by_blocks, _add_a_branch],
)
def test_int8_weights_in_another_form_stay_for_the_run_time(change):
    model = changed(decoding_model(), change)
    assert decode_weights(model) == model
