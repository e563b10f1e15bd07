"""A foreign graph -> the same with fixed sizes, one output, and an opset that all can read."""

import copy
import tempfile
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, version_converter

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.errors import NetworkImportError, reason
from segmentation_node.importing.model_folder import OPSET

RESIZE_BY_CENTRES = 11
"""The opset from which on Resize takes pixels for areas, not for points at their corners."""
NOT_VALID = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
"""What ``onnx.checker`` raises of a graph."""
# Operators whose newer form takes as an input what the older one has as an attribute.
AXES_AS_ATTRIBUTE = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"}
AXES_AS_ATTRIBUTE |= {"ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
GRID_SAMPLE_OF_TODAY = 20
OLDER_MODES = {b"linear": b"bilinear", b"cubic": b"bicubic"}
"""What GridSample called its modes before that opset."""
# What newer versions add, at the value with which it means what the older ones do.
NEUTRAL = {
    "allowzero": 0,
    "training_mode": 0,
    "noop_with_empty_axes": 0,
    "antialias": 0,
    "keep_aspect_ratio_policy": b"stretch",
    "saturate": 1,
    "reduction": b"none",
    "round_mode": b"up",
    "output_dtype": 0,
    "block_size": 0,
    "precision": 0,
}


def make_static(
    model: onnx.ModelProto, entry: str, shape: Sequence[int], head: str
) -> onnx.ModelProto:
    """A copy whose input ``entry`` has this shape, and whose one output is ``head``.

    All that depends on sizes alone is computed; the opset is 13, or the lowest that holds the
    graph. Raises NetworkImportError where the graph cannot have this size or this opset.
    """
    static = copy.deepcopy(model)
    _keep_one_output(static, head)
    static = _raised(static)
    _initializers_are_no_inputs(static)
    _set_shape(static, entry, shape)
    static = _folded(static)
    _lower_opset(static)
    drop_omitted_inputs(static)
    _drop_unused(static)
    return static


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))


def count_parameters(model: onnx.ModelProto) -> int:
    """Numbers in the graph's floating-point constants of one dimension or more."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(
        int(numpy_helper.to_array(item).size)
        for item in model.graph.initializer
        if item.data_type in floats and len(item.dims)
    )


def drop_omitted_inputs(model: onnx.ModelProto) -> None:
    """Shorten, in place, lists of inputs that end with omitted ones.

    An exporter leaves Pad's value as an empty name; TensorRT's parser counts inputs.
    """
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]


def _keep_one_output(model: onnx.ModelProto, head: str) -> None:
    graph = model.graph
    kept = [item for item in graph.output if item.name == head]
    del graph.output[:]
    graph.output.extend(kept)
    needed, nodes = {head}, []
    for node in reversed(_sorted(graph.node)):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(taken(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    # What was inferred, or declared, may be wrong, and of other sizes.
    del graph.value_info[:]


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes after all that they need.

    So a file should have them, but converters to float16 append their casts, and run times sort.
    """
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = {
        index: {makers[name] for name in taken(node) if name in makers} - {index}
        for index, node in enumerate(nodes)
    }
    return [nodes[index] for index in TopologicalSorter(needs).static_order()]


