"""A trained box head put beside its model: graphs, weights and card, once all was checked."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation_node.backends import open_backend
from segmentation_node.backends.base import BackendOptions
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.importing.model_folder import (
    OPSET,
    Form,
    artifact,
    write_card,
)
from segmentation_node.model_card import BOX_WEIGHTS, BOXES, CARD_FILE, ModelCard, read_card
from segmentation_node.networks.box_head import BoxHead
from segmentation_node.networks.deploy import DeployGraph
from segmentation_node.yaml_and_json import read_yaml
from training.box_score import card_figures, score_boxes
from training.checkpoint import save_weights
from training.errors import ExportError
from training.network_images import network_images
from training.onnx_graph import export_boxes_onnx, export_onnx, graph_variant

BOXES_FILE = "boxes.onnx"
BOX_WEIGHTS_FILE = "boxes.safetensors"
CHECKED_FRAMES = 12
LARGEST_DIFFERENCE = 1e-3
"""Of a probability or a delta, between torch and ONNX Runtime."""


def put_beside(
    folder: Path, graph: DeployGraph, head: BoxHead, boxes: dict[str, Any], tested: Dataset
) -> None:
    """Write the head and its card into a model's folder; ``boxes`` is the card's without figures.

    Raises ExportError where the model's class maps would change, or where torch and ONNX Runtime
    give other boxes: then the folder stays as it was.
    """
    before = read_card(str(folder))
    graph = DeployGraph(
        graph.normalise,
        graph.network,
        graph.with_confidence,
        trained_classes=graph.trained_classes,
        temperature=graph.temperature,
        box_head=head.eval(),
    ).eval()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(shutil.copytree(folder, Path(scratch) / "model"))
        files = _write_artifacts(made, graph, head, before, boxes)
        check_class_maps(before, read_card(str(made)), tested)
        check_head(graph, head, read_card(str(made)), tested)
        found = card_figures(score_boxes(read_card(str(made)), tested))
        content: dict[str, Any] = read_yaml(str(made / CARD_FILE))
        content["boxes"].update(found)
        write_card(made, content)
        write_card(folder, content, {file: (made / file).read_bytes() for file in files})


def _write_artifacts(
    made: Path, graph: DeployGraph, head: BoxHead, card: ModelCard, boxes: dict[str, Any]
) -> list[str]:
    """The files that were written into the copy of the model, whose card names them."""
    size, labels = card.input_size, card.label_set
    form = Form("uint8", size, 1)
    export_onnx(graph_variant(graph, "uint8"), size, 1, labels, made / form.file)
    with torch.inference_mode():
        features = graph(torch.zeros((1, *size, 3), dtype=torch.uint8))[-1]
    shape = tuple(features.shape)
    export_boxes_onnx(head, shape, boxes["proposals"], labels, made / BOXES_FILE)
    save_weights(made / BOX_WEIGHTS_FILE, head)
    ours = [
        form.artifact(made),
        artifact(made / BOXES_FILE, BOXES, f"opset {OPSET}, float32 in and out"),
        artifact(made / BOX_WEIGHTS_FILE, BOX_WEIGHTS, "safetensors, float32"),
    ]
    content: dict[str, Any] = read_yaml(str(made / CARD_FILE))
    files = [item["file"] for item in ours]
    others = [item for item in content["artifacts"] if item["file"] not in files]
    content["artifacts"] = [ours[0], *others, *ours[1:]]
    content["boxes"] = {**boxes, "frames": 0, "ap_50": 0.0, "ap_50_components": 0.0}
    write_card(made, content)
    return files


def check_class_maps(before: ModelCard, after: ModelCard, dataset: Dataset) -> None:
    """Raise ExportError unless the new file gives the maps of the old one, to the bit."""
    options = BackendOptions()
    with (
        open_backend("onnxruntime", before, options) as old,
        open_backend("onnxruntime", after, options) as new,
    ):
        new.open_boxes()
        for image_nhwc in _seen(before, dataset):
            expected = old.run(image_nhwc, old.has_confidence)
            found = new.run(image_nhwc, new.has_confidence, with_features=True)
            for name in ("class_map_nhw", "confidence_nhw"):
                if not np.array_equal(getattr(found, name), getattr(expected, name)):
                    raise ExportError(
                        f"{after.name}: with the output features its {name} is another; "
                        "nothing was written"
                    )


def check_head(graph: DeployGraph, head: BoxHead, card: ModelCard, dataset: Dataset) -> None:
    """Raise ExportError unless ONNX Runtime gives the head's results in torch."""
    assert card.boxes is not None
    rng = np.random.default_rng(0)
    height, width = card.input_size
    corners = rng.uniform(0.0, 1.0, (card.boxes.proposals, 2, 2)) * (width, height)
    rois = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1).astype(np.float32)
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        backend.open_boxes()
        for image_nhwc in _seen(card, dataset):
            with torch.inference_mode():
                features = graph(torch.from_numpy(image_nhwc))[-1]
                expected = head(features, torch.from_numpy(rois))
            prediction = backend.run(image_nhwc, with_features=True)
            assert prediction.features_nchw is not None
            found = backend.run_boxes(prediction.features_nchw, rois)
            for ours, theirs in zip(expected, found, strict=True):
                difference = float(np.abs(ours.numpy() - theirs).max())
                if not difference <= LARGEST_DIFFERENCE:
                    raise ExportError(
                        f"{card.name}: the box head in ONNX Runtime is {difference:.2g} from "
                        f"torch, expected {LARGEST_DIFFERENCE:g} or less; nothing was written"
                    )


def _seen(card: ModelCard, dataset: Dataset) -> Iterator[np.ndarray]:
    """A few images of a data set as the network takes them, uint8 (1, H, W, 3)."""
    return network_images(dataset, (1, *card.input_size, 3), card.input.resize, CHECKED_FRAMES)
