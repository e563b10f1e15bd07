"""The model card of exported files: what is in the folder, where it comes from, what it scores."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation_node.backends import BACKENDS, BackendOptions
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.offline import (
    evaluate_dataset,
    measure_confidence,
    share_of_equal,
)
from segmentation_node.importing.model_folder import Form, accuracy_entry, artifact
from segmentation_node.labels import LabelSet, describe, is_built_in
from segmentation_node.model_card import (
    CARD_FILE,
    WEIGHTS,
    ConfidenceInfo,
    ModelCard,
    Size,
    read_card,
)
from segmentation_node.pipeline import open_segmenter
from training.checkpoint import WEIGHTS_FILE, epochs_of
from training.errors import RecipeError
from training.recipe import RECIPE_FILE, Recipe
from training.summary import count_parameters, meta_network

PROJECT = Path(__file__).resolve().parents[1]
MEASURED = {
    "uint8": {"fp32": ["onnxruntime"], "bf16": ["openvino"]},
    "int8": {"int8": ["onnxruntime", "openvino"]},
}
"""Variants whose accuracy the card gives: in which precisions, and on which run times."""
OWN_DATA = (
    "pictures of one's own",
    "as whoever owns the pictures permits; to be stated here before the weights are passed on",
)
DATA = {
    "camvid": (
        "CamVid in SegNet's layout, images of 480x360",
        "research use only, as CamVid's own terms (University of Cambridge) ask",
    ),
    "cityscapes": (
        "Cityscapes, fine annotations",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "cityscapes_coarse": (
        "Cityscapes, coarse annotations",
        "not to be shipped: Cityscapes' terms ask everybody to register for the images",
    ),
    "folder": OWN_DATA,
    "kitti_object": ("KITTI object detection", "CC BY-NC-SA 3.0, as KITTI's own terms ask"),
    "kitti_semantics": (
        "KITTI semantic segmentation",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "kitti_step": (
        "KITTI-STEP",
        "CC BY-NC-SA 3.0, as KITTI's own terms ask",
    ),
    "street": (
        "the procedural street drive of this package, no recorded image",
        "Apache-2.0",
    ),
    "voc": OWN_DATA,
}
"""Training data and the licence that it puts on the weights, by data set."""
UNKNOWN_DATA = ("unknown", "unknown")
RESIZE = "stretch"
"""How an image becomes the network's input, for all that is exported."""


def make_card(
    recipe: Recipe,
    name: str,
    folder: Path,
    forms: Sequence[Form],
    labels: LabelSet,
    command: str,
) -> dict[str, Any]:
    """The card of the artifacts in ``folder``, without accuracy; the first has the card's size.

    The weights are among them where they are there.
    """
    (height, width), (data, _) = forms[0].size, DATA[recipe.dataset]
    return {
        "name": name,
        "network": {
            "name": recipe.network,
            "options": recipe.network_options,
            "parameters": count_parameters(
                meta_network(recipe.network, len(labels), recipe.network_options)
            ),
        },
        "label_set": labels.name if is_built_in(labels) else describe(labels),
        "input": {
            "height": height,
            "width": width,
            "resize": RESIZE,
            "mean_rgb": list(recipe.mean_rgb),
            "std_rgb": list(recipe.std_rgb),
        },
        "outputs": ["class_map", "confidence"],
        "weights": {
            "data": f"{data}, split {recipe.train_split}; {started_from(recipe)}",
            "licence": licence_of(recipe),
            "provenance": command,
        },
        "accuracy": [],
        "artifacts": [
            *(form.artifact(folder) for form in forms),
            *(weights_artifact(path) for path in folder.glob(WEIGHTS_FILE)),
        ],
    }


def weights_artifact(path: Path) -> dict[str, Any]:
    """The card's entry for a file of weights."""
    return artifact(path, WEIGHTS, "safetensors, float32")


def train_command(run: Path, recipe: Recipe) -> str:
    """What trained a run: its recipe by its name where it ships under that, else the run's own.

    Where the weights are not those of the last epoch also of which, of which it warns.
    """
    shipped = Path("training", "recipes", f"{run.name}.yaml")
    here = PROJECT / shipped
    is_shipped = here.is_file() and Recipe.read(here) == recipe
    command = f"python -m training.train {shipped if is_shipped else run / RECIPE_FILE}"
    done = epochs_of(run / WEIGHTS_FILE)
    if done is None or done == recipe.epochs:
        return command
    unfinished = f"unfinished: {done} of {recipe.epochs} epochs"
    print(f"warning: {run} is {unfinished}", file=sys.stderr)
    return f"{command}, {unfinished}"


