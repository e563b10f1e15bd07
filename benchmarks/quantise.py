"""int8 forms of a deployed graph that are measured against each other.

The first is the one that ``training.export`` makes (``training.quantise``); the others differ from
it in what becomes int8, in notation or in how ranges are found.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from segmentation_node.backends.onnxruntime import import_onnxruntime
from training import quantise as training_quantise
from training.quantise import CONVOLUTION

quantization = import_onnxruntime(".quantization")

FORMATS = {
    "qdq": quantization.QuantFormat.QDQ,
    "qoperator": quantization.QuantFormat.QOperator,
}
CALIBRATIONS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
BETWEEN = ("Add", "Concat", "MaxPool", "Resize")
"""What can pass 8 bits on from one convolution to the next. An ELU cannot: ONNX Runtime has none
in 8 bits, so that values become float and 8 bits again around it."""


class Variant(NamedTuple):
    """What becomes int8, in which notation, and how the ranges are found."""

    format: str = "qdq"
    calibration: str = "minmax"
    only_3x3: bool = False
    with_between: bool = False


VARIANTS = {
    "convolutions": Variant(),
    "convolutions_percentile": Variant(calibration="percentile"),
    "convolutions_entropy": Variant(calibration="entropy"),
    "convolutions_qoperator": Variant(format="qoperator"),
    "convolutions_3x3": Variant(only_3x3=True),
    "convolutions_and_between": Variant(with_between=True),
}


def quantise(
    prepared: Path, variant: Variant, images_nhwc: Sequence[np.ndarray], output: Path
) -> None:
    """Write the int8 form of a prepared model; ranges come from images uint8 (1, H, W, 3).

    Ranges are kept beside the prepared model, for the other variants.
    """
    training_quantise.quantise(
        prepared,
        nodes_to_quantise(onnx.load(prepared), variant),
        images_nhwc,
        output,
        # Of these the ranges are looked at, so that they serve all variants.
        operators=[CONVOLUTION, *BETWEEN],
        notation=FORMATS[variant.format],
        calibration=CALIBRATIONS[variant.calibration],
    )


def nodes_to_quantise(model: onnx.ModelProto, variant: Variant) -> list[str]:
    """Names of the nodes between the first and the last convolution that become int8."""
    nodes = list(model.graph.node)
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == CONVOLUTION]
    wanted = (CONVOLUTION, *(BETWEEN if variant.with_between else ()))
    return [
        node.name
        for node in nodes[convolutions[0] + 1 : convolutions[-1]]
        if node.op_type in wanted and not (variant.only_3x3 and not _is_3x3(node))
    ]


def count_int8_convolutions(model: onnx.ModelProto) -> int:
    """Convolutions of which image and weights are 8 bits, in either notation."""
    dequantised = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    return sum(
        node.op_type == "QLinearConv"
        or (node.op_type == CONVOLUTION and dequantised.issuperset(node.input[:2]))
        for node in model.graph.node
    )


def _is_3x3(node: Any) -> bool:
    return any(item.name == "kernel_shape" and list(item.ints) == [3, 3] for item in node.attribute)
