"""Add forms of the graph to a model folder: for some TensorRT, int8 for a CPU, in other sizes.

``python -m training.add_variants models/elu_squeezenet_camvid --variant float fp16``
``python -m training.add_variants MODEL --variant int8 --dataset camvid --root CAMVID``
``python -m training.add_variants MODEL --variant uint8 --size 240x320 --dataset camvid ...``
``python -m training.add_variants MODEL --variant weights`` where a model ships without those: they
are taken from its ``model.onnx``. What is added stores its weights in full.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.datasets import DATASETS, Dataset, open_dataset
from segmentation_node.importing.model_folder import ARTIFACTS, Form, add_to_card, forms_of
from segmentation_node.importing.settings import image_size
from segmentation_node.model_card import WEIGHTS, ModelCard, Size, read_card
from training.arguments import MAX_BATCH, whole
from training.card import measure_accuracies, weights_artifact
from training.checkpoint import WEIGHTS_FILE, save_weights
from training.errors import ExportError
from training.export import export_form
from training.graphs import graph_of_card

MODEL_FILE = ARTIFACTS["uint8"][0]


def add_variants(
    folder: Path,
    variants: Sequence[str],
    dataset_name: str,
    dataset: Dataset,
    training: Dataset | None = None,
    sizes: Sequence[Size] = (),
    batch: int | None = None,
) -> None:
    """Export the card's weights in these variants; the card lists them beside what it has.

    Without ``sizes`` in the card's own, without ``batch`` in that of its model.onnx. ``WEIGHTS``
    among them is the file for PyTorch. Graphs are compared with torch on images of ``dataset``
    first. Ranges of int8 come from images of ``training``, and the card gets the accuracy of int8
    and of other sizes on ``dataset``. Raises CardError, or ExportError when they agree too little
    or a file is there for another batch: then the folder stays as it was.
    """
    card = read_card(str(folder))
    graphs = [variant for variant in variants if variant != WEIGHTS]
    forms = _forms(card, graphs, sizes, batch)
    graph = graph_of_card(card)
    if WEIGHTS in variants:
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch, WEIGHTS_FILE)
            save_weights(made, graph.network)
            _add(folder, made, weights_artifact(made))
    for form in forms:
        with tempfile.TemporaryDirectory() as scratch:
            export_form(graph, form, card.label_set, dataset, Path(scratch), training)
            _add(folder, Path(scratch, form.file), form.artifact(Path(scratch)))
        if form.variant == "int8" or form.is_other_size:
            found = measure_accuracies(folder, dataset_name, dataset, form.variant, form.size)
            for entry in found:
                add_to_card(str(folder), accuracy=entry)


def scored_split(card: ModelCard, dataset_name: str) -> str:
    """The split of a data set that the card's accuracy is on, so that figures compare; else val.

    Val may be what the model was trained on, where the card's is another.
    """
    splits = [item.split for item in card.accuracy if item.dataset == dataset_name]
    return splits[0] if splits else "val"


def _add(folder: Path, made: Path, artifact: dict[str, Any]) -> None:
    add_to_card(str(folder), {made.name: made.read_bytes()}, artifacts=artifact)


def _forms(
    card: ModelCard, variants: Sequence[str], sizes: Sequence[Size], batch: int | None
) -> list[Form]:
    """What is to be made. Raises ExportError where its file is the card's for another batch."""
    first = next((item.batch or 1 for item in card.artifacts if item.file == MODEL_FILE), 1)
    batch = batch or first
    forms = [
        form
        for form in forms_of(variants, [card.input_size, *sizes], [first, batch])
        if form.batch == batch and (not sizes or form.size in sizes)
    ]
    files = {form.file for form in forms}
    for item in card.artifacts:
        if item.file in files and (item.batch or 1) != batch:
            raise ExportError(
                f"{item.file} takes {item.batch or 1} images a run by the card, and would take "
                f"{batch}; give --batch {item.batch or 1}"
            )
    return forms


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.add_variants",
        description="""
Add forms of the graph to a model folder: for some versions of TensorRT, int8 for CPUs, in other
sizes, or the weights of a model that ships without them.""",
        examples="""
%(prog)s models/elu_squeezenet_camvid --variant float fp16
%(prog)s MODEL --variant int8 --dataset camvid --root CAMVID
%(prog)s MODEL --variant uint8 --size 240x320 --dataset camvid --root CAMVID
%(prog)s models/segnet_camvid --variant weights
""",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=[*ARTIFACTS, WEIGHTS],
        required=True,
        help="what to add: float for TensorRT before 8.5, fp16 for TensorRT 11, int8 for CPUs, "
        "uint8 the plain graph, weights for the torch backend",
    )
    parser.add_argument(
        "--size",
        type=image_size,
        action="append",
        default=[],
        metavar="HxW",
        help="height x width in pixels of the graph, may be given again, needs --dataset; default: "
        "the card's own",
    )
    parser.add_argument(
        "--batch",
        type=whole(1, MAX_BATCH),
        metavar="N",
        help="images in a run of the graph; default: as model.onnx",
    )
    parser.add_argument(
        "--dataset",
        choices=sorted(DATASETS),
        metavar="NAME",
        help="what is compared and scored on, one of %s; default: street, if it serves"
        % ", ".join(sorted(DATASETS)),
    )
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="where the data set lies; street needs none"
    )
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="of the data set: what is compared and scored on; default: the one of the card's "
        "accuracy, or val",
    )
    parser.add_argument(
        "--training-split",
        default="train",
        metavar="SPLIT",
        help="of the data set: where the ranges of int8 come from",
    )
    options = parser.parse_args(arguments)

    def add() -> int:
        if options.size and options.dataset is None:
            raise ExportError("--size: the card gets the accuracy of each; name the --dataset")
        name, card = options.dataset or "street", read_card(str(options.model))
        dataset = open_dataset(name, options.root, options.split or scored_split(card, name))
        training = None
        if "int8" in options.variant:
            if options.dataset is None and card.labels != dataset.label_set:
                raise ExportError(
                    f"--variant int8: its ranges come from images that {card.name} is for, not "
                    f"from the {name}'s; name the --dataset"
                )
            training = open_dataset(name, options.root, options.training_split)
        add_variants(
            options.model, options.variant, name, dataset, training, options.size, options.batch
        )
        print(f"{options.model}: {', '.join(options.variant)} added")
        return 0

    return exit_code(add)


if __name__ == "__main__":
    sys.exit(main())
