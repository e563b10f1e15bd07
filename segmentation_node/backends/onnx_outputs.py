"""An ONNX file without what only an unwanted output needs.

ONNX Runtime computes every node of a graph, whatever outputs are fetched. Its own tools to cut a
graph need the ``onnx`` package, which a robot has no other use for; the protobuf wire format is
simple enough to leave whole fields out.
"""

from typing import Iterator, List, NamedTuple, Set, Tuple

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_INITIALIZER_NAME, _VALUE_NAME = 8, 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    value: bytes  # of a bytes field; empty for numbers
    raw: bytes  # with its key, as it stands in the file


def keep_output(model: bytes, output: str) -> bytes:
    """The model with this output alone, and only the nodes and initializers that it needs.

    A graph with control flow comes back as it is. Raises ValueError when ``model`` is not an ONNX
    model with such an output.
    """
    parts = []
    for field in _fields(model):
        is_graph = field.number == _MODEL_GRAPH
        parts.append(_pack(_MODEL_GRAPH, _cut(field.value, output)) if is_graph else field.raw)
    return b"".join(parts)


def _cut(graph: bytes, output: str) -> bytes:
    fields = list(_fields(graph))
    outputs = [
        _names(field.value, _VALUE_NAME) for field in fields if field.number == _GRAPH_OUTPUT
    ]
    if [output] not in outputs:
        raise ValueError("no output %r; found %s" % (output, outputs))
    if any(field.number == _GRAPH_NODE and _has_subgraph(field.value) for field in fields):
        return graph
    needed = _needed(fields, output)
    return b"".join(field.raw for field in fields if _is_kept(field, needed, output))


def _needed(fields: List[_Field], output: str) -> Set[str]:
    """Names of all values that the output depends on. Nodes stand after what they need."""
    needed = {output}
    for field in reversed(fields):
        if field.number == _GRAPH_NODE and needed.intersection(_names(field.value, _NODE_OUTPUT)):
            needed.update(_names(field.value, _NODE_INPUT))
    return needed


def _is_kept(field: _Field, needed: Set[str], output: str) -> bool:
    if field.number == _GRAPH_NODE:
        return bool(needed.intersection(_names(field.value, _NODE_OUTPUT)))
    if field.number == _GRAPH_INITIALIZER:
        return bool(needed.intersection(_names(field.value, _INITIALIZER_NAME)))
    if field.number == _GRAPH_OUTPUT:
        return _names(field.value, _VALUE_NAME) == [output]
    return True


def _has_subgraph(node: bytes) -> bool:
    return any(
        attribute.number in _ATTRIBUTE_GRAPHS
        for field in _fields(node)
        if field.number == _NODE_ATTRIBUTE
        for attribute in _fields(field.value)
    )


def _names(message: bytes, number: int) -> List[str]:
    return [field.value.decode() for field in _fields(message) if field.number == number]


def _fields(message: bytes) -> Iterator[_Field]:
    """The fields of a protobuf message, in the order of the file."""
    position = 0
    while position < len(message):
        start = position
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value = b""
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _BYTES:
            length, position = _varint(message, position)
            value = message[position : position + length]
            position += length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not protobuf: wire type %d" % kind)
        if position > len(message):
            raise ValueError("not protobuf: a field is cut off")
        yield _Field(number, value, message[start:position])


def _varint(message: bytes, position: int) -> Tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if not byte & 0x80:
            return value, position
    raise ValueError("not protobuf: a number is cut off")


def _pack(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
