"""A static graph -> the graph that the node runs: a picture's bytes in, classes out.

The same contract as that of the networks trained here: normalisation, resizing and the choice of
a class are inside, and it ends ArgMax -> Cast FLOAT -> Cast UINT8, since TensorRT 8.5 and 8.6
convert no integers to uint8.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from segmentation_node.importing.head import IDS
from segmentation_node.importing.plan import Plan
from segmentation_node.importing.static_graph import opset_of, taken

PREFIX = "net/"
"""Before every name of the foreign graph, so that none is one of ours."""
AXES_ARE_AN_INPUT = 18
"""The opset from which on those of ReduceMax are."""
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
IMAGE_TYPE = {"uint8": TensorProto.UINT8, "float": FLOAT, "fp16": TensorProto.UINT8}
MAP_TYPE = {"uint8": TensorProto.UINT8, "float": TensorProto.INT32, "fp16": TensorProto.UINT8}


def in_contract(static: onnx.ModelProto, plan: Plan, variant: str = "uint8") -> onnx.ModelProto:
    """The graph of a variant: image (1, H, W, 3) in, class_map and confidence (1, H, W) out.

    ``static`` is what ``make_static`` gave, or its half-precision form for ``fp16``.
    """
    core = copy.deepcopy(static)
    # Named here, since branches read constants that onnx would only come to after them.
    names = {item.name: PREFIX + item.name for item in core.graph.initializer}
    compose.add_prefix_graph(core.graph, PREFIX, inplace=True, name_map=names)
    graph = _Graph(opset_of(static))
    _add_entry(graph, plan, variant, core.graph)
    head = _head(core.graph)
    graph.nodes.extend(core.graph.node)
    is_float = core.graph.output[0].type.tensor_type.elem_type == FLOAT
    is_float = is_float and head == core.graph.output[0].name
    scores = _add_planes(graph, plan, head, is_float)
    class_map, confidence = _CHOICES[plan.kind](graph, plan, scores)
    graph.add("Cast", [class_map], output="class_map", to=MAP_TYPE[variant])
    outputs = ["class_map"]
    if confidence:
        rounded = graph.add("Mul", [confidence, graph.floats(255.0)])
        rounded = graph.add("Add", [rounded, graph.floats(0.5)])
        graph.add("Cast", [rounded], output="confidence", to=MAP_TYPE[variant])
        outputs.append("confidence")
    map_shape = (1, *plan.size)
    made = helper.make_graph(
        graph.nodes,
        plan.labels.name,
        [helper.make_tensor_value_info("image", IMAGE_TYPE[variant], (1, *plan.size, 3))],
        [helper.make_tensor_value_info(name, MAP_TYPE[variant], map_shape) for name in outputs],
        [*graph.constants, *core.graph.initializer],
    )
    model = helper.make_model(
        made,
        opset_imports=core.opset_import,
        ir_version=max(7, helper.find_min_ir_version_for(core.opset_import, True)),
        producer_name="segmentation_node.importing",
    )
    helper.set_model_props(model, {"label_set": plan.labels.name})
    _drop_dead(model.graph, outputs)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants as they are added, each with a name of its own."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node; the name of what it gives."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=f"make_{output}", **attributes)
        )
        return output

    def highest(self, scores: str, keepdims: int) -> str:
        """The greatest of the channels."""
        if self._opset < AXES_ARE_AN_INPUT:
            return self.add("ReduceMax", [scores], axes=[1], keepdims=keepdims)
        return self.add("ReduceMax", [scores, self.integers([1])], keepdims=keepdims)

    def floats(self, values: Any) -> str:
        """The name of a float32 constant."""
        return self.constant(np.asarray(values, np.float32))

    def integers(self, values: Any) -> str:
        """The name of an int64 constant."""
        return self.constant(np.asarray(values, np.int64))

    def constant(self, values: np.ndarray) -> str:
        """The name of a constant of this dtype."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def _add_entry(graph: _Graph, plan: Plan, variant: str, core: onnx.GraphProto) -> None:
    """The picture, uint8 or float RGB (1, H, W, 3), as the network ``core`` takes it."""
    entry = core.input[0]
    dtype = entry.type.tensor_type.elem_type
    channels, value = (1 if plan.entry.layout == "nchw" else 3), "image"
    # TensorRT takes a uint8 input only into a Cast, so the cast comes first; 8.2 casts to no uint8.
    first = dtype if plan.takes_bytes and not _only_casts(core, entry.name) else FLOAT
    if IMAGE_TYPE[variant] != first:
        value = graph.add("Cast", [value], to=first)
    if channels == 1:
        value = graph.add("Transpose", [value], perm=[0, 3, 1, 2])
    if plan.order == "bgr":
        value = graph.add("Gather", [value, graph.integers([2, 1, 0])], axis=channels)
    if not plan.takes_bytes:
        scale, shift = _scale_and_shift(plan)
        shape = (1, 3, 1, 1) if channels == 1 else (1, 1, 1, 3)
        if (scale != 1).any():
            value = graph.add("Mul", [value, graph.floats(scale.reshape(shape))])
        if shift.any():
            value = graph.add("Add", [value, graph.floats(shift.reshape(shape))])
        if dtype != FLOAT:
            value = graph.add("Cast", [value], to=dtype)
    if graph.nodes:
        graph.nodes[-1].output[0] = entry.name
    else:
        graph.add("Identity", [value], output=entry.name)


def _only_casts(core: onnx.GraphProto, name: str) -> bool:
    """Whether all that is done with a value begins with a cast, whatever its type."""
    return all(node.op_type == "Cast" for node in core.node if name in taken(node))


