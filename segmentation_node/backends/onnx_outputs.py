"""An ONNX file without what only an unwanted output needs.

ONNX Runtime computes every node of a graph, whatever outputs are fetched. Its own tools to cut a
graph need the ``onnx`` package, which a robot has no other use for; the protobuf wire format is
simple enough to leave whole fields out.
"""

from typing import List, Set

from segmentation_node.backends.onnx_file import Field, fields_of, names_in, pack

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_INITIALIZER_NAME, _VALUE_NAME = 8, 1


def keep_output(model: bytes, output: str) -> bytes:
    """The model with this output alone, and only the nodes and initializers that it needs.

    A graph with control flow comes back as it is. Raises ValueError when ``model`` is not an ONNX
    model with such an output.
    """
    parts = []
    for field in fields_of(model):
        is_graph = field.number == _MODEL_GRAPH
        parts.append(pack(_MODEL_GRAPH, _cut(field.value, output)) if is_graph else field.raw)
    return b"".join(parts)


def _cut(graph: bytes, output: str) -> bytes:
    fields = list(fields_of(graph))
    outputs = [
        names_in(field.value, _VALUE_NAME) for field in fields if field.number == _GRAPH_OUTPUT
    ]
    if [output] not in outputs:
        raise ValueError("no output %r; found %s" % (output, outputs))
    if any(field.number == _GRAPH_NODE and _has_subgraph(field.value) for field in fields):
        return graph
    needed = _needed(fields, output)
    return b"".join(field.raw for field in fields if _is_kept(field, needed, output))


def _needed(fields: List[Field], output: str) -> Set[str]:
    """Names of all values that the output depends on. Nodes stand after what they need."""
    needed = {output}
    for field in reversed(fields):
        if field.number == _GRAPH_NODE and needed.intersection(names_in(field.value, _NODE_OUTPUT)):
            needed.update(names_in(field.value, _NODE_INPUT))
    return needed


def _is_kept(field: Field, needed: Set[str], output: str) -> bool:
    if field.number == _GRAPH_NODE:
        return bool(needed.intersection(names_in(field.value, _NODE_OUTPUT)))
    if field.number == _GRAPH_INITIALIZER:
        return bool(needed.intersection(names_in(field.value, _INITIALIZER_NAME)))
    if field.number == _GRAPH_OUTPUT:
        return names_in(field.value, _VALUE_NAME) == [output]
    return True


def _has_subgraph(node: bytes) -> bool:
    return any(
        attribute.number in _ATTRIBUTE_GRAPHS
        for field in fields_of(node)
        if field.number == _NODE_ATTRIBUTE
        for attribute in fields_of(field.value)
    )
