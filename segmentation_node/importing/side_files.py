"""What families leave beside a network, or inside it: classes, sizes, normalisation."""

import ast
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from segmentation_node.errors import NetworkImportError, shown
from segmentation_node.importing.settings import Settings, Told, Triple, label_set_of
from segmentation_node.pictures import LARGEST_IMAGE_PIXELS
from segmentation_node.yaml_and_json import read_json, read_yaml

MOST_LITERAL = 1 << 16
"""Characters of a Python literal in the metadata of a file."""
OF_MASKS = ("detr", "eomt", "mask2former", "maskformer", "oneformer")
"""What is in Hugging Face's names of networks that classify masks, not pixels."""


class Surroundings:
    """A network's metadata, and the files of its folder and of the one around it."""

    def __init__(self, network: Path, metadata: dict[str, str]) -> None:
        self.network = network
        self.metadata = metadata

    @property
    def name(self) -> str:
        """What a label set of the network's own is called."""
        return self.network.stem

    def find(self, file: str) -> Path | None:
        """A file beside the network, or beside what that is a link to.

        Exporters that make a folder ``onnx`` leave it around that.
        """
        for folder in (self.network.absolute().parent, self.network.resolve().parent):
            for place in [folder, folder.parent] if folder.name == "onnx" else [folder]:
                if (place / file).is_file():
                    return place / file
        return None


Reader = Callable[[Surroundings], list[Told]]


def nothing(around: Surroundings) -> list[Told]:
    """Of families that leave nothing."""
    return []


def ultralytics_metadata(around: Surroundings) -> list[Told]:
    """``names``, ``imgsz``, ``task`` and ``license`` in the file's own metadata."""
    metadata = around.metadata
    task = metadata.get("task", "semantic")
    if not task.startswith("sem"):
        raise NetworkImportError(
            f"{around.network.name}: its task is {shown(task)}; expected semantic segmentation, "
            "which gives every pixel a class"
        )
    labels = size = None
    if "names" in metadata:
        labels = label_set_of(around.name, _numbered(_literal(metadata["names"]), "names"))
    if "imgsz" in metadata:
        size = _size(_literal(metadata["imgsz"]), "imgsz")
    told = Settings(labels=labels, size=size, licence=metadata.get("license"))
    return [Told("the file's metadata", told)]


def hugging_face(around: Surroundings) -> list[Told]:
    """``config.json``'s id2label; ``preprocessor_config.json``'s size and normalisation.

    Raises NetworkImportError on a network whose outputs are masks, each with a class of its own,
    and on one of another task: a depth of every pixel would pass for a score.
    """
    told = []
    config = around.find("config.json")
    values = {} if config is None else _mapping(read_json(str(config)), config)
    kind = values.get("model_type")
    if any(mark in str(kind) for mark in OF_MASKS):
        raise NetworkImportError(
            f"{config}: a network of type {shown(kind)} gives masks with a class each; expected a "
            "score for each class at each pixel, as SegFormer, UPerNet, BEiT, DPT or MobileViT give"
        )
    others = [name for name in _names(values.get("architectures")) if _is_for_another_task(name)]
    if others:
        raise NetworkImportError(
            f"{config}: a network of architecture {shown(others[0])}; expected one that is "
            "ForSemanticSegmentation, which gives every pixel a class"
        )
    if "id2label" in values:
        names = _numbered(values["id2label"], f"{config}: id2label")
        told.append(Told("config.json", Settings(labels=label_set_of(around.name, names))))
    processor = around.find("preprocessor_config.json")
    if processor is not None:
        values = _mapping(read_json(str(processor)), processor)
        does_scale, turns_colors = values.get("do_rescale", True), "do_flip_channel_order" in values
        # MobileViT's processor turns the colors, and neither normalises nor says so.
        does_normalise = values.get("do_normalize", not turns_colors)
        crops = bool(values.get("do_center_crop"))
        size = values.get("crop_size" if crops else "size")
        settings = Settings(
            scale=_number(values.get("rescale_factor", 1 / 255), f"{processor}: rescale_factor")
            if does_scale
            else 1.0,
            mean=_triple(values, "image_mean", processor) if does_normalise else (0.0, 0.0, 0.0),
            std=_triple(values, "image_std", processor) if does_normalise else (1.0, 1.0, 1.0),
            order="bgr" if values.get("do_flip_channel_order") else None,
            size=None if size is None else _size(size, f"{processor}: size"),
            cropped="its processor takes the middle of a picture" if crops else None,
        )
        told.append(Told("preprocessor_config.json", settings))
    return told


def mmdeploy(around: Surroundings) -> list[Told]:
    """``pipeline.json``'s Normalize and Resize."""
    path = around.find("pipeline.json")
    if path is None:
        return []
    settings: dict[str, Any] = {}
    for step in _mappings(read_json(str(path))):
        if step.get("type") == "Normalize":
            is_rgb = bool(step.get("to_rgb", True))
            mean, std = _triple(step, "mean", path), _triple(step, "std", path)
            # The values are in the order that the network takes.
            settings.update(
                scale=1.0,
                order="rgb" if is_rgb else "bgr",
                mean=mean if is_rgb else mean and mean[::-1],
                std=std if is_rgb else std and std[::-1],
            )
        elif step.get("type") == "Resize" and isinstance(step.get("size"), list):
            width_height = step["size"]
            settings["size"] = _size(width_height[::-1], f"{path}: size")
    return [Told("pipeline.json", Settings(**settings))]


