"""A foreign file -> a model folder, step by step; every step says what it found, and why."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segmentation_node.errors import NetworkImportError, reason
from segmentation_node.files import Layout, new_folder, plain_name
from segmentation_node.importing import original
from segmentation_node.importing.agreement import (
    LEAST_AGREEMENT,
    compare,
    maps_of_folder,
    openvino_missing,
    share_of_equal,
)
from segmentation_node.importing.contract import in_contract
from segmentation_node.importing.families import recognise, told_by
from segmentation_node.importing.foreign import Foreign, read_entry, read_network
from segmentation_node.importing.half_precision import halved
from segmentation_node.importing.head import IDS, arrange, kind_of
from segmentation_node.importing.model_folder import ARTIFACTS, onnx_artifact, write_card
from segmentation_node.importing.pictures_to_check import (
    COMPARED_PICTURES,
    Pictures,
    read_pictures,
)
from segmentation_node.importing.plan import Entry, Plan
from segmentation_node.importing.quantise import (
    CALIBRATION_IMAGES,
    convolutions_between,
    quantise_convolutions,
)
from segmentation_node.importing.settings import Settings, Settled, Told, settle
from segmentation_node.importing.side_files import Surroundings
from segmentation_node.importing.static_graph import count_parameters, make_static, opset_of
from segmentation_node.importing.tensorrt_versions import refusals
from segmentation_node.labels import LABEL_SETS, MOST_CLASSES, UNLABELLED, describe
from segmentation_node.model_card import CARD_FILE

LAYOUT = Layout(
    "an imported model",
    (CARD_FILE, *[file for file, _, _ in ARTIFACTS.values()]),
    CARD_FILE,
    "source:",
)
LOOKED_AT = 3
"""Pictures that the original runs on before it is known what its output means."""
COMPARED_VARIANTS = 4
LEAST_OF_VARIANT = {"float": 0.9999, "fp16": 0.995, "int8": 0.99}
"""Share of the pixels to which a variant must give the class of the uint8 one, else it is left out."""
NONE_GIVEN = "default"

Say = Callable[[str, str], None]
"""Shows a finding: what it is of, and the finding."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; ``given`` is what they say of the network."""

    network: Path
    output: Path
    family: str = ""
    given: Settings
    images: Path | None = None
    dry_run: bool = False
    command: str = ""


def import_network(request: Request, say: Say) -> None:
    """Make the model folder. Raises NetworkImportError, LabelsError, ContentError or OutputError.

    Where it raises, and on a dry run, nothing is written.
    """
    name = plain_name(request.output.resolve().name)
    foreign = read_network(request.network)
    family, settled = _settle(request, foreign, say)
    entry, size = _entry_and_size(foreign, settled, say)
    pictures = read_pictures(request.images)
    say("pictures", pictures.what)
    run = original.on_onnxruntime(foreign.path, entry.name)
    plan = _plan(foreign, settled, entry, size, run, pictures, say)
    static = make_static(foreign.model, entry.name, entry.shape(size), plan.head)
    with _place_for(request) as folder:
        card = _card(name, foreign, family, plan, static, pictures, request.command, settled)
        _write_variant(folder, in_contract(static, plan), "uint8", card)
        _check(foreign, folder, plan, run, pictures, say)
        _add_variants(folder, static, plan, pictures, card, say)
        _say_tensorrt(folder, say)
    say("written" if not request.dry_run else "dry run", _ending(request, folder, card))


def _settle(request: Request, foreign: Foreign, say: Say) -> tuple[str, Settled]:
    around = Surroundings(foreign.path, foreign.metadata)
    family, why = request.family, "given"
    if not family:
        family, marks = recognise(around)
        why = f"recognised by {marks}"
    say("family", f"{family or 'unknown'} ({why})" if family else "none given, none recognised")
    told = told_by(family, around) if family else []
    return family, settle([Told("given", request.given), *told])