def started_from(recipe: Recipe) -> str:
    """What the weights were before this training, for the card: its data count as well.

    Back to the first, as far as there is a recipe or a card beside each. Raises CardError where a
    card cannot be read.
    """
    sources: list[str] = []
    source = recipe.trunk or recipe.start_weights
    while source and source not in sources:
        sources.append(source)
        folder = Path(source).parent
        if recipe.trunk:
            sources[-1] = f"the pre-trained trunk {source}"
            break
        if (folder / CARD_FILE).is_file():
            sources[-1] += f" ({read_card(str(folder)).weights.data})"
            break
        try:
            recipe = Recipe.read(folder / RECIPE_FILE)
        except RecipeError:  # none, or of a version that had other keys
            break
        source = recipe.trunk or recipe.start_weights
    return f"started from {', which started from '.join(sources)}" if sources else "no pre-training"


def licence_of(recipe: Recipe) -> str:
    """The licence that the data put on the weights, and those of ``inherited_licences``."""
    _, licence = DATA[recipe.dataset]
    inherited = [item for item in inherited_licences(recipe) if item != licence]
    if inherited:
        licence += f"; of what it started or learned from: {'; '.join(inherited)}"
    return licence


def inherited_licences(recipe: Recipe) -> list[str]:
    """Licences on the weights that training started from and on its teachers, each once.

    A card beside the weights says it, or the recipe of their run by its data and, in turn, by what
    it started and learned from. Raises CardError where a card cannot be read.
    """
    found: dict[str, None] = {}
    seen: set[Path] = set()
    waiting = _sources(recipe)
    while waiting:
        file = waiting.pop(0)
        if file.resolve() in seen:
            continue
        seen.add(file.resolve())
        folder = file.parent
        if (folder / CARD_FILE).is_file():
            found[read_card(str(folder)).weights.licence] = None
        elif (folder / RECIPE_FILE).is_file():
            try:
                earlier = Recipe.read(folder / RECIPE_FILE)
            except RecipeError:  # of a version that had other keys
                found[f"unknown for {folder}, whose {RECIPE_FILE} is of another version"] = None
                continue
            found[DATA.get(earlier.dataset, UNKNOWN_DATA)[1]] = None
            waiting += _sources(earlier)
        else:
            told = f"unknown for {file}, beside which is neither {CARD_FILE} nor {RECIPE_FILE}"
            found[told] = None
    return list(found)


def _sources(recipe: Recipe) -> list[Path]:
    """The weights that training started from, and those of its teachers."""
    start = [Path(item) for item in (recipe.start_weights, recipe.trunk) if item]
    teachers = recipe.distillation.teachers if recipe.distillation else ()
    return [*start, *(Path(run) / WEIGHTS_FILE for run in teachers)]


def measure_confidence_on(folder: Path, dataset: Dataset) -> ConfidenceInfo:
    """The card's confidence entry, of the shipped file on ONNX Runtime."""
    with open_segmenter(read_card(str(folder)), "onnxruntime") as segmenter:
        return measure_confidence(segmenter, dataset)


def measure_accuracies(
    folder: Path, dataset_name: str, dataset: Dataset, variant: str, size: Size | None = None
) -> list[dict[str, Any]]:
    """The card's accuracy entries for a variant's file: in each of its precisions what it scores
    through the pipeline, of the run times of this machine on the one that loses most.
    """
    card = read_card(str(folder))
    card = card.at_size(size or card.input_size)
    entries = []
    for precision, backends in MEASURED.get(variant, {}).items():
        options = BackendOptions(precision=precision)
        missing = {
            name: BACKENDS[name].unavailable() or BACKENDS[name].unready(card, options)
            for name in backends
        }
        print("".join(f"{precision}: {why}\n" for why in missing.values() if why), end="")
        scored = [
            _accuracy_on(name, card, options, dataset_name, dataset)
            for name, why in missing.items()
            if not why
        ]
        entries += sorted(scored, key=lambda entry: float(entry["mean_iou"]))[:1]
    return entries


def _accuracy_on(
    backend: str, card: ModelCard, options: BackendOptions, dataset_name: str, dataset: Dataset
) -> dict[str, Any]:
    with open_segmenter(card, backend, options) as segmenter:
        result = evaluate_dataset(segmenter, dataset).accuracy
        agreement = None
        if options.precision != "fp32":
            with open_segmenter(card, backend) as reference:
                agreement = share_of_equal(segmenter, reference, dataset)
        name = dataset.name_on_card(dataset_name)
        return accuracy_entry(segmenter, name, dataset.split, result, agreement)
