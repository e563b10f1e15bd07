"""ONNX files as run times want them: held against the card, cut, weights decoded, classes selected
early, activations spelled out.

All of it is done to the bytes when a model is loaded, since one file serves every run time. A robot
has no other use for the ``onnx`` package; whole fields of protobuf's wire format, in and out, are
all that this needs.
"""

import struct
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from segmentation_node.errors import BackendError
from segmentation_node.model_card import ModelCard

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INTEGER, _ATTRIBUTE_GRAPHS = 1, 2, 3, (6, 11)
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_VALUE_NAME = 1
_FLOAT, _INT8, _OTHER_FLOATS = 1, 3, (10, 11, 16)  # float16, double, bfloat16

FEATURES = "features"
"""The output that a box head takes."""
TEMPERATURE = "temperature"
CLIP_TAKES_INPUTS = 11
"""The opset from which on Clip's limits are inputs."""


# Whether it is what the card says


class OnnxGraph(NamedTuple):
    """``inputs``: name, NumPy's name of the dtype, and shape of each; a size may be a name."""

    inputs: List[Tuple[str, str, List[Any]]]
    outputs: List[str]
    label_set: Optional[str]
    temperature: Optional[str] = None


def check_graph(artifact_path: str, graph: OnnxGraph, card: ModelCard) -> Tuple[int, int, int, int]:
    """The input shape (N, H, W, 3) of a graph as a run time describes it.

    Raises BackendError when it does not fit the card.
    """
    shape = graph.inputs[0][2] if len(graph.inputs) == 1 else []
    # The batch is the file's own; height and width are the card's.
    batch = shape[0] if shape and isinstance(shape[0], int) else 1
    expected_shape = (batch, card.input.height, card.input.width, 3)
    expected = [("image", "uint8", list(expected_shape))]
    if graph.inputs != expected:
        raise BackendError(
            "%s: inputs are %s, but the model card expects %s"
            % (artifact_path, graph.inputs, expected)
        )
    if graph.outputs not in (card.outputs, card.outputs + [FEATURES] * (card.boxes is not None)):
        raise BackendError(
            "%s: outputs are %s, but the model card says %s"
            % (artifact_path, graph.outputs, card.outputs)
        )
    if graph.label_set != card.label_set:
        raise BackendError(
            "%s: the graph's classes are label set %s, but the model card says %s"
            % (artifact_path, graph.label_set, card.label_set)
        )
    if graph.temperature != temperature_text(card.temperature):
        raise BackendError(
            "%s: the graph's temperature is %s, but the model card says %s; set it with: python3 "
            "-m segmentation_node.evaluation confidence --temperature"
            % (artifact_path, graph.temperature or 1, temperature_text(card.temperature) or 1)
        )
    return expected_shape


def temperature_text(temperature: float) -> Optional[str]:
    """As the metadata of a graph have it under ``TEMPERATURE``; None for 1, which is not said."""
    return None if temperature == 1.0 else "%g" % temperature


def check_boxes_graph(artifact_path: str, graph: OnnxGraph, card: ModelCard) -> Tuple[int, ...]:
    """The shape of the features (1, C, H, W) that a box head takes.

    Raises BackendError when the graph does not fit the card.
    """
    assert card.boxes is not None
    shape = graph.inputs[0][2] if graph.inputs else []
    expected = [(FEATURES, "float32", shape), ("rois", "float32", [card.boxes.proposals, 4])]
    is_fixed = len(shape) == 4 and all(isinstance(size, int) for size in shape)
    if graph.inputs != expected or not is_fixed or graph.outputs != ["scores", "deltas"]:
        raise BackendError(
            "%s: inputs are %s and outputs %s, but the model card expects features (1, C, H, W) "
            "and rois (%d, 4), scores and deltas"
            % (artifact_path, graph.inputs, graph.outputs, card.boxes.proposals)
        )
    if graph.label_set != card.label_set:
        raise BackendError(
            "%s: the graph's classes are label set %s, but the model card says %s"
            % (artifact_path, graph.label_set, card.label_set)
        )
    return tuple(shape)


# Some outputs alone


def keep_output(model: bytes, *outputs: str) -> bytes:
    """The model with these outputs alone, and only the nodes and initializers that they need.

    A run time computes every node of a graph, whatever outputs are fetched. A graph with control
    flow comes back as it is. Raises ValueError when ``model`` is not an ONNX model with such
    outputs.
    """
    return _with_graph(list(_fields(model)), lambda graph: _cut(graph, outputs))