def _entry_and_size(
    foreign: Foreign, settled: Settled, say: Say
) -> tuple[Entry, tuple[int, int]]:
    entry, fixed, why = read_entry(foreign, settled.settings.layout)
    wanted = settled.settings.size
    by = settled.by.get("size", "")
    if None in fixed and wanted is None:
        raise NetworkImportError(
            f"{foreign.path.name}: the size of its input is not fixed; give --size HxW"
        )
    sides = [own or asked for own, asked in zip(fixed, wanted or fixed, strict=True)]
    size = (int(sides[0] or 0), int(sides[1] or 0))
    if wanted is not None and size != wanted and by == "given":
        raise NetworkImportError(
            f"{foreign.path.name}: its input is fixed at {size[0]}x{size[1]}, but --size is "
            f"{wanted[0]}x{wanted[1]}; leave --size out, or export the network at that size"
        )
    size_by = "fixed in the file" if None not in fixed else by
    layout_by = why or settled.by.get("layout", NONE_GIVEN)
    say("input", f"{entry.name}, {entry.dtype}, {size[0]}x{size[1]} ({size_by})")
    say("layout", f"{entry.layout} ({layout_by})")
    if entry.batch != 1:
        say("batch", f"1 in place of {entry.batch}")
    return entry, size


def _plan(
    foreign: Foreign,
    settled: Settled,
    entry: Entry,
    size: tuple[int, int],
    run: original.Run,
    pictures: Pictures,
    say: Say,
) -> Plan:
    """Everything that the graph is made of; the original is run to see what it gives."""
    told, name = settled.settings, foreign.path.name
    scale, mean, std = _normalisation(name, settled, entry, say)
    order = told.order or "rgb"
    say("order", f"{order} ({settled.by.get('order', NONE_GIVEN)})")
    resize = told.resize or "stretch"
    looked_at = pictures.at_size(size, resize, LOOKED_AT)
    outputs = [
        run(original.network_input(picture, entry, order, scale, mean, std))
        for picture in looked_at
    ]
    head = _head(name, settled, outputs[0], say)
    shape = outputs[0][head].shape
    if entry.batch > 1 and shape[:1] == (entry.batch,):
        shape = (1, *shape[1:])
    classes = len(told.labels) if told.labels is not None else None
    arrangement = arrange(shape, size, classes, entry.layout == "nhwc")
    planes = [arrangement.planes(output[head]) for output in outputs]
    if not all(np.isfinite(plane).all() for plane in planes):
        raise NetworkImportError(f"{name}: {head} holds values that are no numbers")
    kind, why = kind_of(planes)
    say("output", f"{head}: {arrangement} (shape {list(shape)}, seen in a run)")
    say("values", f"{kind} ({why})")
    plan = Plan(
        entry=entry,
        size=size,
        mean=mean,
        std=std,
        scale=scale,
        order=order,
        head=head,
        arrangement=arrangement,
        kind=kind,
        threshold=_threshold(name, settled, kind, say),
        id_offset=told.id_offset or 0,
        labels=_labels(name, settled, arrangement.channels, kind, planes),
        resize=resize,
    )
    _say_labels(plan, settled, say)
    return plan


def _normalisation(
    name: str, settled: Settled, entry: Entry, say: Say
) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
    told, by = settled.settings, settled.by
    if entry.dtype == "uint8":
        if "given" in (by.get(key) for key in ("scale", "mean", "std")):
            raise NetworkImportError(
                f"{name}: it takes bytes and normalises them itself; leave --scale, --mean and "
                "--std out"
            )
        say("normalisation", "none (it takes bytes)")
        return 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if told.scale is None and told.mean is None and told.std is None:
        raise NetworkImportError(
            f"{name}: the file does not say how pictures are normalised; give --from FAMILY, or "
            "--scale, --mean and --std (the network sees (pixel * scale - mean) / std)"
        )
    scale = 1.0 if told.scale is None else told.scale
    mean, std = told.mean or (0.0, 0.0, 0.0), told.std or (1.0, 1.0, 1.0)
    if not np.isfinite([scale, *mean, *std]).all() or min(std) <= 0 or scale <= 0:
        raise NetworkImportError(
            f"{name}: scale {scale}, mean {list(mean)}, std {list(std)}; expected finite numbers, "
            "scale and std above 0"
        )
    tellers = sorted({by.get(key, NONE_GIVEN) for key in ("scale", "mean", "std")})
    formula = f"(pixel * {scale:.6g} - {_listed(mean)}) / {_listed(std)}"
    say("normalisation", f"{formula} ({'; '.join(tellers)})")
    return scale, mean, std


