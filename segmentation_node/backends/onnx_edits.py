"""ONNX files as run times want them: cut, weights decoded, classes selected early, activations
spelled out.

All of it is done to the bytes when a model is loaded, since one file serves every run time and a
robot has no other use for the ``onnx`` package.
"""

import struct
from functools import reduce
from operator import mul
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from segmentation_node.backends.wire_format import (
    VARINT,
    Field,
    fields_of,
    packed,
    parts_of,
    texts_of,
    varint_of,
)

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TENSOR = 1, 2, 3, 5
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS = (6, 11), (5, 10)
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_ELSEWHERE = 1, 2, 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME = 1
_FLOAT, _INT8, _OTHER_FLOATS = 1, 3, (10, 11, 16)  # float16, double, bfloat16
_RAW_TYPES = {_FLOAT: "<f4", _INT8: "i1"}

CLIP_TAKES_INPUTS = 11
"""The opset from which on Clip's limits are inputs."""


# Weights in other files


def files_of_weights(model: bytes) -> List[str]:
    """The other files that a model keeps tensors in, as it names them.

    Raises ValueError when ``model`` is not protobuf.
    """
    graphs = [field.value for field in fields_of(model) if field.number == _MODEL_GRAPH]
    entries = (
        field.value
        for graph in graphs
        for tensor in _tensors_of(graph)
        for field in fields_of(tensor)
        if field.number == _TENSOR_ELSEWHERE
    )
    return sorted(
        {
            location
            for entry in entries
            if texts_of(entry, _ENTRY_KEY) == ["location"]
            for location in texts_of(entry, _ENTRY_VALUE)
        }
    )


def _tensors_of(graph: bytes) -> Iterator[bytes]:
    """Constants, those in attributes and subgraphs too."""
    for field in fields_of(graph):
        if field.number == _GRAPH_INITIALIZER:
            yield field.value
        elif field.number == _GRAPH_NODE:
            for part in _attribute_parts(field.value):
                if part.number in _ATTRIBUTE_TENSORS:
                    yield part.value
                elif part.number in _ATTRIBUTE_GRAPHS:
                    yield from _tensors_of(part.value)


# Some outputs alone


def keep_output(model: bytes, *outputs: str) -> bytes:
    """The model with these outputs alone, and only the nodes and initializers that they need.

    A run time computes every node of a graph, whatever outputs are fetched. A graph with control
    flow comes back as it is. Raises ValueError when ``model`` is not an ONNX model with such
    outputs.
    """
    return _with_graph(list(fields_of(model)), lambda graph: _cut(graph, outputs))


def _cut(graph: bytes, kept: Sequence[str]) -> bytes:
    fields = list(fields_of(graph))
    outputs = [
        texts_of(field.value, _VALUE_NAME) for field in fields if field.number == _GRAPH_OUTPUT
    ]
    for output in kept:
        if [output] not in outputs:
            raise ValueError("no output %r; found %s" % (output, outputs))
    if any(field.number == _GRAPH_NODE and _has_subgraph(field.value) for field in fields):
        return graph
    needed = _needed(fields, kept)
    dropped = set(_constants_of(fields)) - needed
    return b"".join(field.raw for field in fields if _is_kept(field, needed, dropped, kept))


def _needed(fields: List[Field], outputs: Sequence[str]) -> Set[str]:
    """Names of all values that the outputs depend on, in whatever order the nodes stand."""
    makers = _makers_of(fields)
    needed: Set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name and name not in needed:  # an optional one that is left out has no name
            needed.add(name)
            waiting += texts_of(makers[name].value, _NODE_INPUT) if name in makers else []
    return needed


def _is_kept(field: Field, needed: Set[str], dropped: Set[str], outputs: Sequence[str]) -> bool:
    if field.number == _GRAPH_NODE:
        return bool(needed.intersection(texts_of(field.value, _NODE_OUTPUT)))
    if field.number == _GRAPH_OUTPUT:
        return texts_of(field.value, _VALUE_NAME)[0] in outputs
    return not _names_one_of(dropped, field)


def _names_one_of(constants: Set[str], field: Field) -> bool:
    """Whether a graph's field is one of these constants, or the input that older files list it as.

    Left there, the input would have to be fed.
    """
    numbers = {_GRAPH_INITIALIZER: _TENSOR_NAME, _GRAPH_INPUT: _VALUE_NAME}
    number = numbers.get(field.number)
    return number is not None and bool(constants.intersection(texts_of(field.value, number)))


def _has_subgraph(node: bytes) -> bool:
    return any(part.number in _ATTRIBUTE_GRAPHS for part in _attribute_parts(node))


