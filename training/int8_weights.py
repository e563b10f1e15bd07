"""Weights stored as int8, one scale an output channel; the graph decodes them to float32.

A quarter of the space, and everything is still computed in float32.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from segmentation_node.backends.onnx_edits import decode_weights
from segmentation_node.networks.folding import fold_batch_norms
from training.errors import ExportError

OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""Of an operator's weights."""
MOST = 127
SCALE_BITS = 16
"""Significant bits of a scale: its products with codes of 8 bits are exact in float32."""
NETWORK = "network."
"""What names of the network's tensors begin with in an exported graph."""


def round_weights(network: nn.Module) -> None:
    """Round, in place, all weights of convolutions to what int8 holds.

    Batch norms are folded into them first. The network has to be in evaluation mode.
    """
    for module in fold_batch_norms(network).modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            axis = int(module.transposed)
            codes, scales = codes_of(module.weight.detach().numpy(), axis)
            rounded = codes.astype(np.float32) * _along(scales, codes.ndim, axis)
            module.weight = nn.Parameter(torch.from_numpy(rounded))


def codes_of(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes, int8 of the weights' shape, and scales, float32, one an index of ``axis``.

    Weights that were rounded before come out as they are, to the bit.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    peaks = np.abs(weight).max(axis=others)
    mantissas, exponents = np.frexp(np.where(peaks > 0.0, peaks, 1.0) / MOST)
    steps = 2.0**SCALE_BITS
    scales = np.ldexp(np.ceil(mantissas * steps) / steps, exponents).astype(np.float32)
    codes = np.rint(weight / _along(scales, weight.ndim, axis)).astype(np.int8)
    return codes, scales


def store_as_int8(path: Path) -> None:
    """Store the weights of a graph's convolutions as int8, each with the node that decodes it."""
    model = onnx.load(path)
    graph = model.graph
    stored = dict(_convolution_weights(graph))
    kept, decoders = [], []
    for item in graph.initializer:
        if item.name not in stored:
            kept.append(item)
            continue
        codes, scales = codes_of(numpy_helper.to_array(item), stored[item.name])
        names = [f"{item.name}.int8", f"{item.name}.scale"]
        kept += map(numpy_helper.from_array, (codes, scales), names)
        decoders.append(
            helper.make_node(
                "DequantizeLinear", names, [item.name], f"{item.name}.decode",
                axis=stored[item.name],
            )
        )  # fmt: skip
    nodes = [*decoders, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def load_from_graph(network: nn.Module, path: Path) -> None:
    """Give a network the weights of an exported graph; its batch norms are folded, as there.

    It is then in evaluation mode. Raises ExportError where the graph does not have them: it is of
    another network, or the exporter gave them names of its own, as it does to slopes of PReLUs.
    """
    graph = onnx.load_from_string(decode_weights(path.read_bytes())).graph
    found = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    fold_batch_norms(network.eval())
    with torch.no_grad():
        for name, parameter in [*network.named_parameters(), *_statistics(network)]:
            values = found.get(NETWORK + name)
            if values is None or values.size != parameter.numel():
                raise ExportError(
                    f"{path}: the network's weights cannot be read from it: it has no {NETWORK}"
                    f"{name} of {parameter.numel()} values; export them as float32, which leaves "
                    "weights.safetensors"
                )
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))


def _statistics(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers with values: of the batch norms that cannot be folded."""
    return (item for item in network.named_buffers() if item[1].is_floating_point())


def _convolution_weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Name and output axis of each convolution's constant float32 weights."""
    floats = {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in OUTPUT_AXES and node.input[1] in floats:
            yield node.input[1], OUTPUT_AXES[node.op_type]


def _along(scales: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    """Scales in a shape that multiplies weights along their axis."""
    return scales.reshape([-1 if index == axis else 1 for index in range(dimensions)])
