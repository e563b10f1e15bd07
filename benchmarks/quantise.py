"""int8 forms of a deployed graph, by ONNX Runtime's static quantisation.

Activations become uint8, one scale and zero point a tensor; weights int8, one scale an output
channel (Jacob et al. 2018). The first convolution sees the image and the last gives the scores:
they stay in float, and so does everything before the one and after the other.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}
CALIBRATIONS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
IMAGES_AT_ONCE = 4
"""Histograms are made of the activations of so many images; all of them would not fit."""
CONVOLUTION, BETWEEN = "Conv", ("Add", "Concat", "MaxPool", "Resize")
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


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Gives images uint8 (1, H, W, 3), one a call, out of the range that was set."""

    def __init__(self, images_nhwc: Sequence[np.ndarray]) -> None:
        self._images = images_nhwc
        self.set_range(0, len(images_nhwc))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._rest, None)
        return None if image is None else {"image": image}


def prepare(model: Path, output: Path) -> None:
    """Write the float model that ``quantise`` takes: constants folded, shapes in the file."""
    # Shapes are static; the symbolic inference is for others.
    quant_pre_process(str(model), str(output), skip_symbolic_shape=True)


def quantise(
    prepared: Path, variant: Variant, images_nhwc: Sequence[np.ndarray], output: Path
) -> None:
    """Write the int8 form of a prepared model; ranges come from images uint8 (1, H, W, 3).

    Ranges are kept beside the prepared model, for the other variants.
    """
    chosen = nodes_to_quantise(onnx.load(prepared), variant)
    # What it warns of (a model that was not prepared, and its own logger) does not hold here.
    logging.getLogger().setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        _quantise(prepared, variant, chosen, images_nhwc, output)


def _quantise(
    prepared: Path,
    variant: Variant,
    chosen: list[str],
    images_nhwc: Sequence[np.ndarray],
    output: Path,
) -> None:
    quantize_static(
        str(prepared),
        str(output),
        _Images(images_nhwc),
        quant_format=FORMATS[variant.format],
        # Of these the ranges are looked at, so that they serve all variants.
        op_types_to_quantize=[CONVOLUTION, *BETWEEN],
        nodes_to_quantize=chosen,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CALIBRATIONS[variant.calibration],
        calibration_cache_path=str(prepared.with_suffix(f".{variant.calibration}.json")),
        extra_options={"CalibStridedMinMax": _divisor(len(images_nhwc), IMAGES_AT_ONCE)},
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


def _divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` up to ``most``: ONNX Runtime takes no remainder."""
    return next(size for size in range(min(most, count), 0, -1) if count % size == 0)
