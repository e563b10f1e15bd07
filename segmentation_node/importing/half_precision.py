"""A static graph in half precision: float16 between its input and its output."""

import copy
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segmentation_node.errors import NetworkImportError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
STAY_FLOAT = {"Resize": (1, 2), "Upsample": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
"""By operator the inputs that are float32 whatever it computes in."""
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def halved(static: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes, computes and gives float16 where it did float32.

    A constant that half precision has not becomes the nearest that it has; none becomes 0. Raises
    NetworkImportError for a graph with control flow.
    """
    model = copy.deepcopy(static)
    graph = model.graph
    if any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        raise NetworkImportError("a graph with control flow is not rewritten")
    _separate_floats(graph)
    kept = {node.input[index] for node, index in _floats_that_stay(graph)}
    for constant in graph.initializer:
        if constant.data_type == FLOAT and constant.name not in kept:
            constant.CopyFrom(_half(constant, constant.name))
    for node in graph.node:
        _halve_attributes(node)
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = HALF
    return model


def _separate_floats(graph: onnx.GraphProto) -> None:
    """Give those that stay float32 a constant of their own, which nothing else takes."""
    constants = {item.name: item for item in graph.initializer}
    for node, index in _floats_that_stay(graph):
        constant = constants.get(node.input[index])
        if constant is None:
            raise NetworkImportError(f"{node.op_type} has scales that are no constants")
        own = copy.deepcopy(constant)
        own.name = f"{node.output[0]}/input_{index}"
        node.input[index] = own.name
        graph.initializer.append(own)


def _floats_that_stay(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    for node in graph.node:
        for index in STAY_FLOAT.get(node.op_type, ()):
            if index < len(node.input) and node.input[index]:
                yield node, index


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
            attribute.i = HALF
        elif attribute.HasField("t") and attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))
    is_bare = node.op_type == "ConstantOfShape" and not node.attribute
    if is_bare:
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(helper.make_attribute("value", zero))


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    near = np.clip(values, -LARGEST, LARGEST)
    vanishing = (near != 0) & (np.abs(near) < SMALLEST)
    near = np.where(vanishing, np.copysign(SMALLEST, near), near)
    return numpy_helper.from_array(near.astype(np.float16), name)
