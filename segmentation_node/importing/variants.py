"""The forms of an imported graph beside the usual one; one that agrees too little is left out."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segmentation_node.errors import NetworkImportError, reason
from segmentation_node.importing import original
from segmentation_node.importing.agreement import agreement_of, maps_of_folder
from segmentation_node.importing.contract import in_contract
from segmentation_node.importing.half_precision import halved
from segmentation_node.importing.model_folder import Form, write_card
from segmentation_node.importing.pictures_to_check import Pictures
from segmentation_node.importing.plan import Plan
from segmentation_node.importing.planning import Say
from segmentation_node.importing.quantise import (
    CALIBRATION_IMAGES,
    convolutions_between,
    quantise_convolutions,
)
from segmentation_node.importing.static_graph import NOT_VALID, opset_of
from segmentation_node.importing.tensorrt_versions import refusals

COMPARED_VARIANTS = 4
LEAST_OF_VARIANT = {"float": 0.9999, "fp16": 0.995, "int8": 0.99}
"""Share of the pixels to which a variant must give the class of the uint8 one."""
LEAST_OF_CLASS = 0.5
"""IoU of each class with that of the uint8 one: below, the variant has as good as lost it."""


def write_form(folder: Path, model: onnx.ModelProto, form: Form, card: dict[str, Any]) -> None:
    """Write a form of the graph, and name it on the card."""
    onnx.save(model, str(folder / form.file))
    card["artifacts"].append(form.artifact(folder, opset_of(model)))
    write_card(folder, card)


def add_variants(
    folder: Path,
    static: onnx.ModelProto,
    plan: Plan,
    pictures: Pictures,
    usual: Form,
    card: dict[str, Any],
    say: Say,
) -> None:
    """The other variants of the ``usual`` form; one that cannot be made, or agrees too little, is
    left out.
    """
    compared = pictures.at_size(plan.size, plan.resize, COMPARED_VARIANTS)
    expected = maps_of_folder(folder, "onnxruntime", compared)
    with tempfile.TemporaryDirectory() as scratch:
        for variant, least in LEAST_OF_VARIANT.items():
            form = replace(usual, variant=variant)
            path = Path(scratch) / form.file
            try:
                _make_variant(variant, static, plan, pictures, folder / usual.file, path)
                found = _maps_of_file(path, variant, compared)
                agreement = agreement_of(found, expected, plan.labels)
                lack = agreement.lacks(least, LEAST_OF_CLASS)
                if lack:
                    raise NetworkImportError(f"it and {usual.file} {lack}")
            except (NetworkImportError, *NOT_VALID) as error:
                say("left out", f"{path.name}: {reason(error)}")
                continue
            write_form(folder, onnx.load(str(path)), form, card)
            say("variant", f"{path.name}: agrees with {usual.file} on {agreement}")


def _make_variant(
    variant: str,
    static: onnx.ModelProto,
    plan: Plan,
    pictures: Pictures,
    usual: Path,
    path: Path,
) -> None:
    if variant == "float":
        onnx.save(in_contract(static, plan, variant), str(path))
    elif variant == "fp16":
        onnx.save(in_contract(halved(static), plan, variant), str(path))
    elif not pictures.are_real:
        raise NetworkImportError("its ranges come from real pictures; give --images FOLDER")
    else:
        if not convolutions_between(onnx.load(str(usual))):
            raise NetworkImportError("it has fewer than three convolutions")
        images = pictures.at_size(plan.size, plan.resize, CALIBRATION_IMAGES)
        quantise_convolutions(usual, [image[np.newaxis] for image in images], path)


def _maps_of_file(path: Path, variant: str, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    run = original.on_onnxruntime(path, "image")
    dtype = np.float32 if variant == "float" else np.uint8
    return [
        run(item[np.newaxis].astype(dtype))["class_map"][0].astype(np.uint8) for item in pictures
    ]


def say_tensorrt(folder: Path, usual: Form, say: Say) -> None:
    """Which TensorRT has all operators of the graph that it would be given, and why others not."""
    files = {item: folder / replace(usual, variant=item).file for item in ("uint8", "float")}
    found = refusals(
        {variant: onnx.load(str(path)) for variant, path in files.items() if path.is_file()}
    )
    takes = [version for version, why in found.items() if not why]
    say("TensorRT", f"{', '.join(takes) or 'none'} list all of its operators (not run)")
    for version, why in found.items():
        if why:
            say("TensorRT", f"not {version}: {why}")
