"""DeployGraph -> ONNX file, in any of its variants."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from segmentation_node.backends.onnx_file import FEATURES
from segmentation_node.importing.model_folder import OPSET
from segmentation_node.importing.static_graph import drop_omitted_inputs
from segmentation_node.importing.temperature import temperature_props
from segmentation_node.networks.box_head import BoxHead
from segmentation_node.networks.deploy import VARIANTS, DeployGraph
from segmentation_node.networks.folding import fold_batch_norms


def graph_variant(graph: DeployGraph, variant: str) -> DeployGraph:
    """The same weights in another variant. Raises ValueError that lists the known ones.

    What a box head sees is an output of the ``uint8`` variant alone.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    network, dtype = graph.network, VARIANTS[variant].network
    # Folded before the weights become half: the statistics of a batch norm need not fit.
    network = fold_batch_norms(copy.deepcopy(network).eval()).to(dtype)
    return DeployGraph(
        graph.normalise,
        network,
        graph.with_confidence,
        variant,
        graph.trained_classes,
        graph.temperature,
        graph.box_head if variant == "uint8" else None,
    ).eval()


def export_onnx(
    graph: DeployGraph, size: tuple[int, int], batch: int, label_set: str, path: Path
) -> None:
    """Write the graph for a fixed size (height, width) and batch, with its label set's name."""
    example = torch.zeros((batch, *size, 3), dtype=graph.variant.image)
    names = ["class_map", *["confidence"] * graph.with_confidence]
    names += [FEATURES] * (graph.box_head is not None)
    props = {"label_set": label_set, **temperature_props(graph.temperature)}
    _export(graph, {"image": example}, names, props, path)


def export_boxes_onnx(
    head: BoxHead, features_shape: tuple[int, ...], proposals: int, label_set: str, path: Path
) -> None:
    """Write a box head for features of this shape and a fixed number of proposals."""
    inputs = {FEATURES: torch.zeros(features_shape), "rois": torch.zeros((proposals, 4))}
    _export(head, inputs, ["scores", "deltas"], {"label_set": label_set}, path)


def _export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: Sequence[str],
    props: dict[str, str],
    path: Path,
) -> None:
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in module(*inputs.values())]
    with warnings.catch_warnings():
        # Sizes become constants, which is what a static graph is; and the dynamo exporter, which
        # the other warning recommends, cannot write opset 13.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # What it leaves unfolded is folded below.
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    fold_constants(model)
    drop_omitted_inputs(model)
    declare_output_shapes(model, shapes)
    onnx.helper.set_model_props(model, props)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute, in place, every node that depends on constants alone.

    The exporter leaves the arithmetic of padding sizes in the graph; TensorRT 8.2 wants constants.
    """
    graph = model.graph
    opsets = {item.domain: item.version for item in model.opset_import}
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if not all(name in constants for name in inputs):
            kept.append(node)
            continue
        evaluator = ReferenceEvaluator(node, opsets=opsets)
        values: Any = evaluator.run(None, {name: constants[name] for name in inputs})
        constants.update(zip(node.output, values, strict=True))
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )


def declare_output_shapes(model: onnx.ModelProto, shapes: Sequence[tuple[int, ...]]) -> None:
    """Say in the file what the outputs' sizes are; the exporter gives them names instead."""
    for output, shape in zip(model.graph.output, shapes, strict=True):
        for dimension, length in zip(output.type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = length
