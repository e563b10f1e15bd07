"""A shipped model's graph at any size, in float32 and in int8 forms, as files.

The first form is the one that ``training.export`` makes (``training.quantise``); the others differ
from it in what becomes int8, in notation or in how ranges are found.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from benchmarks.measured_models import write_class_map_graph
from benchmarks.options import Size, size_text
from segmentation_node.backends.onnx_file import keep_output
from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.files import new_file
from segmentation_node.model_card import ArtifactInfo, ModelCard, sha256_of
from training import quantise as training_quantise
from training.add_variants import graph_of
from training.quantise import CONVOLUTION, calibration_images, prepare

FP32, PREPARED = "fp32", "prepared"
IMAGES_OF_OTHER_SIZES = 4
"""Ranges do not change the time."""
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


def card_of(card: ModelCard, path: Path, size: Size) -> ModelCard:
    """The model's card as it would be with this graph, which gives a class map alone."""
    graph = ArtifactInfo(path.name, "onnx", sha256_of(str(path)), "benchmarks.int8")
    return replace(
        card,
        folder=str(path.parent),
        input=replace(card.input, height=size[0], width=size[1]),
        outputs=["class_map"],
        artifacts=[graph],
    )


class Graphs:
    """A model's graphs by (variant, size) as files in a folder; those that lie there are kept."""

    def __init__(self, card: ModelCard, dataset: Dataset, images: int, folder: Path) -> None:
        self.card, self.dataset, self.images, self.folder = card, dataset, images, folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, variant: str, size: Size) -> Path:
        """The file, made where it is missing."""
        path = self.folder / f"{self.card.name}_{size_text(size)}_{variant}.onnx"
        if not path.exists():
            print(f"{path.name} ...", flush=True)
            with new_file(str(path)) as partial:
                self._make(variant, size, Path(partial))
        return path

    def _make(self, variant: str, size: Size, path: Path) -> None:
        if variant == FP32:
            path.write_bytes(self._class_map_alone(size))
        elif variant == PREPARED:
            prepare(self.path(FP32, size), path)
        else:
            prepared = self.path(PREPARED, size)
            quantise(prepared, VARIANTS[variant], self._images(size), path)

    def _class_map_alone(self, size: Size) -> bytes:
        """As the backend runs it while nobody asks for the confidence."""
        path = Path(self.card.artifact_path("onnx"))
        if size == self.card.input_size:
            return keep_output(path.read_bytes(), "class_map")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "other.onnx"
            write_class_map_graph(graph_of(self.card), self.card.label_set, size, path)
            return path.read_bytes()

    def _images(self, size: Size) -> list[np.ndarray]:
        """Training images of the network's size, spread over the split: uint8 (1, H, W, 3)."""
        wanted = self.images if size == self.card.input_size else IMAGES_OF_OTHER_SIZES
        return calibration_images(self.dataset, (1, *size, 3), self.card.input.resize, wanted)


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
