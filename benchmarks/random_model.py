"""Models of random weights for measurements: a card with its artifacts, as the node would load it.

Weights decide nothing about time.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from segmentation_node.backends.onnx_file import keep_output
from segmentation_node.labels import LABEL_SETS
from segmentation_node.model_card import ModelCard, parse_card, sha256_of
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise

RANDOM = "random"
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)


def random_model(
    network: str, label_set: str, size: tuple[int, int], folder: Path, with_onnx: bool = False
) -> ModelCard:
    """Write the weights, and with ``with_onnx`` the graph too, for (height, width) to ``folder``.

    The graph gives the class map alone, as the node runs it while nobody asks for the confidence.
    """
    torch.manual_seed(0)
    built = build_network(network, len(LABEL_SETS[label_set]), {}).eval()
    folder.mkdir(parents=True)
    save_file(built.state_dict(), str(folder / "weights.safetensors"))
    artifacts = [_artifact(folder / "weights.safetensors", "weights", "safetensors, float32")]
    if with_onnx:
        _write_graph(built, label_set, size, folder / "model.onnx")
        artifacts.append(_artifact(folder / "model.onnx", "onnx", "uint8"))
    values = {
        "name": f"{network}_{RANDOM}",
        "network": {
            "name": network,
            "options": {},
            "parameters": sum(item.numel() for item in built.parameters()),
        },
        "label_set": label_set,
        "input": {
            "height": size[0],
            "width": size[1],
            "resize": "stretch",
            "mean_rgb": list(MEAN_RGB),
            "std_rgb": list(STD_RGB),
        },
        "outputs": ["class_map"],
        "weights": {"data": RANDOM, "licence": "Apache-2.0", "provenance": "benchmarks"},
        "accuracy": [],
        "artifacts": artifacts,
    }
    return parse_card(values, str(folder))


def _write_graph(network: nn.Module, label_set: str, size: tuple[int, int], path: Path) -> None:
    # Here, because a Jetson that measures the torch backend has no onnx package.
    from training.onnx_graph import export_onnx, graph_variant

    graph = DeployGraph(Normalise(MEAN_RGB, STD_RGB), network, with_confidence=True)
    export_onnx(graph_variant(graph, "uint8"), size, 1, label_set, path)
    path.write_bytes(keep_output(path.read_bytes(), "class_map"))


def _artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}
