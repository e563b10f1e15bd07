"""A shipped model's graph at any size, in float32 and in its int8 forms, as files."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.quantise import VARIANTS, quantise
from segmentation_node.backends.onnx_file import keep_output
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.files import new_file
from segmentation_node.model_card import ArtifactInfo, ModelCard, sha256_of
from training.add_variants import graph_of
from training.onnx_graph import export_onnx, graph_variant
from training.quantise import calibration_images, prepare

FP32, PREPARED = "fp32", "prepared"
IMAGES_OF_OTHER_SIZES = 4
"""Ranges do not change the time."""


def card_of(card: ModelCard, path: Path, size: tuple[int, int]) -> ModelCard:
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

    def path(self, variant: str, size: tuple[int, int]) -> Path:
        """The file, made where it is missing; the size is (height, width)."""
        path = self.folder / f"{self.card.name}_{size[1]}x{size[0]}_{variant}.onnx"
        if not path.exists():
            print(f"{path.name} ...", flush=True)
            with new_file(str(path)) as partial:
                self._make(variant, size, Path(partial))
        return path

    def _make(self, variant: str, size: tuple[int, int], path: Path) -> None:
        if variant == FP32:
            path.write_bytes(self._class_map_alone(size))
        elif variant == PREPARED:
            prepare(self.path(FP32, size), path)
        else:
            prepared = self.path(PREPARED, size)
            quantise(prepared, VARIANTS[variant], self._images(size), path)

    def _class_map_alone(self, size: tuple[int, int]) -> bytes:
        """As the backend runs it while nobody asks for the confidence."""
        path = Path(self.card.artifact_path("onnx"))
        if size == self.card.input_size:
            return keep_output(path.read_bytes(), "class_map")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "other.onnx"
            graph = graph_variant(graph_of(self.card), "uint8")
            export_onnx(graph, size, 1, self.card.label_set, path)
            return keep_output(path.read_bytes(), "class_map")

    def _images(self, size: tuple[int, int]) -> list[np.ndarray]:
        """Training images of the network's size, spread over the split: uint8 (1, H, W, 3)."""
        wanted = self.images if size == self.card.input_size else IMAGES_OF_OTHER_SIZES
        return calibration_images(self.dataset, (1, *size, 3), self.card.input.resize, wanted)
