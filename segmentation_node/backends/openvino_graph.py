"""Forms of a graph that OpenVINO computes faster; what they compute stays the same.

All of it is done when a model is loaded, since one file serves every run time, and to anybody's
graph: what has not exactly the shape that a function looks for stays as it is.
"""

import importlib
from typing import Any, Callable, Dict, FrozenSet, List, Set

import numpy as np

BILINEAR = {
    "mode": "linear_onnx",
    "coordinate_transformation_mode": "half_pixel",
    "antialias": False,
    "pads_begin": [0, 0, 0, 0],
    "pads_end": [0, 0, 0, 0],
}
FINITE, INFINITE = 1e30, 3e38
"""Bounds of scores in float32, and what stands for an infinite one."""


def rewrite(model: Any) -> None:
    """Apply all of them to a model of OpenVINO, in place."""
    operators = _operators()
    take_concatenations_apart(model, operators)
    argmax_of_phases(model, operators)
    argmax_over_planes(model, operators)
    ids_without_floats(model)


def _operators() -> Any:
    """Makers of nodes. Until 2024.6 they were in ``openvino.runtime``, which 2026 has no more."""
    try:
        return importlib.import_module("openvino.opset12")
    except ModuleNotFoundError:
        return importlib.import_module("openvino.runtime.opset12")


# Concatenated channels that are only read by 1x1 convolutions


def take_concatenations_apart(model: Any, operators: Any) -> None:
    """Keep channels in the parts that a concatenation joins, where 1x1 convolutions read them.

    A fire module joins its two halves, adds what it was given and takes an ELU. In parts each half
    is added and activated where its convolution ends, and the next one is the sum of two: nothing
    is copied. Sums are taken in another order, so scores differ by rounding.
    """
    nodes = model.get_ordered_ops()
    joins = {node.get_name() for node in nodes if _joins_channels(node)}
    sources = _sources(nodes, joins)
    refused = _sources_in_the_way(nodes, sources)
    while refused:
        joins -= refused
        sources = _sources(nodes, joins)
        refused = _sources_in_the_way(nodes, sources)
    parts: Dict[str, List[Any]] = {}
    for node in nodes:
        given = [parts.get(value.get_node().get_name(), []) for value in node.input_values()]
        if node.get_name() in sources:
            parts[node.get_name()] = _in_parts(operators, node, given)
        elif given and given[0]:
            _replace(node.output(0), _summed(operators, node, given[0]))


def _joins_channels(node: Any) -> bool:
    if node.get_type_name() != "Concat" or node.get_attributes()["axis"] != 1:
        return False
    shapes = [node.input(index).get_partial_shape() for index in range(node.get_input_size())]
    return all(not shape.is_dynamic and len(shape) == 4 for shape in shapes)


def _sources(nodes: List[Any], joins: Set[str]) -> Dict[str, FrozenSet[str]]:
    """Of every value that stays in parts: the concatenations it comes from."""
    sources: Dict[str, FrozenSet[str]] = {}
    widths: Dict[str, List[int]] = {}
    for node in nodes:
        name, kind = node.get_name(), node.get_type_name()
        given = [value.get_node().get_name() for value in node.input_values()]
        if name in joins:
            sources[name] = frozenset([name])
            widths[name] = [value.get_shape()[1] for value in node.input_values()]
        elif kind in _PARTWISE and given[0] in sources:
            is_other_sum = len(given) == 2 and widths.get(given[1]) != widths[given[0]]
            if is_other_sum or (kind == "MaxPool" and not _is_plain_pooling(node)):
                continue
            sources[name] = frozenset().union(*(sources[one] for one in given))
            widths[name] = widths[given[0]]
    return sources


def _sources_in_the_way(nodes: List[Any], sources: Dict[str, FrozenSet[str]]) -> Set[str]:
    """Concatenations whose value somebody reads who needs it whole."""
    refused: Set[str] = set()
    for node in nodes:
        if node.get_name() in sources and node.get_type_name() != "Concat":
            continue
        for index, value in enumerate(node.input_values()):
            name = value.get_node().get_name()
            if name in sources and not (index == 0 and _is_1x1(node)):
                refused |= sources[name]
    return refused


