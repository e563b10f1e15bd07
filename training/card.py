"""The model card of exported files: what is in the folder, where it comes from, what it scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.files import write_whole
from segmentation_node.labels import LabelSet
from segmentation_node.model_card import CARD_FILE, parse_card, read_card, sha256_of
from segmentation_node.networks import build_network
from segmentation_node.pipeline import Segmenter
from segmentation_node.yaml_and_json import parse_yaml
from training.onnx_graph import OPSET
from training.recipe import Recipe

ARTIFACTS = {
    "uint8": ("model.onnx", "onnx", "uint8 in and out"),
    "float": ("model_float.onnx", "onnx_float", "float32 in, int32 out"),
    "fp16": ("model_fp16.onnx", "onnx_fp16", "float16 inside, uint8 in and out"),
    "int8": ("model_int8.onnx", "onnx_int8", "int8 convolutions (QDQ), uint8 in and out"),
}
"""File, kind on the card and description, by variant."""
MEASURED = {"fp32": "uint8", "int8": "int8"}
"""Variants whose accuracy the card gives, by the precision at which they run."""
DATA = {
    "camvid": (
        "CamVid train in SegNet's layout, 367 images at 480x360",
        "research use only, as CamVid's own terms (University of Cambridge) ask",
    ),
    "cityscapes": (
        "Cityscapes train, fine annotations, 2975 images",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "cityscapes_coarse": (
        "Cityscapes, coarse annotations",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "kitti_semantics": (
        "KITTI semantic segmentation, training, 200 images",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "kitti_step": (
        "KITTI-STEP train, 12 sequences",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "street": (
        "the procedural street drive of this package, no recorded image",
        "Apache-2.0",
    ),
}
"""Training data and the licence that it puts on the weights, by data set."""


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Validate the card and put it beside its artifacts."""
    text = yaml.safe_dump(card, sort_keys=False, width=96)
    parse_card(parse_yaml(text, CARD_FILE), str(folder))
    write_whole(str(folder / CARD_FILE), text)


def make_card(
    recipe: Recipe,
    name: str,
    folder: Path,
    size: tuple[int, int],
    labels: LabelSet,
    command: str,
    variants: Sequence[str] = ("uint8",),
) -> dict[str, Any]:
    """The card of the artifacts in ``folder``, without accuracy."""
    data, licence = DATA[recipe.dataset]
    return {
        "name": name,
        "network": {
            "name": recipe.network,
            "options": recipe.network_options,
            "parameters": count_parameters(recipe, labels),
        },
        "label_set": labels.name,
        "input": {
            "height": size[0],
            "width": size[1],
            "resize": "stretch",
            "mean_rgb": list(recipe.mean_rgb),
            "std_rgb": list(recipe.std_rgb),
        },
        "outputs": ["class_map", "confidence"],
        "weights": {
            "data": f"{data}; {started_from(recipe)}",
            "licence": licence,
            "provenance": command,
        },
        "accuracy": [],
        "artifacts": [
            *(onnx_artifact(folder, variant) for variant in variants),
            _artifact(folder / "weights.safetensors", "weights", "safetensors, float32"),
        ],
    }


def started_from(recipe: Recipe) -> str:
    """What the weights were before this training, for the card: its data count as well."""
    source = recipe.trunk or recipe.start_weights
    return f"started from {source}" if source else "no pre-training"


def count_parameters(recipe: Recipe, labels: LabelSet) -> int:
    """Parameters of the recipe's network; a batch norm's statistics are none."""
    with torch.device("meta"):
        network = build_network(recipe.network, len(labels), recipe.network_options)
    return sum(parameter.numel() for parameter in network.parameters())


def onnx_artifact(folder: Path, variant: str) -> dict[str, Any]:
    """The card's entry for a variant's file in this folder."""
    file, kind, description = ARTIFACTS[variant]
    return _artifact(folder / file, kind, f"opset {OPSET}, {description}")


def _artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    path.chmod(0o644)
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}


def measure_accuracy(
    folder: Path, dataset_name: str, dataset: Dataset, precision: str = "fp32"
) -> dict[str, Any]:
    """The card's accuracy entry: the shipped file through the pipeline on ONNX Runtime."""
    card = read_card(str(folder))
    with open_backend("onnxruntime", card, BackendOptions(precision=precision)) as backend:
        result = evaluate_dataset(Segmenter(backend), dataset).accuracy
        kind = backend.kind_for(precision)
    return {
        "dataset": dataset_name,
        "split": dataset.split,
        "frames": result.frames,
        "mean_iou": round(result.matrix.mean_iou(), 4),
        "global_accuracy": round(result.matrix.global_accuracy(), 4),
        "artifact": kind,
    }
