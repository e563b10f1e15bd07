"""Add forms of the graph to a model folder: what some TensorRT needs, or int8 for a CPU.

``python -m training.add_variants models/elu_squeezenet_camvid --variant float fp16``
``python -m training.add_variants MODEL --variant int8 --dataset camvid --root CAMVID``
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation_node.errors import exit_code
from segmentation_node.evaluation.datasets import DATASETS, Dataset, open_dataset
from segmentation_node.files import write_whole
from segmentation_node.importing.model_folder import ARTIFACTS, onnx_artifact, write_card
from segmentation_node.model_card import CARD_FILE, ModelCard, read_card
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.yaml_and_json import read_yaml
from training.card import measure_accuracy
from training.checkpoint import load_weights
from training.export import export_variant

OFFERED = ("float", "fp16", "int8")


def add_variants(
    folder: Path,
    variants: Sequence[str],
    dataset_name: str,
    dataset: Dataset,
    training: Dataset | None = None,
) -> None:
    """Export the card's weights in these variants; the card lists them beside what it has.

    Each is compared with torch on images of ``dataset`` first. Ranges of int8 come from images of
    ``training``, and the card gets its accuracy on ``dataset``. Raises CardError, or ExportError
    when they agree too little: then the folder stays as it was.
    """
    card = read_card(str(folder))
    graph = graph_of(card)
    for variant in variants:
        file, kind, _ = ARTIFACTS[variant]
        with tempfile.TemporaryDirectory() as scratch:
            made, size, labels = Path(scratch), card.input_size, card.label_set
            export_variant(graph, variant, size, 1, labels, dataset, made, training)
            write_whole(str(folder / file), (made / file).read_bytes())
        content = _content(folder)
        others = [item for item in content["artifacts"] if item["kind"] != kind]
        content["artifacts"] = others + [onnx_artifact(folder, variant)]
        write_card(folder, content)
        if variant == "int8":
            _add_accuracy(folder, measure_accuracy(folder, dataset_name, dataset, "int8"))


def _add_accuracy(folder: Path, entry: dict[str, Any]) -> None:
    """Put the entry on the card, in place of one of the same file and split."""
    content = _content(folder)
    others = [item for item in content["accuracy"] if _scored(item) != _scored(entry)]
    write_card(folder, {**content, "accuracy": [*others, entry]})


def _scored(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["dataset"], entry["split"], entry.get("artifact", "onnx")


def _content(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(str(folder / CARD_FILE))
    return content


def graph_of(card: ModelCard) -> DeployGraph:
    """The deployed graph of a card's weights, in evaluation mode on the CPU."""
    network = build_network(card.network.name, len(card.labels), card.network.options)
    load_weights(network, Path(card.artifact_path("weights")))
    return DeployGraph(
        Normalise(card.input.mean_rgb, card.input.std_rgb),
        network,
        "confidence" in card.outputs,
        trained_classes=card.weights.trained_classes,
    ).eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; a known error is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="training.add_variants", description=__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--variant", nargs="+", choices=OFFERED, required=True)
    parser.add_argument("--dataset", default="street", choices=sorted(DATASETS))
    parser.add_argument("--root", default="", help="folder of the data set")
    parser.add_argument("--split", default="val", help="compared and scored on")
    parser.add_argument("--training-split", default="train", help="where int8's ranges come from")
    options = parser.parse_args(arguments)

    def add() -> int:
        dataset = open_dataset(options.dataset, options.root, options.split)
        training = None
        if "int8" in options.variant:
            training = open_dataset(options.dataset, options.root, options.training_split)
        add_variants(options.model, options.variant, options.dataset, dataset, training)
        print(f"{options.model}: {', '.join(options.variant)} added")
        return 0

    return exit_code(add)


if __name__ == "__main__":
    sys.exit(main())
