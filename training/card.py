"""The model card of exported files: what is in the folder, where it comes from, what it scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segmentation_node.backends import BackendOptions
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.offline import evaluate_dataset, measure_confidence
from segmentation_node.importing.model_folder import Form, accuracy_entry, artifact
from segmentation_node.labels import LabelSet, describe, is_built_in
from segmentation_node.model_card import CARD_FILE, ConfidenceInfo, Size, read_card
from segmentation_node.networks import build_network
from segmentation_node.pipeline import open_segmenter
from training.recipe import Recipe

MEASURED = {"fp32": "uint8", "int8": "int8"}
"""Variants whose accuracy the card gives, by the precision at which they run."""
OWN_DATA = (
    "pictures of one's own",
    "as whoever owns the pictures permits; to be stated here before the weights are passed on",
)
DATA = {
    "camvid": (
        "CamVid in SegNet's layout, images of 480x360",
        "research use only, as CamVid's own terms (University of Cambridge) ask",
    ),
    "cityscapes": (
        "Cityscapes, fine annotations",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "cityscapes_coarse": (
        "Cityscapes, coarse annotations",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "folder": OWN_DATA,
    "kitti_semantics": (
        "KITTI semantic segmentation",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "kitti_step": (
        "KITTI-STEP",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "street": (
        "the procedural street drive of this package, no recorded image",
        "Apache-2.0",
    ),
    "voc": OWN_DATA,
}
"""Training data and the licence that it puts on the weights, by data set."""


def make_card(
    recipe: Recipe,
    name: str,
    folder: Path,
    forms: Sequence[Form],
    labels: LabelSet,
    command: str,
) -> dict[str, Any]:
    """The card of the artifacts in ``folder``, without accuracy; the first has the card's size."""
    size = forms[0].size
    data, licence = DATA[recipe.dataset]
    inherited = licence_of_start(recipe)
    return {
        "name": name,
        "network": {
            "name": recipe.network,
            "options": recipe.network_options,
            "parameters": count_parameters(recipe, labels),
        },
        "label_set": labels.name if is_built_in(labels) else describe(labels),
        "input": {
            "height": size[0],
            "width": size[1],
            "resize": "stretch",
            "mean_rgb": list(recipe.mean_rgb),
            "std_rgb": list(recipe.std_rgb),
        },
        "outputs": ["class_map", "confidence"],
        "weights": {
            "data": f"{data}, split {recipe.train_split}; {started_from(recipe)}",
            "licence": f"{licence}; of what it started from: {inherited}" if inherited else licence,
            "provenance": command,
        },
        "accuracy": [],
        "artifacts": [
            *(form.artifact(folder) for form in forms),
            artifact(folder / "weights.safetensors", "weights", "safetensors, float32"),
        ],
    }


def started_from(recipe: Recipe) -> str:
    """What the weights were before this training, for the card: its data count as well."""
    source = recipe.trunk or recipe.start_weights
    return f"started from {source}" if source else "no pre-training"


def licence_of_start(recipe: Recipe) -> str:
    """The licence on the card beside the weights that training started from; empty without one."""
    folder = Path(recipe.start_weights).parent
    if not recipe.start_weights or not (folder / CARD_FILE).is_file():
        return ""
    return read_card(str(folder)).weights.licence


def count_parameters(recipe: Recipe, labels: LabelSet) -> int:
    """Parameters of the recipe's network; a batch norm's statistics are none."""
    with torch.device("meta"):
        network = build_network(recipe.network, len(labels), recipe.network_options)
    return sum(parameter.numel() for parameter in network.parameters())


def measure_confidence_on(folder: Path, dataset: Dataset) -> ConfidenceInfo:
    """The card's confidence entry, of the shipped file on ONNX Runtime."""
    with open_segmenter(read_card(str(folder)), "onnxruntime") as segmenter:
        return measure_confidence(segmenter, dataset)


def measure_accuracy(
    folder: Path,
    dataset_name: str,
    dataset: Dataset,
    precision: str = "fp32",
    size: Size | None = None,
) -> dict[str, Any]:
    """The card's accuracy entry: a file of the folder through the pipeline on ONNX Runtime."""
    card = read_card(str(folder))
    card = card.at_size(size or card.input_size)
    options = BackendOptions(precision=precision)
    with open_segmenter(card, "onnxruntime", options) as segmenter:
        result = evaluate_dataset(segmenter, dataset).accuracy
        return accuracy_entry(segmenter, dataset_name, dataset.split, result)