# Weights that are stored as int8

_DECODER = "DequantizeLinear"


def decode_weights(model: bytes) -> bytes:
    """The model with float32 weights where DequantizeLinear makes them of int8 constants.

    Otherwise ONNX Runtime would decode them in every run, and TensorRT take the graph for one that
    computes in int8. One that does, with QuantizeLinear in it, comes back as it is. Raises
    ValueError when ``model`` is not protobuf.
    """
    if _DECODER.encode() not in model:
        return model
    return _with_graph(list(fields_of(model)), _decoded)


def _decoded(graph: bytes) -> bytes:
    fields = list(fields_of(graph))
    nodes = [field for field in fields if field.number == _GRAPH_NODE]
    operators = {name for node in nodes for name in texts_of(node.value, _NODE_OPERATOR)}
    if "QuantizeLinear" in operators or any(_has_subgraph(node.value) for node in nodes):
        return graph
    constants = _constants_of(fields)
    decoded = {node.raw: _decoded_node(node.value, constants) for node in nodes}
    needed = set(_output_names(fields))
    taken: Set[str] = set()
    for node in nodes:
        (taken if decoded[node.raw] else needed).update(texts_of(node.value, _NODE_INPUT))
    kept = [
        field.raw
        for field in fields
        if not decoded.get(field.raw) and not _names_one_of(taken - needed, field)
    ]
    return b"".join(kept + list(decoded.values()))


def _decoded_node(node: bytes, constants: Dict[str, bytes]) -> bytes:
    """The graph's field of the weights that a node makes; empty where it makes none."""
    inputs = texts_of(node, _NODE_INPUT)
    is_decoder = texts_of(node, _NODE_OPERATOR) == [_DECODER] and len(inputs) == 2
    if not is_decoder or not all(name in constants for name in inputs):
        return b""
    codes, scales = (_array_of(constants[name]) for name in inputs)
    if codes is None or scales is None or codes.dtype != np.int8 or scales.dtype != np.float32:
        return b""
    attributes = _integers_of(node)
    axis = attributes.pop("axis", 1)
    if any(attributes.values()):  # blocks that share a scale, another type
        return b""
    if scales.size == 1:
        scales = scales.reshape(())
    elif scales.ndim == 1 and codes.shape[axis : axis + 1 or None] == scales.shape:
        scales = scales.reshape([-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)])
    else:
        return b""
    dimensions = b"".join(
        part.raw for part in fields_of(constants[inputs[0]]) if part.number == _TENSOR_DIMENSION
    )
    values = (codes.astype(np.float32) * scales).astype("<f4").tobytes()
    return _tensor(texts_of(node, _NODE_OUTPUT)[0], dimensions, values)


def _array_of(tensor: bytes) -> Optional[np.ndarray]:
    """A constant of float32 or int8; None for another one, or one that is stored otherwise."""
    parts = parts_of(tensor)
    dimensions, raws = parts.get(_TENSOR_DIMENSION, []), parts.get(_TENSOR_RAW, [])
    shape = [part.integer for part in dimensions]
    types = [_RAW_TYPES.get(part.integer) for part in parts.get(_TENSOR_TYPE, [])]
    is_packed = any(part.value for part in dimensions)
    if is_packed or len(raws) != 1 or len(types) != 1 or types[0] is None:
        return None
    values = np.frombuffer(raws[0].value, types[0])
    return values.reshape(shape) if values.size == reduce(mul, shape, 1) else None


def _integers_of(node: bytes) -> Dict[str, int]:
    """A node's attributes that are integers, by name."""
    found: Dict[str, int] = {}
    for field in fields_of(node):
        parts = parts_of(field.value) if field.number == _NODE_ATTRIBUTE else {}
        for part in parts.get(_ATTRIBUTE_INTEGER, []):
            is_negative = part.integer >= 1 << 63
            name = parts[_ATTRIBUTE_NAME][0].value.decode()
            found[name] = part.integer - (1 << 64 if is_negative else 0)
    return found


# Some classes alone


def select_before_enlarging(model: bytes) -> bytes:
    """The model with a choice of channels before an enlargement of each, where it stood behind.

    A card's ``trained_classes`` choose among the scores at full size. Raises ValueError when
    ``model`` is not protobuf.
    """
    return _with_graph(list(fields_of(model)), _selected_early) if b"Gather" in model else model


