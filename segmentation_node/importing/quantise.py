"""The int8 form of a deployed graph, by ONNX Runtime's static quantisation.

Activations become uint8, one scale and zero point a tensor; weights int8, one scale an output
channel (Jacob et al. 2018). The first convolution sees the image and the last gives the scores:
they stay in float, and so does everything before the one and after the other.
"""

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segmentation_node.backends.onnxruntime import import_onnxruntime

quantization = import_onnxruntime(".quantization")

CALIBRATION_IMAGES = 64
IMAGES_AT_ONCE = 4
"""Histograms are made of the activations of so many images; all of them would not fit."""
CONVOLUTION = "Conv"


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
    """Gives images uint8 (N, H, W, 3), one a call, out of the range that was set."""

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


def quantise_convolutions(
    model: Path, images_nhwc: Sequence[np.ndarray], output: Path, in_float: int = 1
) -> None:
    """Write the int8 form of a float graph: every convolution but the first and the last.

    With ``in_float`` so many of the first stay in float: what follows the first may have a range
    that is wide beside its values.

    Ranges are the least and the greatest value on the images, uint8 of the graph's own shape.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        prepare(model, prepared)
        nodes = convolutions_between(onnx.load(prepared), in_float)
        quantise(prepared, nodes, images_nhwc, output)


def prepare(model: Path, output: Path) -> None:
    """Write the float model that ``quantise`` takes: constants folded, shapes in the file.

    Every node has a name of its own, by which it is chosen; foreign ones may come without.
    """
    # Shapes are static; the symbolic inference is for others.
    pre_process = import_onnxruntime(".quantization.shape_inference").quant_pre_process
    pre_process(str(model), str(output), skip_symbolic_shape=True)
    prepared = onnx.load(output)
    names = Counter(node.name for node in prepared.graph.node)
    for number, node in enumerate(prepared.graph.node):
        if not node.name or names[node.name] > 1:
            node.name = f"{node.op_type}/{number}"
    onnx.save(prepared, output)


def convolutions_between(model: onnx.ModelProto, first: int = 1) -> list[str]:
    """Names of the convolutions between so many of the first and the last."""
    names = [node.name for node in model.graph.node if node.op_type == CONVOLUTION]
    return names[first:-1]


def quantise(
    prepared: Path,
    nodes: Sequence[str],
    images_nhwc: Sequence[np.ndarray],
    output: Path,
    operators: Sequence[str] = (CONVOLUTION,),
    notation: Any = quantization.QuantFormat.QDQ,
    calibration: Any = quantization.CalibrationMethod.MinMax,
) -> None:
    """Write the int8 form of a prepared model, in which these nodes are int8.

    Ranges come from the images, of all nodes of ``operators``; they are kept beside the prepared
    model, for other forms of it.
    """
    # What it warns of (a model that was not prepared, and its own logger) does not hold here.
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantization.quantize_static(
                str(prepared),
                str(output),
                _Images(images_nhwc),
                quant_format=notation,
                op_types_to_quantize=list(operators),
                nodes_to_quantize=list(nodes),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=calibration,
                calibration_cache_path=str(prepared.with_suffix(f".{calibration.name}.json")),
                extra_options={"CalibStridedMinMax": _divisor(len(images_nhwc), IMAGES_AT_ONCE)},
            )
    finally:
        logger.setLevel(level)
    model = onnx.load(output)
    drop_unused_opsets(model)
    onnx.save(model, output)


def drop_unused_opsets(model: onnx.ModelProto) -> None:
    """Leave out, in place, the operator sets that no node is of.

    ONNX Runtime writes all that it knows, and an older one refuses what it does not know.
    """
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` up to ``most``: ONNX Runtime takes no remainder."""
    return next(size for size in range(min(most, count), 0, -1) if count % size == 0)
