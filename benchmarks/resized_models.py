"""A model of the package at another input size, in the forms that the compared nodes take."""

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.torch_speed import card_of
from segmentation_node.model_card import (
    OUTPUTS,
    ModelCard,
    open_model,
    read_card,
    sha256_of,
)
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from training.card import write_card
from training.onnx_graph import OPSET, export_onnx, graph_variant

LOGITS_FILE = "logits.onnx"


def card_named(name: str, folder: Path) -> ModelCard:
    """The model of this name; for a network's name one of 19 street classes.

    Where none is shipped, its weights are random: they decide nothing about time.
    """
    if name in NETWORKS:
        return card_of(name, folder)
    return open_model(name)


def trained_network(card: ModelCard) -> Any:
    """The card's network with its weights, ready to run: float32 (N, 3, H, W) -> logits."""
    network = build_network(card.network.name, len(card.labels), card.network.options)
    network.load_state_dict(load_file(card.artifact_path("weights")))
    return network.eval()


def resized(card: ModelCard, size: tuple[int, int], folder: Path) -> ModelCard:
    """The model for images of this (height, width), in a folder of its own below ``folder``.

    Its artifacts are the package's ONNX graph and the weights; beside them lies ``LOGITS_FILE``,
    the bare network as the usual node takes it: normalised float32 in, logits out.
    """
    target = folder / f"{card.name}_{size[1]}x{size[0]}"
    target.mkdir(parents=True)
    network = trained_network(card)
    normalise = Normalise(card.input.mean_rgb, card.input.std_rgb)
    trained = card.weights.trained_classes
    graph = DeployGraph(normalise, network, True, trained_classes=trained)
    export_onnx(graph_variant(graph, "uint8"), size, 1, card.label_set, target / "model.onnx")
    _export_logits(network, size, target / LOGITS_FILE)
    shutil.copy(card.artifact_path("weights"), target / "weights.safetensors")
    write_card(target, _card_values(card, size, target))
    return read_card(str(target))


def _export_logits(network: Any, size: tuple[int, int], path: Path) -> None:
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


def _card_values(card: ModelCard, size: tuple[int, int], target: Path) -> dict[str, Any]:
    artifacts = {
        "onnx": ("model.onnx", f"opset {OPSET}, uint8 in and out"),
        "weights": ("weights.safetensors", "safetensors, float32"),
    }
    values = dataclasses.asdict(card)
    del values["folder"], values["own_labels"]
    values["input"].update(height=size[0], width=size[1])
    values["outputs"] = list(OUTPUTS)
    values["accuracy"] = []
    values["artifacts"] = [
        {"file": file, "kind": kind, "sha256": sha256_of(str(target / file)), "version": version}
        for kind, (file, version) in artifacts.items()
    ]
    return values