def _cut(graph: bytes, kept: Sequence[str]) -> bytes:
    fields = list(_fields(graph))
    outputs = [
        _texts(field.value, _VALUE_NAME) for field in fields if field.number == _GRAPH_OUTPUT
    ]
    for output in kept:
        if [output] not in outputs:
            raise ValueError("no output %r; found %s" % (output, outputs))
    if any(field.number == _GRAPH_NODE and _has_subgraph(field.value) for field in fields):
        return graph
    needed = _needed(fields, kept)
    return b"".join(field.raw for field in fields if _is_kept(field, needed, kept))


def _needed(fields: List["_Field"], outputs: Sequence[str]) -> Set[str]:
    """Names of all values that the outputs depend on. Nodes stand after what they need."""
    needed = set(outputs)
    for field in reversed(fields):
        if field.number == _GRAPH_NODE and needed.intersection(_texts(field.value, _NODE_OUTPUT)):
            needed.update(_texts(field.value, _NODE_INPUT))
    return needed


def _is_kept(field: "_Field", needed: Set[str], outputs: Sequence[str]) -> bool:
    if field.number == _GRAPH_NODE:
        return bool(needed.intersection(_texts(field.value, _NODE_OUTPUT)))
    if field.number == _GRAPH_INITIALIZER:
        return bool(needed.intersection(_texts(field.value, _TENSOR_NAME)))
    if field.number == _GRAPH_OUTPUT:
        return _texts(field.value, _VALUE_NAME)[0] in outputs
    return True


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
    return _with_graph(list(_fields(model)), _decoded)


def _decoded(graph: bytes) -> bytes:
    fields = list(_fields(graph))
    nodes = [field for field in fields if field.number == _GRAPH_NODE]
    operators = {name for node in nodes for name in _texts(node.value, _NODE_OPERATOR)}
    if "QuantizeLinear" in operators:
        return graph
    constants = {
        _texts(field.value, _TENSOR_NAME)[0]: field.value
        for field in fields
        if field.number == _GRAPH_INITIALIZER
    }
    decoded = {node.raw: _decoded_node(node.value, constants) for node in nodes}
    needed = {
        name for node in nodes if not decoded[node.raw] for name in _texts(node.value, _NODE_INPUT)
    }

    def stays(field: "_Field") -> bool:
        if field.number == _GRAPH_INITIALIZER:
            return bool(needed.intersection(_texts(field.value, _TENSOR_NAME)))
        return field.number != _GRAPH_NODE or not decoded[field.raw]

    return b"".join([field.raw for field in fields if stays(field)] + list(decoded.values()))


def _decoded_node(node: bytes, constants: Dict[str, bytes]) -> bytes:
    """The graph's field of the weights that a node makes; empty where it makes none."""
    inputs, output = _texts(node, _NODE_INPUT), _texts(node, _NODE_OUTPUT)[0]
    is_decoder = _texts(node, _NODE_OPERATOR) == [_DECODER] and len(inputs) == 2
    if not is_decoder or not all(name in constants for name in inputs):
        return b""
    codes, scales = (_parts(constants[name]) for name in inputs)
    if [part.integer for part in codes[_TENSOR_TYPE]] != [_INT8]:
        return b""
    axes = [part.integer for part in _attribute_parts(node) if part.number == _ATTRIBUTE_INTEGER]
    shape = [part.integer for part in codes[_TENSOR_DIMENSION]]
    along = [-1 if index in axes else 1 for index in range(len(shape))]
    values = np.frombuffer(codes[_TENSOR_RAW][0].value, np.int8).reshape(shape).astype(np.float32)
    values *= np.frombuffer(scales[_TENSOR_RAW][0].value, "<f4").reshape(along)
    dimensions = b"".join(part.raw for part in codes[_TENSOR_DIMENSION])
    return _tensor(output, dimensions, values.astype("<f4").tobytes())


# Some classes alone


def select_before_enlarging(model: bytes) -> bytes:
    """The model with a choice of channels before an enlargement of each, where it stood behind.

    A card's ``trained_classes`` choose among the scores at full size. Raises ValueError when
    ``model`` is not protobuf.
    """
    return _with_graph(list(_fields(model)), _selected_early) if b"Gather" in model else model