def _head(name: str, settled: Settled, outputs: dict[str, np.ndarray], say: Say) -> str:
    names, wanted = list(outputs), settled.settings.head
    listed = ", ".join(f"{key} {list(value.shape)}" for key, value in outputs.items())
    if isinstance(wanted, int):
        if len(names) > 1:
            say("head", f"{names[wanted]} of {listed} ({settled.by['head']})")
        return names[wanted]
    if wanted is None and len(names) > 1:
        raise NetworkImportError(
            f"{name}: {len(names)} outputs: {listed}; choose one by --output-head NAME"
        )
    if wanted is not None and wanted not in names:
        raise NetworkImportError(f"{name}: no output {wanted!r}; there are: {listed}")
    return wanted or names[0]


def _threshold(name: str, settled: Settled, kind: str, say: Say) -> float:
    usual = {"sigmoids": 0.5, "probability": 0.5, "score": 0.0}
    given = settled.settings.threshold
    if kind not in usual:
        if given is not None and settled.by["threshold"] == "given":
            raise NetworkImportError(
                f"{name}: its values are {kind}, of which the highest counts; leave --threshold out"
            )
        return float("nan")
    threshold = usual[kind] if given is None else given
    say("threshold", f"{threshold:g} ({settled.by.get('threshold', NONE_GIVEN)})")
    return threshold


def _labels(
    name: str, settled: Settled, channels: int, kind: str, planes: Sequence[np.ndarray]
) -> Any:
    """The label set, whose number of classes fits what the network gives."""
    labels, offset = settled.settings.labels, settled.settings.id_offset or 0
    highest = max(int(plane.max()) for plane in planes) if kind == IDS else 0
    found = f"ids up to {highest}" if kind == IDS else f"{channels} channels of {kind}"
    if kind != IDS and channels > MOST_CLASSES:
        raise NetworkImportError(f"{name}: {channels} classes, expected at most {MOST_CLASSES}")
    if labels is None:
        raise NetworkImportError(
            f"{name}: {found} without names; give --labels with one of {', '.join(LABEL_SETS)}, or "
            "a labels.yaml"
        )
    if kind == IDS:
        seen = {int(value) + offset for plane in planes for value in np.unique(plane)}
        fits = all(value < len(labels) or value - offset >= UNLABELLED for value in seen)
    elif kind in ("logits", "softmax"):
        fits = channels + offset == len(labels)
    else:
        fits = len(labels) - offset in (channels, channels + 1)
    if not fits:
        more = f", with --id-offset {offset}" if offset else ""
        raise NetworkImportError(
            f"{name}: {found}{more}, but label set {labels.name} has {len(labels)} classes; give "
            "--labels or --id-offset that fit"
        )
    return labels


def _say_labels(plan: Plan, settled: Settled, say: Say) -> None:
    names = plan.labels.names
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    say("labels", f"{plan.labels.name}, {len(names)} classes: {shown} ({settled.by['labels']})")
    ids = plan.class_ids()
    if plan.kind in ("sigmoids", "probability", "score"):
        none = "unlabelled" if ids[0] == UNLABELLED else names[ids[0]]
        say("background", f"{none}, where nothing is above the threshold")
    if plan.id_offset:
        say("ids", f"the network's {plan.id_offset:+d}; others are unlabelled")


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


def _write_variant(
    folder: Path, model: onnx.ModelProto, variant: str, card: dict[str, Any]
) -> None:
    """Write a form of the graph, and name it on the card."""
    onnx.save(model, str(folder / ARTIFACTS[variant][0]))
    card["artifacts"].append(onnx_artifact(folder, variant, opset_of(model)))
    write_card(folder, card)


