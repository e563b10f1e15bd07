"""A foreign file -> a model folder, step by step; every step says what it found, and why."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segmentation_node.files import Layout, new_folder, plain_name
from segmentation_node.importing import original
from segmentation_node.importing.agreement import compare
from segmentation_node.importing.contract import in_contract
from segmentation_node.importing.foreign import Foreign, read_network
from segmentation_node.importing.model_folder import FILES, Form
from segmentation_node.importing.pictures_to_check import (
    COMPARED_PICTURES,
    Pictures,
    read_pictures,
)
from segmentation_node.importing.plan import Plan
from segmentation_node.importing.planning import Say, entry_and_size, make_plan, settle_from
from segmentation_node.importing.settings import Settings, Settled
from segmentation_node.importing.static_graph import count_parameters, make_static
from segmentation_node.importing.variants import add_variants, say_tensorrt, write_form
from segmentation_node.labels import LABEL_SETS, UNLABELLED, describe
from segmentation_node.model_card import CARD_FILE, Size, size_text

LAYOUT = Layout(
    "an imported model",
    (CARD_FILE, *FILES),
    CARD_FILE,
    "source:",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; ``given`` is what they say of the network.

    ``other_sizes`` are those in which the graph is to be there too.
    """

    network: Path
    output: Path
    family: str = ""
    given: Settings
    other_sizes: Sequence[Size] = ()
    images: Path | None = None
    dry_run: bool = False
    command: str = ""


def import_network(request: Request, say: Say) -> None:
    """Make the model folder. Raises NetworkImportError, LabelsError, ContentError or OutputError.

    Where it raises, and on a dry run, nothing is written.
    """
    name = plain_name(request.output.resolve().name)
    foreign = read_network(request.network)
    family, settled = settle_from(request.family, request.given, foreign, say)
    entry, size = entry_and_size(foreign, settled, say)
    pictures = read_pictures(request.images)
    say("pictures", pictures.what)
    run = original.on_onnxruntime(foreign.path, entry.name)
    plan = make_plan(foreign, settled, entry, size, run, pictures, say)
    static = make_static(foreign.model, entry.name, entry.shape(size), plan.head)
    with _place_for(request) as folder:
        card = _card(name, foreign, family, plan, static, pictures, request.command, settled)
        usual = Form("uint8", size)
        write_form(folder, in_contract(static, plan), usual, card)
        _check(foreign, folder, plan, run, pictures, say)
        add_variants(folder, static, plan, pictures, usual, card, say)
        say_tensorrt(folder, usual, say)
        for other in dict.fromkeys(request.other_sizes):
            _add_size(foreign, settled, other, run, pictures, folder, card, say)
    say("written" if not request.dry_run else "dry run", _ending(request, folder, card))


def _add_size(
    foreign: Foreign,
    settled: Settled,
    size: Size,
    run: original.Run,
    pictures: Pictures,
    folder: Path,
    card: dict[str, Any],
    say: Say,
) -> None:
    """The same in another size, compared with the original at that size."""
    say("size", size_text(size))
    settled = replace(settled, settings=replace(settled.settings, size=size))
    entry, _ = entry_and_size(foreign, settled, _say_nothing)
    plan = make_plan(foreign, settled, entry, size, run, pictures, _say_nothing)
    static = make_static(foreign.model, entry.name, entry.shape(size), plan.head)
    form = Form("uint8", size, is_other_size=True)
    write_form(folder, in_contract(static, plan), form, card)
    _check(foreign, folder, plan, run, pictures, say)
    add_variants(folder, static, plan, pictures, form, card, say)


def _say_nothing(what: str, text: str) -> None:
    """What was said of the first size holds for the others."""


@contextmanager
def _place_for(request: Request) -> Iterator[Path]:
    """Where the folder is made: it appears under its name when all is well."""
    if request.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    sources = [str(request.network), str(request.images or "")]
    with new_folder(str(request.output), LAYOUT, sources=sources) as new:
        folder = Path(new)
        folder.mkdir()
        yield folder


def _card(
    name: str,
    foreign: Foreign,
    family: str,
    plan: Plan,
    static: onnx.ModelProto,
    pictures: Pictures,
    command: str,
    settled: Settled,
) -> dict[str, Any]:
    """The card, without artifacts."""
    labels, licence = plan.labels, settled.settings.licence or "unknown: look where it comes from"
    return {
        "name": name,
        "network": {
            "name": "imported",
            "options": {
                "output": plan.head,
                "values": plan.kind,
                "order": plan.order,
                "layout": plan.entry.layout,
                **({} if np.isnan(plan.threshold) else {"threshold": plan.threshold}),
                "id_offset": plan.id_offset,
                "compared_on": pictures.what,
            },
            "parameters": count_parameters(static),
        },
        "label_set": labels.name if labels.name in LABEL_SETS else describe(labels),
        "input": {
            "height": plan.size[0],
            "width": plan.size[1],
            "resize": plan.resize,
            "mean_rgb": [float(value / plan.scale) for value in plan.mean],
            "std_rgb": [float(value / plan.scale) for value in plan.std],
        },
        "outputs": ["class_map", "confidence"] if plan.has_confidence else ["class_map"],
        "weights": {
            "data": f"unknown: imported from {foreign.path.name}",
            "licence": licence,
            "provenance": command,
        },
        "accuracy": [],
        "artifacts": [],
        "source": {
            "file": foreign.path.name,
            "sha256": foreign.sha256,
            "family": family or "unknown",
            "licence": licence,
        },
    }


def _check(
    foreign: Foreign,
    folder: Path,
    plan: Plan,
    run: original.Run,
    pictures: Pictures,
    say: Say,
) -> None:
    compared = pictures.at_size(plan.size, plan.resize, COMPARED_PICTURES)
    maps = compare(foreign.path, folder, plan, run, compared, say)
    if not pictures.are_real:
        say("note", "compared on drawn pictures; give --images FOLDER with 10 or more of your own")
    seen = np.unique(np.concatenate([np.unique(item) for item in maps]))
    names = ["unlabelled" if i == UNLABELLED else plan.labels.names[i] for i in seen]
    say("classes seen", ", ".join(names))
    if len(seen) == 1:
        say("note", "one class alone was seen: that the pixels agree says little")


def _ending(request: Request, folder: Path, card: dict[str, Any]) -> str:
    files = ", ".join(item["file"] for item in card["artifacts"])
    if request.dry_run:
        return f"nothing was written; it would be {request.output} with {files}"
    return f"{request.output}: {CARD_FILE}, {files}"