def _selected_early(graph: bytes) -> bytes:
    fields = list(fields_of(graph))
    nodes = [field for field in fields if field.number == _GRAPH_NODE]
    if any(_has_subgraph(node.value) for node in nodes):  # which may read what is moved
        return graph
    makers = _makers_of(fields)
    read = [name for node in nodes for name in texts_of(node.value, _NODE_INPUT)]
    read += _output_names(fields)
    constants = _constants_of(fields)
    changed: Dict[bytes, bytes] = {}
    for node in nodes:
        if not _chooses_channels(node.value, constants):
            continue
        large = texts_of(node.value, _NODE_INPUT)[0]
        resize = makers.get(large)
        if resize is None or read.count(large) != 1:
            continue
        if _enlarges_planes(resize.value, constants):
            small = texts_of(resize.value, _NODE_INPUT)[0]
            output = texts_of(node.value, _NODE_OUTPUT)[0]
            # A name of its own: the file may tell the old one's shape.
            selected = output + "/selected"
            changed[resize.raw] = _between(node.value, small, selected)
            changed[node.raw] = _between(resize.value, selected, output)
    return b"".join(changed.get(field.raw, field.raw) for field in fields)


def _chooses_channels(node: bytes, constants: Dict[str, bytes]) -> bool:
    """Whether a Gather takes a list of channels: one number in its place takes their axis away."""
    if texts_of(node, _NODE_OPERATOR) != ["Gather"] or _integers_of(node) != {"axis": 1}:
        return False
    kept = constants.get("".join(texts_of(node, _NODE_INPUT)[1:2]), b"")
    sides = parts_of(kept).get(_TENSOR_DIMENSION, [])
    return len(sides) == 1 and not sides[0].value  # packed, it may stand for several


def _enlarges_planes(node: bytes, constants: Dict[str, bytes]) -> bool:
    inputs = texts_of(node, _NODE_INPUT)
    names = [part.value for part in _attribute_parts(node) if part.number == _ATTRIBUTE_NAME]
    is_scaled = len(inputs) == 3 and inputs[2] in constants and b"axes" not in names
    if texts_of(node, _NODE_OPERATOR) != ["Resize"] or not is_scaled:
        return False
    scales = [part.value for part in parts_of(constants[inputs[2]]).get(_TENSOR_RAW, [])]
    return len(scales) == 1 and scales[0][:8] == struct.pack("<2f", 1.0, 1.0)


def _between(node: bytes, first_input: str, output: str) -> bytes:
    """The graph's field of a node with another first input and output."""
    parts, inputs = list(fields_of(node)), texts_of(node, _NODE_INPUT)
    ends = [packed(_NODE_INPUT, name.encode()) for name in [first_input] + inputs[1:]]
    ends.append(packed(_NODE_OUTPUT, output.encode()))
    rest = [part.raw for part in parts if part.number not in (_NODE_INPUT, _NODE_OUTPUT)]
    return packed(_GRAPH_NODE, b"".join(ends + rest))


# Activations


def spell_out_activations(model: bytes) -> bytes:
    """The model with every Elu of alpha 1 and every PRelu replaced; the rest stays as it is.

    ONNX Runtime's Elu and PRelu take longer than the same arithmetic in Clip, Exp and their like,
    which use all of a vector register:
    ``elu(x) = max(x, exp(min(max(x, -87), 0)) - 1)``; ``prelu(x, a) = max(x, 0) + a min(x, 0)``.
    The first differs from Elu by the rounding of exp, at most some 1e-7; the second only for minus
    infinity, which Clip makes the least number. A graph with values of another precision than
    float32, with control flow, or of an opset before 11 comes back as it is. Raises ValueError when
    ``model`` is not protobuf.
    """
    fields = list(fields_of(model))
    return _with_graph(fields, _rewritten) if _opset(fields) >= CLIP_TAKES_INPUTS else model


def _opset(model: List[Field]) -> int:
    """Version of ONNX's own operators; 0 where the model has none."""
    for field in model:
        if field.number == _MODEL_OPSET:
            parts = {part.number: part for part in fields_of(field.value)}
            is_named = _OPSET_DOMAIN in parts and parts[_OPSET_DOMAIN].value
            if _OPSET_VERSION in parts and not is_named:
                return parts[_OPSET_VERSION].integer
    return 0


def _rewritten(graph: bytes) -> bytes:
    fields = list(fields_of(graph))
    if any(_may_be_other_float(field) for field in fields):
        return graph
    nodes_and_rest = b"".join(
        (_spelled_out(field.value) if field.number == _GRAPH_NODE else b"") or field.raw
        for field in fields
    )
    taken = {
        name
        for field in fields_of(nodes_and_rest)
        if field.number == _GRAPH_NODE
        for name in texts_of(field.value, _NODE_INPUT)
    }
    constants = [
        _tensor(name, b"", struct.pack("<f", value))
        for name, value in _CONSTANTS.items()
        if name in taken
    ]
    return nodes_and_rest + b"".join(constants)