def _selected_early(graph: bytes) -> bytes:
    fields = list(_fields(graph))
    nodes = [field for field in fields if field.number == _GRAPH_NODE]
    makers = {name: node for node in nodes for name in _texts(node.value, _NODE_OUTPUT)}
    read = [name for node in nodes for name in _texts(node.value, _NODE_INPUT)]
    for field in fields:
        read += _texts(field.value, _VALUE_NAME) if field.number == _GRAPH_OUTPUT else []
    constants = {
        _texts(field.value, _TENSOR_NAME)[0]: field.value
        for field in fields
        if field.number == _GRAPH_INITIALIZER
    }
    changed: Dict[bytes, bytes] = {}
    for node in nodes:
        large = _texts(node.value, _NODE_INPUT)[:1]
        if not _chooses_channels(node.value) or read.count(large[0]) != 1:
            continue
        resize = makers.get(large[0])
        if resize is not None and _enlarges_planes(resize.value, constants):
            small = _texts(resize.value, _NODE_INPUT)[0]
            output = _texts(node.value, _NODE_OUTPUT)[0]
            # A name of its own: the file may tell the old one's shape.
            selected = output + "/selected"
            changed[resize.raw] = _between(node.value, small, selected)
            changed[node.raw] = _between(resize.value, selected, output)
    return b"".join(changed.get(field.raw, field.raw) for field in fields)


def _chooses_channels(node: bytes) -> bool:
    axes = [part.integer for part in _attribute_parts(node) if part.number == _ATTRIBUTE_INTEGER]
    return _texts(node, _NODE_OPERATOR) == ["Gather"] and axes == [1]


def _enlarges_planes(node: bytes, constants: Dict[str, bytes]) -> bool:
    inputs = _texts(node, _NODE_INPUT)
    names = [part.value for part in _attribute_parts(node) if part.number == _ATTRIBUTE_NAME]
    is_scaled = len(inputs) == 3 and inputs[2] in constants and b"axes" not in names
    if _texts(node, _NODE_OPERATOR) != ["Resize"] or not is_scaled:
        return False
    scales = [part.value for part in _parts(constants[inputs[2]]).get(_TENSOR_RAW, [])]
    return len(scales) == 1 and scales[0][:8] == struct.pack("<2f", 1.0, 1.0)


def _between(node: bytes, first_input: str, output: str) -> bytes:
    """The graph's field of a node with another first input and output."""
    parts, inputs = list(_fields(node)), _texts(node, _NODE_INPUT)
    ends = [_packed(_NODE_INPUT, name.encode()) for name in [first_input] + inputs[1:]]
    ends.append(_packed(_NODE_OUTPUT, output.encode()))
    rest = [part.raw for part in parts if part.number not in (_NODE_INPUT, _NODE_OUTPUT)]
    return _packed(_GRAPH_NODE, b"".join(ends + rest))


# Activations


def spell_out_activations(model: bytes) -> bytes:
    """The model with every Elu of alpha 1 and every PRelu replaced; the rest stays as it is.

    ONNX Runtime's Elu and PRelu take longer than the same arithmetic in Clip, Exp and their like,
    which use all of a vector register:
    ``elu(x) = max(x, exp(min(x, 0)) - 1)``; ``prelu(x, a) = max(x, 0) + a min(x, 0)``. The first
    differs from Elu by the rounding of exp, at most some 1e-7; the second only
    for minus infinity, which Clip makes the least number. A graph in another precision than
    float32 or of an opset before 11 comes back as it is. Raises ValueError when ``model`` is not
    protobuf.
    """
    fields = list(_fields(model))
    return _with_graph(fields, _rewritten) if _opset(fields) >= CLIP_TAKES_INPUTS else model


def _opset(model: List["_Field"]) -> int:
    """Version of ONNX's own operators; 0 where the model has none."""
    for field in model:
        if field.number == _MODEL_OPSET:
            parts = {part.number: part for part in _fields(field.value)}
            if _OPSET_DOMAIN not in parts or not parts[_OPSET_DOMAIN].value:
                return parts[_OPSET_VERSION].integer
    return 0


def _rewritten(graph: bytes) -> bytes:
    fields = list(_fields(graph))
    if any(field.number == _GRAPH_INITIALIZER and _is_other_float(field.value) for field in fields):
        return graph
    nodes_and_rest = b"".join(
        (_spelled_out(field.value) if field.number == _GRAPH_NODE else b"") or field.raw
        for field in fields
    )
    taken = {
        name
        for field in _fields(nodes_and_rest)
        if field.number == _GRAPH_NODE
        for name in _texts(field.value, _NODE_INPUT)
    }
    constants = [
        _tensor(name, b"", struct.pack("<f", value))
        for name, value in _CONSTANTS.items()
        if name in taken
    ]
    return nodes_and_rest + b"".join(constants)