def _check(
    foreign: Foreign,
    folder: Path,
    plan: Plan,
    run: original.Run,
    pictures: Pictures,
    say: Say,
) -> None:
    compared = pictures.at_size(plan.size, plan.resize, COMPARED_PICTURES)
    shares, maps = compare(foreign.path, folder, plan, run, compared)
    for what, share in shares.items():
        say("agreement", f"{share:.4%} of the pixels: {what}, and the original on ONNX Runtime")
    missing = openvino_missing()
    if missing:
        say("agreement", f"not compared on OpenVINO: {missing}")
    if not pictures.are_real:
        say("note", "compared on drawn pictures; give --images FOLDER with 10 or more of your own")
    seen = np.unique(np.concatenate([np.unique(item) for item in maps]))
    names = ["unlabelled" if i == UNLABELLED else plan.labels.names[i] for i in seen]
    say("classes seen", ", ".join(names))
    if len(seen) == 1:
        say("note", "one class alone was seen: that the pixels agree says little")


def _add_variants(
    folder: Path,
    static: onnx.ModelProto,
    plan: Plan,
    pictures: Pictures,
    card: dict[str, Any],
    say: Say,
) -> None:
    """The other forms of the graph; one that cannot be made, or agrees too little, is left out."""
    compared = pictures.at_size(plan.size, plan.resize, COMPARED_VARIANTS)
    expected = maps_of_folder(folder, "onnxruntime", compared)
    for variant, least in LEAST_OF_VARIANT.items():
        path = folder / ARTIFACTS[variant][0]
        try:
            _make_variant(variant, static, plan, pictures, folder)
            share = share_of_equal(_maps_of_file(path, compared), expected)
            if share < least:
                raise NetworkImportError(f"agrees on {share:.3%} of the pixels, expected {least:.1%}")
        except NetworkImportError as error:
            path.unlink(missing_ok=True)
            say("left out", f"{path.name}: {reason(error)}")
            continue
        _write_variant(folder, onnx.load(str(path)), variant, card)
        say("variant", f"{path.name}: agrees with {ARTIFACTS['uint8'][0]} on {share:.4%}")


def _make_variant(
    variant: str, static: onnx.ModelProto, plan: Plan, pictures: Pictures, folder: Path
) -> None:
    path = folder / ARTIFACTS[variant][0]
    if variant == "float":
        onnx.save(in_contract(static, plan, variant), str(path))
    elif variant == "fp16":
        onnx.save(in_contract(halved(static), plan, variant), str(path))
    elif not pictures.are_real:
        raise NetworkImportError("its ranges come from real pictures; give --images FOLDER")
    else:
        in_float = folder / ARTIFACTS["uint8"][0]
        if not convolutions_between(onnx.load(str(in_float))):
            raise NetworkImportError("it has fewer than three convolutions")
        images = pictures.at_size(plan.size, plan.resize, CALIBRATION_IMAGES)
        quantise_convolutions(in_float, [image[np.newaxis] for image in images], path)


def _maps_of_file(path: Path, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    run = original.on_onnxruntime(path, "image")
    dtype = np.float32 if path.name == ARTIFACTS["float"][0] else np.uint8
    return [run(item[np.newaxis].astype(dtype))["class_map"][0] for item in pictures]


def _say_tensorrt(folder: Path, say: Say) -> None:
    graphs = {
        variant: onnx.load(str(folder / ARTIFACTS[variant][0])) for variant in ("uint8", "float")
    }
    found = refusals(graphs)
    takes = [version for version, why in found.items() if not why]
    say("TensorRT", f"{', '.join(takes) or 'none'} list all of its operators (not run)")
    for version, why in found.items():
        if why:
            say("TensorRT", f"not {version}: {why}")


def _ending(request: Request, folder: Path, card: dict[str, Any]) -> str:
    files = ", ".join(item["file"] for item in card["artifacts"])
    if request.dry_run:
        return f"nothing was written; it would be {request.output} with {files}"
    return f"{request.output}: {CARD_FILE}, {files}"


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


__all__ = ["LEAST_AGREEMENT", "Request", "import_network"]
