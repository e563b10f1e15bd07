"""The models that are measured: shipped ones at any size, random ones, and what runs them.

Weights decide nothing about time; where they are random the results say so.
"""

import dataclasses
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.options import Size, size_text
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.onnx_file import keep_output
from segmentation_node.labels import LABEL_SETS, describe
from segmentation_node.model_card import (
    OUTPUTS,
    ModelCard,
    models_folder,
    open_model,
    parse_card,
    read_card,
    sha256_of,
)  # fmt: skip
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise

RANDOM = "random"
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
STREET = "cityscapes19"
STREET_SIZE = (360, 640)
LOGITS_FILE = "logits.onnx"


class RunTime(NamedTuple):
    """One of the node's own backends, on the CPU in fp32."""

    backend: str
    execution: str = "auto"


REFERENCE = "onnxruntime"
"""Every class map is compared with this one's."""
RUN_TIMES = {
    REFERENCE: RunTime("onnxruntime"),
    "openvino": RunTime("openvino"),
    "torch": RunTime("torch", "eager"),
    "torch_compile": RunTime("torch", "compiled"),
}


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
    shipped = models_folder()
    for path in sorted(Path(shipped).glob("[!.]*/model.yaml")):
        card = open_model(path.parent.name)
        if card.network.name == name and card.label_set == STREET:
            return card
    return random_model(name, STREET, STREET_SIZE, folder / name)


def random_model(
    network: str, label_set: str, size: Size, folder: Path, with_onnx: bool = False
) -> ModelCard:
    """Write the weights, and with ``with_onnx`` the graph too, to ``folder``.

    The graph gives the class map alone, as the node runs it while nobody asks for the confidence.
    """
    torch.manual_seed(0)
    built = build_network(network, len(LABEL_SETS[label_set]), {}).eval()
    folder.mkdir(parents=True)
    save_file(built.state_dict(), str(folder / "weights.safetensors"))
    artifacts = [_artifact(folder / "weights.safetensors", "weights", "safetensors, float32")]
    if with_onnx:
        graph = DeployGraph(Normalise(MEAN_RGB, STD_RGB), built, with_confidence=True)
        write_class_map_graph(graph, label_set, size, folder / "model.onnx")
        artifacts.append(_artifact(folder / "model.onnx", "onnx", "uint8"))
    parameters = sum(item.numel() for item in built.parameters())
    values = {
        "name": f"{network}_{RANDOM}",
        "network": {"name": network, "options": {}, "parameters": parameters},
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


def write_class_map_graph(graph: DeployGraph, label_set: str, size: Size, path: Path) -> None:
    """ONNX of a graph without its confidence."""
    # Here, because a Jetson that measures the torch backend has no onnx package.
    from training.onnx_graph import export_onnx, graph_variant

    export_onnx(graph_variant(graph, "uint8"), size, 1, label_set, path)
    path.write_bytes(keep_output(path.read_bytes(), "class_map"))


def trained_network(card: ModelCard) -> Any:
    """The card's network with its weights, ready to run: float32 (N, 3, H, W) -> logits."""
    network = build_network(card.network.name, len(card.labels), card.network.options)
    network.load_state_dict(load_file(card.artifact_path("weights")))
    return network.eval()


def resized(
    card: ModelCard, size: Size, folder: Path, with_low_precisions: bool = False
) -> ModelCard:
    """The model for images of another size, in a folder of its own below ``folder``.

    Its artifacts are the package's ONNX graph and the weights; beside them lies ``LOGITS_FILE``,
    the bare network as the usual node takes it: normalised float32 in, logits out. With low
    precisions there is an int8 graph too, and the card says, untested at this size, that bf16 and
    int8 keep the classes, so that ``auto`` may take them where time alone counts.
    """
    from segmentation_node.importing.model_folder import confidence_entry, write_card
    from training.onnx_graph import OPSET, export_onnx, graph_variant

    target = folder / f"{card.name}_{size_text(size)}"
    target.mkdir(parents=True)
    network = trained_network(card)
    normalise = Normalise(card.input.mean_rgb, card.input.std_rgb)
    trained = card.weights.trained_classes
    graph = DeployGraph(
        normalise, network, True, trained_classes=trained, temperature=card.temperature
    )
    export_onnx(graph_variant(graph, "uint8"), size, 1, card.label_set, target / "model.onnx")
    _export_logits(network, size, target / LOGITS_FILE)
    shutil.copy(card.artifact_path("weights"), target / "weights.safetensors")
    whole = dataclasses.asdict(card)
    # No more: how sure it is, and whatever else was measured, was so at another size.
    values = {key: whole[key] for key in ("name", "network", "input", "weights")}
    if card.temperature != 1.0:
        values["confidence"] = confidence_entry(None, card.temperature)
    values["label_set"] = describe(card.labels) if card.own_labels else card.label_set
    values["input"].update(height=size[0], width=size[1])
    values.update(outputs=list(OUTPUTS), accuracy=[])
    values["artifacts"] = [
        _artifact(target / "model.onnx", "onnx", f"opset {OPSET}, uint8 in and out"),
        _artifact(target / "weights.safetensors", "weights", "safetensors, float32"),
    ]
    if with_low_precisions:
        _add_low_precisions(target, values, size)
    write_card(target, values)
    return read_card(str(target))


def _add_low_precisions(folder: Path, values: dict[str, Any], size: Size) -> None:
    from segmentation_node.evaluation.datasets import open_dataset
    from segmentation_node.importing.model_folder import Form
    from training.quantise import calibration_images, quantise_convolutions

    # Ranges do not change the time.
    images = calibration_images(open_dataset("street", "", "val"), (1, *size, 3), "stretch", 4)
    form = Form("int8", size)
    quantise_convolutions(folder / "model.onnx", images, folder / form.file)
    values["artifacts"].append(form.artifact(folder))
    scored = {"dataset": RANDOM, "split": "none", "frames": 1, "mean_iou": 0.0}
    low = [{}, {"precision": "bf16"}, {"artifact": "onnx_int8"}]
    values["accuracy"] = [{**scored, "global_accuracy": 0.0, **more} for more in low]


def _export_logits(network: Any, size: Size, path: Path) -> None:
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


def _artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}
