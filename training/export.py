"""Export a run: ``python -m training.export RUN --name NAME`` makes ``models/NAME``.

Leaves weights.safetensors, model.onnx and model.yaml, after torch and ONNX Runtime agreed on real
images of the data set. ``--variant float fp16 int8`` adds those forms of the same graph, and more
than one ``--size`` or ``--batch`` the graph in each of them; the first size is the card's own.
``--weights int8`` stores the weights inside the graph in a quarter of the space, for a network that
would otherwise be too large to ship; ``training.add_variants`` makes the plain forms of it.
"""

import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.commands.options import temperature as temperature_of
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.temperature import FIT, put_temperature
from segmentation_node.files import Layout, new_folder, plain_name
from segmentation_node.importing.model_folder import (
    ARTIFACTS,
    FILES,
    Form,
    confidence_entry,
    forms_of,
    put_on_card,
    write_card,
)
from segmentation_node.importing.quantise import CALIBRATION_IMAGES, quantise_convolutions
from segmentation_node.importing.settings import image_size
from segmentation_node.model_card import CARD_FILE, Size, read_card
from segmentation_node.networks.deploy import DeployGraph
from training.arguments import MAX_BATCH, add_skip_broken, whole
from training.card import (
    RESIZE,
    make_card,
    measure_accuracies,
    measure_confidence_on,
    train_command,
)
from training.checkpoint import WEIGHTS_FILE, save_weights
from training.data import open_data
from training.errors import ExportError
from training.graphs import graph_of_run
from training.int8_weights import load_from_graph, round_weights, store_as_int8
from training.network_images import network_images
from training.onnx_graph import export_onnx, graph_variant
from training.recipe import RECIPE_FILE, Recipe

LAYOUT = Layout(
    "an exported model",
    (CARD_FILE, WEIGHTS_FILE, *FILES),
    CARD_FILE,
    "label_set:",
)
LEAST_AGREEMENT = 0.9999
LEAST_AGREEMENT_FP16 = 0.995
"""Half precision decides otherwise where two classes are as good as equal."""
LEAST_AGREEMENT_INT8 = 0.99
"""Of a trained model: values of 8 bits decide otherwise along the borders of objects."""
PARITY_FRAMES = 20
WEIGHTS = ("float32", "int8")
"""As what graphs may store them."""
INT8_IN_FLOAT = 2
"""So many of the first convolutions stay in float at int8: what the stem gives has a range that is
wide beside most of its values, and the second reads it with few multiply-adds."""
STORE_INT8 = ("uint8", "float")
"""Variants that compute in float32, to which weights of int8 can be decoded."""
ARRAY_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
"""Of a graph's input, by ONNX Runtime's name."""


def trained_classes(dataset: Dataset) -> list[int]:
    """The train ids that the data set holds; empty where that is its whole label set."""
    occurring = list(dataset.occurring_classes)
    return occurring if len(occurring) < len(dataset.label_set) else []


def export_run(
    run: Path,
    name: str,
    models: Path,
    root: str,
    sizes: Sequence[Size],
    batches: Sequence[int],
    variants: Sequence[str] = (),
    skip_broken: bool = False,
    temperature: str | float = 1.0,
    int8_weights: bool = False,
    provenance: str = "",
) -> Path:
    """Make ``models/name`` from a run's folder. Raises ExportError when parity fails, or there is
    no validation split to fit on, OutputError where something else than an exported model is in
    the folder's place.

    The uint8 variant is always made: the card's accuracy is measured on it, at each size.
    ``temperature`` is that of the confidence, or ``FIT``, on the recipe's validation split. With
    ``int8_weights`` the network's weights are rounded first, and graphs in float32 store them so;
    a file of weights is not made. ``provenance`` is what the card says of how the run was trained,
    ``train_command`` where it is empty. The folder appears, or is replaced, only once everything
    in it was checked.
    """
    recipe = Recipe.read(run / RECIPE_FILE)
    _check_temperature(temperature, run, recipe)
    dataset = open_data(recipe.dataset, root, recipe.val_split or recipe.train_split, skip_broken)
    labels, trained = dataset.label_set, trained_classes(dataset)
    wanted = [variant for variant in ARTIFACTS if variant in {"uint8", *variants}]
    training = None
    if "int8" in wanted:
        training = open_data(recipe.dataset, root, recipe.train_split, skip_broken)
    forms = [
        replace(form, int8_weights=int8_weights and form.variant in STORE_INT8)
        for form in forms_of(wanted, sizes, batches)
    ]
    folder = models / plain_name(name)
    with new_folder(str(folder), LAYOUT, sources=[str(run), root]) as new:
        partial = Path(new)
        partial.mkdir()
        graph = graph_of_run(run, labels, trained)
        if int8_weights:
            round_weights(graph.network)
        else:
            save_weights(partial / WEIGHTS_FILE, graph.network)
        for form in forms:
            export_form(graph, form, labels.name, dataset, partial, training)
        command = provenance or train_command(run, recipe)
        card = make_card(recipe, name, partial, forms, labels, command)
        card["weights"]["trained_classes"] = trained
        write_card(partial, card)
        if temperature != 1.0:
            print(put_temperature(str(partial), temperature, dataset), flush=True)
        _put_figures(partial, recipe.dataset, dataset, wanted, sizes)
    return folder


def _check_temperature(temperature: str | float, run: Path, recipe: Recipe) -> None:
    if temperature == FIT and not recipe.val_split:
        raise ExportError(
            f"--temperature {FIT}: the recipe in {run} has no val_split, and {recipe.train_split} "
            "was trained on; give --temperature T, the number that was fitted for a run like it"
        )


