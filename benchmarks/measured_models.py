"""The models that are measured: shipped ones at any size, random ones, and what runs them.

Weights decide nothing about time; where they are random the results say so.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import Size, size_text
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.importing.model_folder import Form, artifact, confidence_entry, write_card
from segmentation_node.labels import LABEL_SETS, describe
from segmentation_node.model_card import ModelCard, open_model, read_card, shipped_models
from segmentation_node.networks import NETWORKS, build_network
from training.checkpoint import WEIGHTS_FILE, save_weights

RANDOM = "random"
STREET = "cityscapes19"
STREET_SIZE = (360, 640)
LOGITS_FILE = "logits.onnx"
REFERENCE = "onnxruntime"
"""Every class map is compared with this one's."""
RUN_TIMES = {
    REFERENCE: ("onnxruntime", "auto"),
    "openvino": ("openvino", "auto"),
    "torch": ("torch", "eager"),
    "torch_compile": ("torch", "compiled"),
}
"""The node's own backends and their executions, on the CPU in fp32."""


@contextmanager
def network_on(
    run_time: str, card: ModelCard, threads: int
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The network alone, uint8 (1, H, W, 3) -> class map (1, H, W).

    Raises BackendError where it can't be loaded.
    """
    backend, execution = RUN_TIMES[run_time]
    options = BackendOptions(device="cpu", num_threads=threads, execution=execution)
    try:
        with open_backend(backend, card, options) as opened:
            yield lambda image_nhwc: opened.run(image_nhwc).class_map_nhw
    finally:
        forget_compiled(execution)


def forget_compiled(execution: str) -> None:
    """All networks are compiled through one function, and PyTorch keeps eight of them at most."""
    if execution.startswith("compiled"):
        torch._dynamo.reset()


def model_named(name: str, folder: Path) -> ModelCard:
    """The model of this name; for a network's name one of 19 street classes.

    Where none is shipped, it is a ``random_model`` below ``folder``.
    """
    if name not in NETWORKS:
        return open_model(name)
    for card in map(open_model, shipped_models()):
        if card.network.name == name and card.label_set == STREET:
            return card
    return random_model(name, STREET, folder / name)


def shipped_options(network: str) -> dict[str, Any]:
    """The network's options as its CamVid model has them; none where no such model ships."""
    name = f"{network}_camvid"
    return dict(open_model(name).network.options) if name in shipped_models() else {}


def random_model(network: str, label_set: str, folder: Path) -> ModelCard:
    """Write the weights, for the network with ``shipped_options``, and their card to ``folder``.

    It gives the class map alone, as the node runs others while nobody asks for the confidence.
    """
    torch.manual_seed(0)
    shape = shipped_options(network)
    built = build_network(network, len(LABEL_SETS[label_set]), shape).eval()
    folder.mkdir(parents=True)
    save_weights(folder / WEIGHTS_FILE, built)
    height, width = STREET_SIZE
    values = {
        "name": f"{network}_{RANDOM}",
        "network": {
            "name": network,
            "options": shape,
            "parameters": sum(item.numel() for item in built.parameters()),
        },
        "label_set": label_set,
        "input": {
            "height": height,
            "width": width,
            "resize": "stretch",
            "mean_rgb": [123.675, 116.28, 103.53],
            "std_rgb": [58.395, 57.12, 57.375],
        },
        "outputs": ["class_map"],
        "weights": {"data": RANDOM, "licence": "Apache-2.0", "provenance": "benchmarks"},
        "accuracy": [],
        "artifacts": [artifact(folder / WEIGHTS_FILE, "weights", "safetensors, float32")],
    }
    write_card(folder, values)
    return read_card(str(folder))


def resized(card: ModelCard, size: Size, folder: Path, for_nodes: bool = False) -> ModelCard:
    """The model for images of another size, in a folder of its own below ``folder``.

    ``for_nodes``: beside its graph lies ``LOGITS_FILE``, the bare network as the usual node takes
    it (normalised float32 in, logits out), and there is an int8 graph too. The card says, untested
    at this size, that bf16 and int8 keep the classes, so that ``auto`` may take them where time
    alone counts.
    """
    # Here, because a Jetson that measures the torch backend has no onnx package.
    from segmentation_node.importing.quantise import quantise_convolutions
    from training.graphs import graph_of_card
    from training.network_images import network_images
    from training.onnx_graph import export_onnx, graph_variant

    target = folder / f"{card.name}_{size_text(size)}"
    target.mkdir(parents=True)
    graph, form, int8 = graph_of_card(card), Form("uint8", size), Form("int8", size)
    graph.box_head = None  # it is for the card's own size
    save_weights(target / WEIGHTS_FILE, graph.network)
    export_onnx(graph_variant(graph, "uint8"), size, 1, card.label_set, target / form.file)
    whole = dataclasses.asdict(card)
    # No more: how sure it is, and whatever else was measured, was so at another size.
    values = {key: whole[key] for key in ("name", "network", "input", "outputs", "weights")}
    if card.temperature != 1.0:
        values["confidence"] = confidence_entry(None, card.temperature)
    values["label_set"] = describe(card.labels) if card.own_labels else card.label_set
    values["input"].update(height=size[0], width=size[1])
    weights = artifact(target / WEIGHTS_FILE, "weights", "safetensors, float32")
    values.update(accuracy=[], artifacts=[form.artifact(target), weights])
    if for_nodes:
        _export_logits(graph.network, size, target / LOGITS_FILE)
        # Ranges do not change the time.
        images = network_images(open_dataset("street", "", "val"), (1, *size, 3), "stretch", 4)
        quantise_convolutions(target / form.file, list(images), target / int8.file)
        values["artifacts"].append(int8.artifact(target))
        scored = {"dataset": RANDOM, "split": "none", "frames": 1, "mean_iou": 0.0}
        low = [{}, {"precision": "bf16"}, {"artifact": "onnx_int8"}]
        values["accuracy"] = [{**scored, "global_accuracy": 0.0, **more} for more in low]
    write_card(target, values)
    return read_card(str(target))


def _export_logits(network: torch.nn.Module, size: Size, path: Path) -> None:
    from training.onnx_graph import OPSET

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # export_onnx says why
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, *size),),
            path,
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=False,
        )
