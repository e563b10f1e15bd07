"""An ONNX file with its ELUs and PReLUs written in operators that ONNX Runtime computes faster.

Its Elu and PRelu take longer than the same arithmetic in Clip, Exp and their like, which use all of
a vector register. Only what ONNX Runtime is given is changed: the file keeps the operators, since
TensorRT and OpenVINO fuse them into the convolutions before them.
"""

import struct
from typing import Callable, Dict, List, Tuple

from segmentation_node.backends.onnx_file import Field, fields_of, names_in, pack, pack_integer

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_FLOAT = 2
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 2, 8, 9
_FLOAT16, _DOUBLE, _BFLOAT16 = 10, 11, 16
_FLOAT = 1

CLIP_TAKES_INPUTS = 11
"""The opset from which on Clip's limits are inputs."""
_ZERO, _ONE = "spelled_out_zero", "spelled_out_one"
_CONSTANTS = {_ZERO: 0.0, _ONE: 1.0}


def spell_out_activations(model: bytes) -> bytes:
    """The model with every Elu of alpha 1 and every PRelu replaced; the rest stays as it is.

    ``elu(x) = max(x, exp(min(x, 0)) - 1)``; ``prelu(x, a) = max(x, 0) + a min(x, 0)``. The first
    differs from Elu by the rounding of exp, at most some 1e-7; the second only
    for minus infinity, which Clip makes the least number. A graph in another precision than
    float32 or of an opset before 11 comes back as it is. Raises ValueError when ``model`` is not
    protobuf.
    """
    fields = list(fields_of(model))
    if _opset(fields) < CLIP_TAKES_INPUTS:
        return model
    return b"".join(
        pack(_MODEL_GRAPH, _rewritten(field.value)) if field.number == _MODEL_GRAPH else field.raw
        for field in fields
    )


def _opset(model: List[Field]) -> int:
    """Version of ONNX's own operators; 0 where the model has none."""
    for field in model:
        if field.number == _MODEL_OPSET:
            parts = {part.number: part for part in fields_of(field.value)}
            if _OPSET_DOMAIN not in parts or not parts[_OPSET_DOMAIN].value:
                return parts[_OPSET_VERSION].integer
    return 0


def _rewritten(graph: bytes) -> bytes:
    fields = list(fields_of(graph))
    if any(field.number == _GRAPH_INITIALIZER and _is_other_float(field.value) for field in fields):
        return graph
    nodes_and_rest = b"".join(
        (_spelled_out(field.value) if field.number == _GRAPH_NODE else b"") or field.raw
        for field in fields
    )
    taken = {
        name
        for field in fields_of(nodes_and_rest)
        if field.number == _GRAPH_NODE
        for name in names_in(field.value, _NODE_INPUT)
    }
    constants = [_scalar(name, value) for name, value in _CONSTANTS.items() if name in taken]
    return nodes_and_rest + b"".join(constants)


def _spelled_out(node: bytes) -> bytes:
    """The graph's fields in place of a node; empty where it stays."""
    operator, domain = names_in(node, _NODE_OPERATOR), names_in(node, _NODE_DOMAIN)
    if len(operator) != 1 or operator[0] not in _SPELLINGS or any(domain):
        return b""
    inputs, output = names_in(node, _NODE_INPUT), names_in(node, _NODE_OUTPUT)[0]
    if any(alpha != 1.0 for alpha in _float_attributes(node)):
        return b""
    nodes = _SPELLINGS[operator[0]](inputs, output)
    return b"".join(pack(_GRAPH_NODE, _node(*parts)) for parts in nodes)


_Node = Tuple[str, List[str], str]  # operator, inputs, output


def _elu(inputs: List[str], output: str) -> List[_Node]:
    negative, power, below = (output + "/" + part for part in ("negative", "power", "below"))
    return [
        ("Clip", [inputs[0], "", _ZERO], negative),
        ("Exp", [negative], power),
        ("Sub", [power, _ONE], below),
        # Below zero exp(x) - 1 is above x; from zero on it is 0, since x was clipped.
        ("Max", [inputs[0], below], output),
    ]


def _prelu(inputs: List[str], output: str) -> List[_Node]:
    negative, below, above = (output + "/" + part for part in ("negative", "below", "above"))
    return [
        ("Clip", [inputs[0], "", _ZERO], negative),
        ("Mul", [negative, inputs[1]], below),
        ("Clip", [inputs[0], _ZERO], above),
        ("Add", [above, below], output),
    ]


_SPELLINGS: Dict[str, Callable[[List[str], str], List[_Node]]] = {"Elu": _elu, "PRelu": _prelu}


def _node(operator: str, inputs: List[str], output: str) -> bytes:
    return (
        b"".join(pack(_NODE_INPUT, name.encode()) for name in inputs)
        + pack(_NODE_OUTPUT, output.encode())
        + pack(_NODE_OPERATOR, operator.encode())
    )


def _scalar(name: str, value: float) -> bytes:
    """The graph's field of a float32 constant."""
    tensor = pack_integer(_TENSOR_TYPE, _FLOAT) + pack(_TENSOR_NAME, name.encode())
    return pack(_GRAPH_INITIALIZER, tensor + pack(_TENSOR_RAW, struct.pack("<f", value)))


def _is_other_float(tensor: bytes) -> bool:
    return any(
        field.number == _TENSOR_TYPE and field.integer in (_FLOAT16, _DOUBLE, _BFLOAT16)
        for field in fields_of(tensor)
    )


def _float_attributes(node: bytes) -> List[float]:
    return [
        struct.unpack("<f", part.raw[-4:])[0]
        for field in fields_of(node)
        if field.number == _NODE_ATTRIBUTE
        for part in fields_of(field.value)
        if part.number == _ATTRIBUTE_FLOAT
    ]