def paddle(around: Surroundings) -> list[Told]:
    """Normalize, by default 0.5 each, and Resize of ``deploy.yaml`` or ``inference.yml``."""
    path = around.find("deploy.yaml") or around.find("inference.yml")
    if path is None:
        return []
    settings: dict[str, Any] = {}
    for step in _mappings(read_yaml(str(path))):
        if step.get("type") == "Normalize":
            half = [0.5, 0.5, 0.5]
            with_defaults = {"mean": half, "std": half, **step}
            settings["mean"] = _triple(with_defaults, "mean", path)
            settings["std"] = _triple(with_defaults, "std", path)
        elif step.get("type") == "Resize" and isinstance(step.get("target_size"), list):
            settings["size"] = _size(step["target_size"][::-1], f"{path}: target_size")
    return [Told(path.name, Settings(**settings))]


def classes_and_colors(around: Surroundings) -> list[Told]:
    """``classes.txt``, a name a line, and ``colors.txt``, red, green and blue a line."""
    path = around.find("classes.txt")
    if path is None:
        return []
    names = [line.strip() for line in _lines(path)]
    colors = []
    color_file = around.find("colors.txt")
    for line in _lines(color_file) if color_file else []:
        try:
            colors.append([int(float(number)) for number in line.split()[:3]])
        except (OverflowError, ValueError) as error:
            raise NetworkImportError(
                f"{color_file}: {shown(line)} is no color; expected red, green and blue, 0 to 255"
            ) from error
    labels = label_set_of(around.name, names, colors)
    by = "classes.txt and colors.txt" if colors else "classes.txt"
    return [Told(by, Settings(labels=labels))]


def ontology(around: Surroundings) -> list[Told]:
    """``ontology.yaml``'s classes, in front of them the background, which the network has."""
    path = around.find("ontology.yaml")
    if path is None:
        return []
    classes = [step for step in _mappings(read_yaml(str(path))) if "name" in step]
    if not classes:
        raise NetworkImportError(
            f"{path}: found no classes; expected ontology.classes, each a name"
        )
    names: list[str] = ["background"]
    colors: list[Any] = [[0, 0, 0]]
    for entry in classes:
        names.append(str(entry["name"]))
        colors.append(entry.get("color", [128, 128, 128]))
    if names[1].lower() == "background":
        names, colors = names[1:], colors[1:]
    return [Told("ontology.yaml", Settings(labels=label_set_of(around.name, names, colors)))]


def _mappings(values: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a file, outer ones first."""
    if isinstance(values, dict):
        yield values
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _mappings(value)


def _names(values: Any) -> list[str]:
    return [item for item in values if isinstance(item, str)] if isinstance(values, list) else []


def _is_for_another_task(architecture: str) -> bool:
    """Whether Hugging Face's name ends in a task that is no segmentation; others may have none."""
    _, mark, task = architecture.rpartition("For")
    return bool(mark) and task[:1].isupper() and "Segmentation" not in task


def _mapping(values: Any, path: Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise NetworkImportError(f"{path}: found {shown(values)}, expected keys and values")
    return values


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text) if len(text) <= MOST_LITERAL else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _numbered(values: Any, where: str) -> list[str]:
    """Names by number, from 0 on without a gap."""
    try:
        by_id = {int(key): str(name) for key, name in dict(values).items()}
        return [by_id[index] for index in range(len(by_id))]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise NetworkImportError(
            f"{where}: {shown(values)} does not name the classes 0, 1, 2 ... one by one; give "
            "--labels"
        ) from error


def _triple(values: dict[str, Any], key: str, path: Path) -> Triple | None:
    found = values.get(key)
    if found is None:
        return None
    try:
        red, green, blue = found
    except (TypeError, ValueError) as error:
        raise NetworkImportError(
            f"{path}: {key} is {shown(found)}; expected three numbers"
        ) from error
    where = f"{path}: {key}"
    return _number(red, where), _number(green, where), _number(blue, where)


def _number(found: Any, where: str) -> float:
    try:
        number = float(found)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise NetworkImportError(f"{where} is {shown(found)}; expected a finite number")
    return number


def _size(found: Any, where: str) -> tuple[int, int] | None:
    """Height and width; None of a rule by which every picture has a size of its own."""
    if isinstance(found, dict):
        if not {"height", "width"} <= set(found):
            return None
        found = [found["height"], found["width"]]
    if isinstance(found, int):
        found = [found, found]
    try:
        height, width = (int(side) for side in found)
    except (OverflowError, TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1 or height * width > LARGEST_IMAGE_PIXELS:
        raise NetworkImportError(
            f"{where} is {shown(found)}; expected a height and a width, 1 to "
            f"{LARGEST_IMAGE_PIXELS} pixels in all"
        )
    return height, width


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