def _scale_and_shift(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """By channel of the network: what a pixel is multiplied with, and what is added then."""
    mean, std = np.asarray(plan.mean, np.float64), np.asarray(plan.std, np.float64)
    step = 1 if plan.order == "rgb" else -1
    return (plan.scale / std)[::step], (-mean / std)[::step]


def _head(core: onnx.GraphProto) -> str:
    """The output, before what it was cast to last of all: TensorRT casts few integers."""
    head = core.output[0].name
    by_output = {name: node for node in core.node for name in node.output}
    while head in by_output and by_output[head].op_type == "Cast":
        head = by_output[head].input[0]
    return head


def _add_planes(graph: _Graph, plan: Plan, head: str, is_float: bool) -> str:
    """The output as float32 (1, channels, H, W) of the picture's size."""
    arrangement, (height, width) = plan.arrangement, plan.size
    if arrangement.steps is not None:
        value = graph.add("DequantizeLinear", [head, *map(graph.constant, arrangement.steps)])
    else:
        value = head if is_float else graph.add("Cast", [head], to=FLOAT)
    if arrangement.reshaped != arrangement.shape:
        value = graph.add("Reshape", [value, graph.integers(arrangement.reshaped)])
    if arrangement.channels_last and arrangement.channels > 1:
        value = graph.add("Transpose", [value], perm=[0, 3, 1, 2])
    elif arrangement.channels_last:
        value = graph.add("Reshape", [value, graph.integers((1, 1, *arrangement.grid))])
    if arrangement.grid != plan.size:
        rows, columns = arrangement.grid
        scales = [1.0, 1.0, _ratio(height, rows), _ratio(width, columns)]
        attributes = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}
        if plan.kind == IDS:
            attributes.update(mode="nearest", nearest_mode="round_prefer_ceil")
        elif plan.by_corners:
            attributes["coordinate_transformation_mode"] = "align_corners"
        value = graph.add("Resize", [value, "", graph.floats(scales)], **attributes)
    return value


def _ratio(length: int, cells: int) -> np.float32:
    """A scale by which ``cells`` become ``length``: the product is rounded down."""
    ratio = np.float32(length / cells)
    while int(np.float32(cells) * ratio) < length:
        ratio = np.nextafter(ratio, np.float32(np.inf))
    return ratio


def _from_scores(graph: _Graph, plan: Plan, scores: str) -> tuple[str, str]:
    highest = graph.highest(scores, keepdims=1)
    ids = _chosen(graph, plan, scores, plan.class_ids())
    # 1 / sum(exp(score - highest)), the softmax of the class that was chosen.
    differences = graph.add("Sub", [scores, highest])
    shares = graph.add("Exp", [differences])
    total = graph.add("ReduceSum", [shares, graph.integers([1])], keepdims=0)
    return ids, graph.add("Div", [graph.floats(1.0), total])


def _from_softmax(graph: _Graph, plan: Plan, shares: str) -> tuple[str, str]:
    ids = _chosen(graph, plan, shares, plan.class_ids())
    return ids, graph.highest(shares, keepdims=0)


def _from_sigmoids(graph: _Graph, plan: Plan, shares: str) -> tuple[str, str]:
    highest = graph.highest(shares, keepdims=0)
    none, *others = plan.class_ids()
    is_above = graph.add("Greater", [highest, graph.floats(plan.threshold)])
    chosen = _chosen(graph, plan, shares, others)
    ids = graph.add("Where", [is_above, chosen, graph.floats(none)])
    return ids, _of_the_decision(graph, is_above, highest)


def _from_one_channel(graph: _Graph, plan: Plan, values: str) -> tuple[str, str]:
    values = graph.add("Reshape", [values, graph.integers((1, *plan.size))])
    none, one = plan.class_ids()
    is_above = graph.add("Greater", [values, graph.floats(plan.threshold)])
    ids = graph.add("Where", [is_above, graph.floats(one), graph.floats(none)])
    share = values if plan.kind == "probability" else graph.add("Sigmoid", [values])
    return ids, _of_the_decision(graph, is_above, share)


def _from_ids(graph: _Graph, plan: Plan, values: str) -> tuple[str, str]:
    values = graph.add("Reshape", [values, graph.integers((1, *plan.size))])
    table = plan.class_ids()
    known = graph.add("Clip", [values, graph.floats(-1.0), graph.floats(len(table) - 2)])
    position = graph.add("Add", [known, graph.floats(1.0)])
    position = graph.add("Cast", [position], to=INT64)
    return graph.add("Gather", [graph.floats(table), position]), ""


_CHOICES = {
    "logits": _from_scores,
    "softmax": _from_softmax,
    "sigmoids": _from_sigmoids,
    "probability": _from_one_channel,
    "score": _from_one_channel,
    IDS: _from_ids,
}


def _chosen(graph: _Graph, plan: Plan, scores: str, ids: list[int]) -> str:
    """The id, as float, of the channel with the highest score."""
    position = graph.add("ArgMax", [scores], axis=1, keepdims=0)
    if ids == list(range(len(ids))):
        return graph.add("Cast", [position], to=FLOAT)
    return graph.add("Gather", [graph.floats(ids), position])


def _of_the_decision(graph: _Graph, is_above: str, share: str) -> str:
    """How sure it is: the share above the threshold, what is left to 1 below it."""
    rest = graph.add("Sub", [graph.floats(1.0), share])
    return graph.add("Where", [is_above, share, rest])


def _drop_dead(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Leave out nodes and constants that no output needs: casts that were bridged."""
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(taken(node))
    constants = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(constants)