def _is_1x1(node: Any) -> bool:
    weights = _constant(node, 1) if node.get_type_name() == "Convolution" else None
    if weights is None or weights.shape[2:] != (1, 1):
        return False
    # With padding and strides, OpenVINO drops rows of what it is the sum of (2026.4).
    attributes = node.get_attributes()
    return not any(list(attributes["pads_begin"]) + list(attributes["pads_end"]))


def _in_parts(operators: Any, node: Any, given: List[List[Any]]) -> List[Any]:
    if node.get_type_name() == "Concat":
        return list(node.input_values())
    make = _PARTWISE[node.get_type_name()]
    return [make(operators, node, *values).output(0) for values in zip(*given)]


def _summed(operators: Any, node: Any, parts: List[Any]) -> Any:
    """A 1x1 convolution of channels in parts."""
    weights, attributes = _constant(node, 1), node.get_attributes()
    total: Any = None
    start = 0
    for part in parts:
        end = start + part.get_shape()[1]
        kernel = operators.constant(np.ascontiguousarray(weights[:, start:end]))
        window = [attributes[key] for key in ("strides", "pads_begin", "pads_end", "dilations")]
        product = operators.convolution(part, kernel, *window, attributes["auto_pad"])
        total = product if total is None else operators.add(total, product)
        start = end
    return total.output(0)


