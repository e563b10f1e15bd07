"""Export a run: ``python -m training.export RUN --name NAME`` makes ``models/NAME``.

Leaves weights.safetensors, model.onnx and model.yaml, after torch and ONNX Runtime agreed on real
images of the data set. ``--variant float fp16 int8`` adds those forms of the same graph.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.dataset import evaluate_dataset
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.labels import LabelSet
from segmentation_node.model_card import CARD_FILE, parse_card, read_card, sha256_of
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.pipeline import Segmenter
from training.onnx_graph import OPSET, export_onnx, graph_variant
from training.parity import agreement
from training.quantise import CALIBRATION_IMAGES, calibration_images, quantise_convolutions
from training.recipe import Recipe

LEAST_AGREEMENT = 0.9999
LEAST_AGREEMENT_FP16 = 0.995
"""Half precision decides otherwise where two classes are as good as equal."""
LEAST_AGREEMENT_INT8 = 0.99
"""Of a trained model: values of 8 bits decide otherwise along the borders of objects."""
PARITY_FRAMES = 20
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


def deploy_graph(
    recipe: Recipe, labels: LabelSet, weights: Path, trained_classes: Sequence[int] = ()
) -> DeployGraph:
    """The deployed graph of a run's weights, in evaluation mode on the CPU."""
    network = build_network(recipe.network, len(labels), recipe.network_options)
    network.load_state_dict(load_file(weights))
    normalise = Normalise(recipe.mean_rgb, recipe.std_rgb)
    return DeployGraph(normalise, network, True, trained_classes=trained_classes).eval()


def trained_classes(dataset: Dataset) -> list[int]:
    """The train ids that the data set holds; empty where that is its whole label set."""
    occurring = list(dataset.occurring_classes)
    return occurring if len(occurring) < len(dataset.label_set) else []


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Validate the card and put it beside its artifacts."""
    parse_card(yaml.safe_load(yaml.safe_dump(card)), str(folder))
    partial = folder / (CARD_FILE + ".partial")
    partial.write_text(yaml.safe_dump(card, sort_keys=False, width=96))
    partial.rename(folder / CARD_FILE)


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
    return f"started from {Path(source)}" if source else "no pre-training"


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


def export_run(
    run: Path,
    name: str,
    models: Path,
    root: str,
    size: tuple[int, int],
    batch: int,
    variants: Sequence[str] = (),
) -> Path:
    """Make ``models/name`` from a run's folder. Raises RuntimeError when parity fails.

    The uint8 variant is always made: the card's accuracy is measured on it. The folder appears,
    or is replaced, only once everything in it was checked.
    """
    recipe = Recipe.read(run / "recipe.yaml")
    split = recipe.val_split or recipe.train_split
    dataset = open_dataset(recipe.dataset, root, split)
    labels = dataset.label_set
    partial = models / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        trained = trained_classes(dataset)
        graph = deploy_graph(recipe, labels, run / "weights.safetensors", trained)
        save_file(graph.network.state_dict(), partial / "weights.safetensors")
        wanted = [variant for variant in ARTIFACTS if variant in {"uint8", *variants}]
        training = None
        if "int8" in wanted:
            training = open_dataset(recipe.dataset, root, recipe.train_split)
        for variant in wanted:
            export_variant(graph, variant, size, batch, labels.name, dataset, partial, training)
        command = f"python -m training.train training/recipes/{run.name}.yaml"
        card = make_card(recipe, name, partial, size, labels, command, wanted)
        card["weights"]["trained_classes"] = trained
        write_card(partial, card)
        card["accuracy"] = [
            measure_accuracy(partial, recipe.dataset, dataset, precision)
            for precision, variant in MEASURED.items()
            if variant in wanted
        ]
        write_card(partial, card)
        shutil.rmtree(models / name, ignore_errors=True)
        partial.rename(models / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return models / name


def export_variant(
    graph: DeployGraph,
    variant: str,
    size: tuple[int, int],
    batch: int,
    label_set: str,
    dataset: Dataset,
    folder: Path,
    training: Dataset | None = None,
) -> float:
    """Write one variant's file; its agreement with torch on ``dataset``.

    Ranges of int8 come from images of ``training``. Raises RuntimeError when they agree too little.
    """
    path = folder / ARTIFACTS[variant][0]
    if variant == "int8":
        assert training is not None, "int8 needs images to find its ranges on"
        export_int8(graph, size, batch, label_set, training, path)
    else:
        export_onnx(graph_variant(graph, variant), size, batch, label_set, path)
    share = agreement(graph, path, dataset, PARITY_FRAMES)
    limits = {"fp16": LEAST_AGREEMENT_FP16, "int8": LEAST_AGREEMENT_INT8}
    least = limits.get(variant, LEAST_AGREEMENT)
    print(f"{path.name}: torch and ONNX Runtime agree on {share:.6%} of pixels", flush=True)
    if share < least:
        raise RuntimeError(f"{path.name}: they must agree on {least:.2%}; nothing was exported")
    return share


def export_int8(
    graph: DeployGraph,
    size: tuple[int, int],
    batch: int,
    label_set: str,
    training: Dataset,
    path: Path,
) -> None:
    """Write the int8 form of the ``uint8`` variant, its ranges from images of ``training``."""
    images = calibration_images(training, (batch, *size, 3), "stretch", CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        in_float = Path(folder) / "model.onnx"
        export_onnx(graph_variant(graph, "uint8"), size, batch, label_set, in_float)
        print(f"{path.name}: ranges from {len(images)} images ...", flush=True)
        quantise_convolutions(in_float, images, path)


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
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=list(ARTIFACTS),
        default=["uint8"],
        help="forms of the graph; uint8 is always made",
    )
    arguments = parser.parse_args()
    folder = export_run(
        arguments.run,
        arguments.name,
        arguments.models,
        arguments.root,
        arguments.size,
        arguments.batch,
        arguments.variant,
    )
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