def taken(node: onnx.NodeProto) -> set[str]:
    """Names that a node takes, those in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
            names.update(*(taken(inner) for inner in graph.node))
            names.update(item.name for item in graph.output)
    return names


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """At opset 13 or above; the converter finds constants only where they are inputs too."""
    if opset_of(model) >= OPSET:
        return model
    listed = {item.name for item in model.graph.input}
    for constant in model.graph.initializer:
        if constant.name not in listed:
            model.graph.input.append(
                helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            )
    found = opset_of(model)
    try:
        raised = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's errors share no base class
        raise NetworkImportError(
            f"opset {found} cannot be converted to {OPSET} ({reason(error)}); export the "
            f"network again with opset {OPSET} or later"
        ) from error
    if found < RESIZE_BY_CENTRES:
        _resize_by_corners(raised)
    return raised


def _resize_by_corners(model: onnx.ModelProto) -> None:
    """Let Resize mean what it meant; the converter leaves it to the newer default."""
    for node in model.graph.node:
        if node.op_type == "Resize":
            by_name = {item.name: item for item in node.attribute}
            if "coordinate_transformation_mode" not in by_name:
                node.attribute.extend(
                    [
                        helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
                        helper.make_attribute("nearest_mode", "floor"),
                    ]
                )


def _initializers_are_no_inputs(model: onnx.ModelProto) -> None:
    constants = {item.name for item in model.graph.initializer}
    kept = [item for item in model.graph.input if item.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    # Before version 4 every constant had to be an input.
    model.ir_version = max(model.ir_version, 7)


def _set_shape(model: onnx.ModelProto, entry: str, shape: Sequence[int]) -> None:
    kept = next(item for item in model.graph.input if item.name == entry)
    dtype = kept.type.tensor_type.elem_type
    kept.CopyFrom(helper.make_tensor_value_info(entry, dtype, shape))
    for output in model.graph.output:
        # Under this size the declared one would be a contradiction.
        output.type.tensor_type.ClearField("shape")


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime computes what is constant, and leaves standard operators.

    The output's shape is the one that a run gives: what files declare may be wrong.
    """
    (entry,) = model.graph.input
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            found = session.run(None, {entry.name: np.zeros(_shape(entry), _dtype(entry))})[0]
        except Exception as error:  # the run time's own exceptions share no base class
            raise NetworkImportError(
                f"the graph does not run on an input of {_shape(entry)} ({reason(error)}); give "
                "another --size, or export it for a batch of 1"
            ) from error
        folded = onnx.load(options.optimized_model_filepath)
    del folded.graph.value_info[:]
    (output,) = folded.graph.output
    dtype = output.type.tensor_type.elem_type
    output.CopyFrom(helper.make_tensor_value_info(output.name, dtype, found.shape))
    return folded


def _shape(entry: onnx.ValueInfoProto) -> list[int]:
    return [item.dim_value for item in entry.type.tensor_type.shape.dim]


def _dtype(entry: onnx.ValueInfoProto) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)


def _lower_opset(model: onnx.ModelProto) -> None:
    """Give the model the lowest opset from 13 on in which every node means what it means now."""
    found = opset_of(model)
    for version in range(OPSET, found):
        lowered = copy.deepcopy(model)
        if _express(lowered, version):
            model.CopyFrom(lowered)
            return


def _express(model: onnx.ModelProto, version: int) -> bool:
    """Write the nodes, in place, as this opset has them; false where it has not."""
    constants = {item.name: item for item in model.graph.initializer}
    if not all(_express_node(node, version, constants) for node in model.graph.node):
        return False
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = version
    try:
        onnx.checker.check_model(model, full_check=True)
    except NOT_VALID:
        return False
    return True


def _express_node(
    node: onnx.NodeProto, version: int, constants: dict[str, onnx.TensorProto]
) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        schema = defs.get_schema(node.op_type, version, "")
    except defs.SchemaError:
        return False
    if any(part.HasField("g") or part.graphs for part in node.attribute):
        return False
    if node.op_type in AXES_AS_ATTRIBUTE and len(node.input) > schema.max_input:
        axes = constants.get(node.input[1])
        if axes is None:
            return False
        listed = numpy_helper.to_array(axes).astype(int).tolist()
        if listed:  # none are all of them, in either form
            node.attribute.append(helper.make_attribute("axes", listed))
        del node.input[1]
    kept = []
    for attribute in node.attribute:
        is_mode = node.op_type == "GridSample" and attribute.name == "mode"
        if is_mode and version < GRID_SAMPLE_OF_TODAY:
            attribute.s = OLDER_MODES.get(attribute.s, attribute.s)
        if attribute.name in schema.attributes:
            kept.append(attribute)
        elif helper.get_attribute_value(attribute) != NEUTRAL.get(attribute.name, attribute):
            return False
    del node.attribute[:]
    node.attribute.extend(kept)
    return len(node.input) <= schema.max_input and len(node.output) <= schema.max_output


def _drop_unused(model: onnx.ModelProto) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in taken(node)}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    domains = {node.domain for node in graph.node} | {""}
    opsets = [item for item in model.opset_import if item.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
