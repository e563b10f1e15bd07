"""DeployGraph -> ONNX file, in any of its variants."""

import copy
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from segmentation_node.importing.model_folder import OPSET
from segmentation_node.importing.static_graph import drop_omitted_inputs
from segmentation_node.importing.temperature import temperature_props
from segmentation_node.networks.deploy import VARIANTS, DeployGraph
from segmentation_node.networks.folding import fold_batch_norms


def graph_variant(graph: DeployGraph, variant: str) -> DeployGraph:
    """The same weights in another variant. Raises ValueError that lists the known ones."""
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
    ).eval()


def export_onnx(
    graph: DeployGraph, size: tuple[int, int], batch: int, label_set: str, path: Path
) -> None:
    """Write the graph for a fixed size (height, width) and batch, with its label set's name."""
    example = torch.zeros((batch, *size, 3), dtype=graph.variant.image)
    with warnings.catch_warnings():
        # Sizes become constants, which is what a static graph is; and the dynamo exporter, which
        # the other warning recommends, cannot write opset 13.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # What it leaves unfolded is folded below.
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=["image"],
            output_names=["class_map", "confidence"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    fold_constants(model)
    drop_omitted_inputs(model)
    declare_output_shape(model, (batch, *size))
    onnx.helper.set_model_props(
        model, {"label_set": label_set, **temperature_props(graph.temperature)}
    )
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


def declare_output_shape(model: onnx.ModelProto, shape_nhw: tuple[int, ...]) -> None:
    """Say in the file what the outputs' sizes are; the exporter gives them names instead."""
    for output in model.graph.output:
        for dimension, length in zip(output.type.tensor_type.shape.dim, shape_nhw, strict=True):
            dimension.dim_value = length
