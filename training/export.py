"""Export a run: ``python -m training.export RUN --name NAME`` makes ``models/NAME``.

Leaves weights.safetensors, model.onnx and model.yaml, after torch and ONNX Runtime agreed on real
images of the data set.
"""

import argparse
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.dataset import evaluate_dataset
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.images import place, to_network
from segmentation_node.labels import LabelSet
from segmentation_node.model_card import CARD_FILE, parse_card, read_card, sha256_of
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.pipeline import Segmenter
from training.recipe import Recipe

OPSET = 13
"""What TensorRT 8.2 and ONNX Runtime 1.10 can read, and today's versions too."""
LEAST_AGREEMENT = 0.9999
DATA = {
    "camvid": (
        "CamVid train in SegNet's layout, 367 images at 480x360; no pre-training",
        "research use only, as CamVid's own terms (University of Cambridge) ask",
    ),
    "cityscapes": (
        "Cityscapes train, fine annotations, 2975 images; no pre-training",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "kitti_semantics": (
        "KITTI semantic segmentation, training, 200 images; no pre-training",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "street": (
        "the procedural street drive of this package; no recorded image",
        "Apache-2.0",
    ),
}
"""Training data and the licence that it puts on the weights, by data set."""


def deploy_graph(recipe: Recipe, labels: LabelSet, weights: Path) -> DeployGraph:
    """The deployed graph of a run's weights, in evaluation mode on the CPU."""
    network = build_network(recipe.network, len(labels), recipe.network_options)
    network.load_state_dict(load_file(weights))
    return DeployGraph(Normalise(recipe.mean_rgb, recipe.std_rgb), network, True).eval()


def export_onnx(
    graph: DeployGraph, size: tuple[int, int], batch: int, label_set: str, path: Path
) -> None:
    """Write the graph for a fixed size (height, width) and batch, with its label set's name."""
    example = torch.zeros((batch, *size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        # Sizes become constants, which is what a static graph is; and the dynamo exporter, which
        # the other warning recommends, cannot write opset 13.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=["image"],
            output_names=["class_map", "confidence"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    fold_constants(model)
    onnx.helper.set_model_props(model, {"label_set": label_set})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute, in place, every node that depends on constants alone.

    The exporter leaves the arithmetic of padding sizes in the graph; TensorRT 8.2 wants constants.
    """
    graph = model.graph
    opsets = {item.domain: item.version for item in model.opset_import}
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if not all(name in constants for name in inputs):
            kept.append(node)
            continue
        evaluator = ReferenceEvaluator(node, opsets=opsets)
        values = evaluator.run(None, {name: constants[name] for name in inputs})
        constants.update(zip(node.output, values, strict=True))
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )


def agreement(graph: DeployGraph, folder: Path, dataset: Dataset, frames: int) -> float:
    """Share of pixels to which torch and ONNX Runtime give the same class, on real images."""
    card = read_card(str(folder))
    equal = total = 0
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        image_nhwc = np.zeros(backend.input_shape, np.uint8)
        for index in range(min(frames, len(dataset))):
            image = dataset[index].image_hwc
            placement = place(card.input.resize, image.shape[:2], card.input_size)
            for slot in image_nhwc:
                to_network(image, placement, slot)
            with torch.inference_mode():
                expected = graph(torch.from_numpy(image_nhwc))[0].numpy()
            equal += int((backend.run(image_nhwc).class_map_nhw == expected).sum())
            total += expected.size
    return equal / total


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Validate the card and put it beside its artifacts."""
    parse_card(yaml.safe_load(yaml.safe_dump(card)), str(folder))
    partial = folder / (CARD_FILE + ".partial")
    partial.write_text(yaml.safe_dump(card, sort_keys=False, width=96))
    partial.rename(folder / CARD_FILE)


def make_card(
    recipe: Recipe, name: str, folder: Path, size: tuple[int, int], labels: LabelSet, command: str
) -> dict[str, Any]:
    """The card of the artifacts in ``folder``, without accuracy."""
    weights = load_file(folder / "weights.safetensors")
    data, licence = DATA[recipe.dataset]
    return {
        "name": name,
        "network": {
            "name": recipe.network,
            "options": recipe.network_options,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
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
        "weights": {"data": data, "licence": licence, "provenance": command},
        "accuracy": [],
        "artifacts": [
            _artifact(folder / "model.onnx", "onnx", f"opset {OPSET}, uint8 in and out"),
            _artifact(folder / "weights.safetensors", "weights", "safetensors, float32"),
        ],
    }


def _artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    path.chmod(0o644)
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}


def measure_accuracy(folder: Path, dataset_name: str, root: str, split: str) -> dict[str, Any]:
    """The card's accuracy entry: the shipped file through the pipeline on ONNX Runtime."""
    dataset = open_dataset(dataset_name, root, split)
    card = read_card(str(folder))
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        result = evaluate_dataset(Segmenter(backend), dataset)
    return {
        "dataset": dataset_name,
        "split": split,
        "frames": result.frames,
        "mean_iou": round(result.matrix.mean_iou(), 4),
        "global_accuracy": round(result.matrix.global_accuracy(), 4),
    }


def export_run(
    run: Path, name: str, models: Path, root: str, size: tuple[int, int], batch: int
) -> Path:
    """Make ``models/name`` from a run's folder. Raises RuntimeError when parity fails.

    The folder appears, or is replaced, only once everything in it was checked.
    """
    recipe = Recipe.read(run / "recipe.yaml")
    split = recipe.val_split or recipe.train_split
    dataset = open_dataset(recipe.dataset, root, split)
    partial = models / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        graph = deploy_graph(recipe, dataset.label_set, run / "weights.safetensors")
        save_file(graph.network.state_dict(), partial / "weights.safetensors")
        export_onnx(graph, size, batch, dataset.label_set.name, partial / "model.onnx")
        command = f"python -m training.train training/recipes/{run.name}.yaml"
        card = make_card(recipe, name, partial, size, dataset.label_set, command)
        write_card(partial, card)
        share = agreement(graph, partial, dataset, frames=20)
        print(f"torch and ONNX Runtime agree on {share:.6%} of pixels", flush=True)
        if share < LEAST_AGREEMENT:
            raise RuntimeError(f"they must agree on {LEAST_AGREEMENT:.2%}; nothing was exported")
        card["accuracy"] = [measure_accuracy(partial, recipe.dataset, root, split)]
        write_card(partial, card)
        shutil.rmtree(models / name, ignore_errors=True)
        partial.rename(models / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return models / name


def parse_size(text: str) -> tuple[int, int]:
    """``HxW`` as height and width in pixels."""
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, like 360x480") from None


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.train wrote")
    parser.add_argument("--name", required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--root", default="", help="folder of the data set")
    parser.add_argument("--size", type=parse_size, required=True, help="HxW of the graph")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    folder = export_run(
        arguments.run,
        arguments.name,
        arguments.models,
        arguments.root,
        arguments.size,
        arguments.batch,
    )
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