def _put_figures(
    folder: Path, name: str, dataset: Dataset, variants: Sequence[str], sizes: Sequence[Size]
) -> None:
    """Measure on the data set what the card says of accuracy and confidence, and put it there."""
    accuracy = [
        entry
        for size in dict.fromkeys(sizes)
        for variant in variants
        for entry in measure_accuracies(folder, name, dataset, variant, size)
    ]
    measured = measure_confidence_on(folder, dataset)
    entry = confidence_entry(measured, read_card(str(folder)).temperature)
    put_on_card(str(folder), accuracy=accuracy, confidence=entry)


def export_form(
    graph: DeployGraph,
    form: Form,
    label_set: str,
    dataset: Dataset,
    folder: Path,
    training: Dataset | None = None,
) -> float:
    """Write one file of the graph; its agreement with torch on ``dataset``.

    Ranges of int8 come from images of ``training``. Raises ExportError when they agree too little.
    """
    path, variant = folder / form.file, form.variant
    if variant == "int8":
        assert training is not None, "int8 needs images to find its ranges on"
        export_int8(graph, form.size, form.batch, label_set, training, path)
    else:
        _export_float(graph, form, label_set, path)
    share = agreement(graph, path, dataset, PARITY_FRAMES)
    limits = {"fp16": LEAST_AGREEMENT_FP16, "int8": LEAST_AGREEMENT_INT8}
    least = limits.get(variant, LEAST_AGREEMENT)
    print(f"{path.name}: torch and ONNX Runtime agree on {share:.6%} of pixels", flush=True)
    if share < least:
        raise ExportError(f"{path.name}: they must agree on {least:.2%}; nothing was exported")
    return share


def _export_float(graph: DeployGraph, form: Form, label_set: str, path: Path) -> None:
    variant_graph = graph_variant(graph, form.variant)
    if form.is_other_size:  # a box head is for the card's own
        variant_graph.box_head = None
    export_onnx(variant_graph, form.size, form.batch, label_set, path)
    if form.int8_weights:
        store_as_int8(path)
        load_from_graph(copy.deepcopy(graph.network), path)  # as add_variants will


def agreement(graph: DeployGraph, onnx_path: Path, dataset: Dataset, frames: int) -> float:
    """Share of pixels to which torch and ONNX Runtime give the same class, on so many frames.

    ``graph`` is the ``uint8`` variant in float32, whatever variant the file is.
    """
    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    equal = total = 0
    for image_nhwc in network_images(dataset, entry.shape, RESIZE, frames):
        with torch.inference_mode():
            expected = graph(torch.from_numpy(image_nhwc))[0].numpy()
        feed = {"image": image_nhwc.astype(ARRAY_DTYPES[entry.type])}
        equal += int((session.run(["class_map"], feed)[0] == expected).sum())
        total += expected.size
    return equal / total


def export_int8(
    graph: DeployGraph,
    size: tuple[int, int],
    batch: int,
    label_set: str,
    training: Dataset,
    path: Path,
) -> None:
    """Write the int8 form of the ``uint8`` variant, its ranges from images of ``training``."""
    images = list(network_images(training, (batch, *size, 3), RESIZE, CALIBRATION_IMAGES))
    with tempfile.TemporaryDirectory() as folder:
        plain_path = Path(folder) / "model.onnx"
        plain = graph_variant(graph, "uint8")
        plain.box_head = None  # its features would be of int8
        export_onnx(plain, size, batch, label_set, plain_path)
        print(f"{path.name}: ranges from {len(images)} images ...", flush=True)
        quantise_convolutions(plain_path, images, path, INT8_IN_FLOAT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; a known error is one line and exit code 1."""
    parsed = _parser().parse_args(arguments)

    def export() -> int:
        folder = export_run(
            parsed.run,
            parsed.name,
            parsed.models,
            parsed.root,
            parsed.size,
            parsed.batch or [1],
            parsed.variant,
            parsed.skip_broken,
            parsed.temperature,
            parsed.weights == "int8",
        )
        print(f"wrote {folder}")
        return 0

    return exit_code(export)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python3 -m training.export",
        description="""
Export a run as a model folder, MODELS/NAME, once torch and ONNX Runtime agree on real pictures of
the data set.""",
        examples="""
%(prog)s runs/mine --name mine --size 360x640
%(prog)s runs/mine --name mine --root CAMVID --size 360x480 --variant int8 --temperature fit
""",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that training.train wrote")
    parser.add_argument("--name", required=True, help="of the model, and of its folder")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder that the model's is made in"
    )
    parser.add_argument(
        "--root",
        default="",
        metavar="FOLDER",
        help="where the recipe's data set lies; street needs none",
    )
    parser.add_argument(
        "--size",
        type=image_size,
        action="append",
        required=True,
        metavar="HxW",
        help="height x width in pixels that the graph computes at; given again, the folder has the "
        "graph in each, and the first is the card's own",
    )
    parser.add_argument(
        "--batch",
        type=whole(1, MAX_BATCH),
        action="append",
        default=[],
        metavar="N",
        help="images in a run of the graph, may be given again; default: 1",
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=list(ARTIFACTS),
        default=["uint8"],
        help="forms of the graph: float for TensorRT before 8.5, fp16 for TensorRT 11, int8 for "
        "CPUs; default: uint8, which is always made",
    )
    parser.add_argument(
        "--temperature",
        type=temperature_of,
        default=1.0,
        metavar="T",
        help="divides the scores before the softmax: a number, or "
        f"{FIT}: the one under which the labels of the recipe's val_split are likeliest",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=WEIGHTS[0],
        help="how the graph stores its weights; int8: rounded, a quarter of the space, computed "
        "with in float32; then there is no weights.safetensors",
    )
    add_skip_broken(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