def _spelled_out(node: bytes) -> bytes:
    """The graph's fields in place of a node; empty where it stays."""
    operator, domain = _texts(node, _NODE_OPERATOR), _texts(node, _NODE_DOMAIN)
    if len(operator) != 1 or operator[0] not in _SPELLINGS or any(domain):
        return b""
    inputs, output = _texts(node, _NODE_INPUT), _texts(node, _NODE_OUTPUT)[0]
    floats = [part for part in _attribute_parts(node) if part.number == _ATTRIBUTE_FLOAT]
    if any(struct.unpack("<f", alpha.raw[-4:]) != (1.0,) for alpha in floats):
        return b""
    nodes = _SPELLINGS[operator[0]](inputs, output)
    return b"".join(_packed(_GRAPH_NODE, _node(*parts)) for parts in nodes)


_Node = Tuple[str, List[str], str]  # operator, inputs, output
_ZERO, _ONE = "spelled_out_zero", "spelled_out_one"
_CONSTANTS = {_ZERO: 0.0, _ONE: 1.0}


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
        b"".join(_packed(_NODE_INPUT, name.encode()) for name in inputs)
        + _packed(_NODE_OUTPUT, output.encode())
        + _packed(_NODE_OPERATOR, operator.encode())
    )


def _tensor(name: str, dimensions: bytes, values: bytes) -> bytes:
    """The graph's field of a float32 constant; ``dimensions`` are the tensor's fields of them."""
    tensor = dimensions + _varint_of(_TENSOR_TYPE << 3 | _VARINT) + _varint_of(_FLOAT)
    tensor += _packed(_TENSOR_NAME, name.encode()) + _packed(_TENSOR_RAW, values)
    return _packed(_GRAPH_INITIALIZER, tensor)


def _is_other_float(tensor: bytes) -> bool:
    return any(
        field.number == _TENSOR_TYPE and field.integer in _OTHER_FLOATS for field in _fields(tensor)
    )


# Protobuf's wire format

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """One field of a message."""

    number: int
    value: bytes  # of a bytes field; empty for numbers
    integer: int  # of a varint; 0 for what is none
    raw: bytes  # with its key, as it stands in the file


def _with_graph(model: List[_Field], change: Callable[[bytes], bytes]) -> bytes:
    """A model's bytes with another graph."""
    return b"".join(
        _packed(_MODEL_GRAPH, change(field.value)) if field.number == _MODEL_GRAPH else field.raw
        for field in model
    )


def _attribute_parts(node: bytes) -> Iterator[_Field]:
    """The fields of all attributes of a node."""
    for field in _fields(node):
        if field.number == _NODE_ATTRIBUTE:
            yield from _fields(field.value)


def _parts(message: bytes) -> Dict[int, List[_Field]]:
    """The fields of a message by number."""
    found: Dict[int, List[_Field]] = {}
    for field in _fields(message):
        found.setdefault(field.number, []).append(field)
    return found


def _texts(message: bytes, number: int) -> List[str]:
    """The texts of a message's fields of this number."""
    return [field.value.decode() for field in _fields(message) if field.number == number]


def _fields(message: bytes) -> Iterator[_Field]:
    """The fields of a message, in the order of the file. Raises ValueError where it is none."""
    position = 0
    while position < len(message):
        start = position
        key, position = _varint_at(message, position)
        number, kind = key >> 3, key & 7
        value, integer = b"", 0
        if kind == _VARINT:
            integer, position = _varint_at(message, position)
        elif kind == _BYTES:
            length, position = _varint_at(message, position)
            value = message[position : position + length]
            position += length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not protobuf: wire type %d" % kind)
        if position > len(message):
            raise ValueError("not protobuf: a field is cut off")
        yield _Field(number, value, integer, message[start:position])


def _varint_at(message: bytes, position: int) -> Tuple[int, int]:
    """The number that begins there, and the position behind it."""
    value = shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if not byte & 0x80:
            return value, position
    raise ValueError("not protobuf: a number is cut off")


def _varint_of(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _packed(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return _varint_of(number << 3 | _BYTES) + _varint_of(len(value)) + value