def _spelled_out(node: bytes) -> bytes:
    """The graph's fields in place of a node; empty where it stays."""
    operator, domain = "".join(texts_of(node, _NODE_OPERATOR)), texts_of(node, _NODE_DOMAIN)
    inputs, outputs = texts_of(node, _NODE_INPUT), texts_of(node, _NODE_OUTPUT)
    if (len(inputs), len(outputs)) != (_INPUTS.get(operator), 1) or any(domain):
        return b""
    floats = [part for part in _attribute_parts(node) if part.number == _ATTRIBUTE_FLOAT]
    if any(struct.unpack("<f", alpha.raw[-4:]) != (1.0,) for alpha in floats):
        return b""
    nodes = _SPELLINGS[operator](inputs, outputs[0])
    return b"".join(packed(_GRAPH_NODE, _node(*parts)) for parts in nodes)


_Node = Tuple[str, List[str], str]  # operator, inputs, output
_LEAST, _ZERO, _ONE = "spelled_out_least", "spelled_out_zero", "spelled_out_one"
# Below -87 exp is a denormal number, which takes ten times as long; less one it is -1 all the same.
_CONSTANTS = {_LEAST: -87.0, _ZERO: 0.0, _ONE: 1.0}


def _elu(inputs: List[str], output: str) -> List[_Node]:
    negative, power, below = (output + "/" + part for part in ("negative", "power", "below"))
    return [
        ("Clip", [inputs[0], _LEAST, _ZERO], negative),
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
_INPUTS = {"Elu": 1, "PRelu": 2}


def _node(operator: str, inputs: List[str], output: str) -> bytes:
    return (
        b"".join(packed(_NODE_INPUT, name.encode()) for name in inputs)
        + packed(_NODE_OUTPUT, output.encode())
        + packed(_NODE_OPERATOR, operator.encode())
    )


def _tensor(name: str, dimensions: bytes, values: bytes) -> bytes:
    """The graph's field of a float32 constant; ``dimensions`` are the tensor's fields of them."""
    tensor = dimensions + varint_of(_TENSOR_TYPE << 3 | VARINT) + varint_of(_FLOAT)
    tensor += packed(_TENSOR_NAME, name.encode()) + packed(_TENSOR_RAW, values)
    return packed(_GRAPH_INITIALIZER, tensor)


def _may_be_other_float(field: Field) -> bool:
    """Whether a graph's field brings values of another precision than float32 into it, or may."""
    if field.number == _GRAPH_NODE:
        types = {_integers_of(field.value).get(name) for name in ("to", "dtype")}
        tensors = [
            part.value for part in _attribute_parts(field.value) if part.number == _ATTRIBUTE_TENSOR
        ]
        has_other = bool(types.intersection(_OTHER_FLOATS)) or any(map(_is_other_float, tensors))
        return has_other or _has_subgraph(field.value)
    return field.number == _GRAPH_INITIALIZER and _is_other_float(field.value)


def _is_other_float(tensor: bytes) -> bool:
    return any(
        field.number == _TENSOR_TYPE and field.integer in _OTHER_FLOATS
        for field in fields_of(tensor)
    )


# The graph in a model


def _constants_of(fields: Sequence[Field]) -> Dict[str, bytes]:
    """A graph's tensors by name."""
    return {
        name: field.value
        for field in fields
        if field.number == _GRAPH_INITIALIZER
        for name in texts_of(field.value, _TENSOR_NAME)
    }


def _makers_of(fields: Sequence[Field]) -> Dict[str, Field]:
    """A graph's nodes by the names of what they give."""
    return {
        name: field
        for field in fields
        if field.number == _GRAPH_NODE
        for name in texts_of(field.value, _NODE_OUTPUT)
    }


def _output_names(fields: Sequence[Field]) -> List[str]:
    return [
        name
        for field in fields
        if field.number == _GRAPH_OUTPUT
        for name in texts_of(field.value, _VALUE_NAME)
    ]


def _with_graph(model: List[Field], change: Callable[[bytes], bytes]) -> bytes:
    """A model's bytes with another graph."""
    return b"".join(
        packed(_MODEL_GRAPH, change(field.value)) if field.number == _MODEL_GRAPH else field.raw
        for field in model
    )


def _attribute_parts(node: bytes) -> Iterator[Field]:
    """The fields of all attributes of a node."""
    for field in fields_of(node):
        if field.number == _NODE_ATTRIBUTE:
            yield from fields_of(field.value)