def _pooled(operators: Any, node: Any, part: Any) -> Any:
    attributes = node.get_attributes()
    keys = ("strides", "dilations", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
    return operators.max_pool(part, *(attributes[key] for key in keys))


def _is_plain_pooling(node: Any) -> bool:
    is_rounded = node.get_attributes()["rounding_type"] in ("floor", "ceil")
    return is_rounded and all(not one.get_target_inputs() for one in node.outputs()[1:])


_PARTWISE: Dict[str, Callable[..., Any]] = {
    "Elu": lambda operators, node, part: operators.elu(part, node.get_attributes()["alpha"]),
    "Relu": lambda operators, node, part: operators.relu(part),
    "Add": lambda operators, node, part, other: operators.add(part, other),
    "MaxPool": _pooled,
}


# The class map


def argmax_of_phases(model: Any, operators: Any) -> None:
    """Take the argmax of a bilinear enlargement before its pixels are put in place.

    An enlargement by a whole factor k is a 3x3 convolution of each class's plane with k * k fixed
    kernels, one for each place that a pixel may have in its cell. The classes lie in planes behind
    it, so OpenVINO need not turn all scores to compare them, and what is put in place are the
    classes in place of the scores.
    """
    for node in model.get_ops():
        factor = _enlargement(node)
        if factor < 2:
            continue
        coarse = node.input_value(0).get_node().input_value(0)
        batch, classes, height, width = coarse.get_shape()
        # Infinite, as the log of no share is, times a kernel's zeros would be no number.
        finite = operators.clamp(coarse, -INFINITE, INFINITE)
        planes = operators.reshape(finite, _sizes(batch * classes, 1, height, width), False)
        edges = _sizes(0, 0, 1, 1)
        padded = operators.pad(planes, edges, edges, "edge")
        kernels = operators.constant(_phase_kernels(factor))
        phases = operators.convolution(padded, kernels, [1, 1], [0, 0], [0, 0], [1, 1])
        # What stems from such a score, however small its weight, is as infinite as any other.
        level = operators.clamp(phases, -FINITE, FINITE)
        last = operators.transpose(level, _sizes(0, 2, 3, 1))
        scores = operators.reshape(last, _sizes(batch, classes, -1), False)
        found = _top(operators, node, scores).output(1)
        cells = operators.reshape(found, _sizes(batch, height, width, factor, factor), False)
        rows = operators.transpose(cells, _sizes(0, 1, 3, 2, 4))
        whole = operators.reshape(rows, _sizes(batch, 1, height * factor, width * factor), False)
        _replace(node.output(1), whole.output(0))


def _enlargement(node: Any) -> int:
    """The whole factor by which the scores that a TopK compares were enlarged; 0 for others."""
    if node.get_type_name() != "TopK" or node.get_attributes()["axis"] != 1:
        return 0
    resize = node.input_value(0).get_node()
    is_alone = resize.get_type_name() == "Interpolate" and (
        len(resize.output(0).get_target_inputs()) == 1
    )
    is_argmax = _constant(node, 1) is not None and _constant(node, 1) == 1
    if not is_alone or not is_argmax or node.output(0).get_target_inputs():
        return 0
    attributes = resize.get_attributes()
    if any(attributes.get(key) != value for key, value in BILINEAR.items()):
        return 0
    if resize.get_output_element_type(0).get_type_name() != "f32":
        return 0
    shapes = resize.input(0).get_partial_shape(), resize.output(0).get_partial_shape()
    if any(shape.is_dynamic or len(shape) != 4 for shape in shapes):
        return 0
    small, large = (list(shape.to_shape()) for shape in shapes)
    factor = int(large[2] // small[2])
    if large != small[:2] + [small[2] * factor, small[3] * factor]:
        return 0
    scales = _constant(resize, 1)
    is_exact = attributes["shape_calculation_mode"] == "sizes" or (
        scales is not None and list(scales[-2:]) == [factor, factor]
    )
    return factor if is_exact else 0


def _phase_kernels(factor: int) -> np.ndarray:
    """Of each place in a cell the weights of the 3x3 scores around: float32 (k * k, 1, 3, 3)."""
    offsets = (np.arange(factor) + 0.5) / factor - 0.5
    before, behind = np.maximum(-offsets, 0), np.maximum(offsets, 0)
    weights = np.stack([before, 1 - before - behind, behind], axis=1)
    kernels = weights[:, None, :, None] * weights[None, :, None, :]
    return kernels.reshape(factor * factor, 1, 3, 3).astype(np.float32)


def argmax_over_planes(model: Any, operators: Any) -> None:
    """Have a pixel's largest score looked for in plane after plane, in place; results stay equal.

    After an enlargement OpenVINO has a pixel's scores side by side, where its TopK takes several
    times as long as it does, the turn included, over planes. What is not (N, C, H, W), or of no
    fixed size, stays as it is.
    """
    for node in model.get_ops():
        if node.get_type_name() != "TopK" or node.get_attributes()["axis"] != 1:
            continue
        shape = node.input(0).get_partial_shape()
        if shape.is_dynamic or len(shape) != 4:
            continue
        batch, classes, height, width = shape.to_shape()
        planes = _sizes(batch, classes, height * width)
        flat = _top(operators, node, operators.reshape(node.input_value(0), planes, False))
        for old, new in zip(node.outputs(), flat.outputs()):
            back = _sizes(*old.get_shape())
            _replace(old, operators.reshape(new, back, False).output(0))


def ids_without_floats(model: Any) -> None:
    """Make bytes of class ids at once; the file goes by way of float32, which TensorRT asks for."""
    for node in model.get_ops():
        if not _is_convert_to(node, "u8"):
            continue
        real = node.input_value(0).get_node()
        if not _is_convert_to(real, "f32"):
            continue
        whole = real.input_value(0)
        if whole.get_element_type().get_type_name() in ("i32", "i64"):
            node.input(0).replace_source_output(whole)


def _is_convert_to(node: Any, element_type: str) -> bool:
    is_convert = node.get_type_name() == "Convert"
    return is_convert and bool(node.get_output_element_type(0).get_type_name() == element_type)


def _top(operators: Any, node: Any, scores_ncp: Any) -> Any:
    """A TopK like ``node`` over the classes of (N, C, pixels)."""
    attributes = node.get_attributes()
    settings = [attributes[key] for key in ("mode", "sort", "index_element_type")]
    # Of equal scores the first class wins where it is stable, as ONNX has its ArgMax.
    settings.append(attributes.get("stable", False))
    return operators.topk(scores_ncp, node.input_value(1), 1, *settings)


def _sizes(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


def _constant(node: Any, index: int) -> Any:
    source = node.input_value(index).get_node()
    return np.array(source.get_data()) if source.get_type_name() == "Constant" else None


def _replace(old: Any, new: Any) -> None:
    for target in list(old.get_target_inputs()):
        target.replace_source_output(new)
