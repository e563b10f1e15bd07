"""What is known of a foreign network, who says so, and which word counts."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from segmentation_node.errors import shown
from segmentation_node.labels import LABEL_SETS, LabelSet, parse_label_set
from segmentation_node.pictures import LARGEST_IMAGE_PIXELS

ORDERS = ("rgb", "bgr")
LAYOUTS = ("nchw", "nhwc")
Triple = tuple[float, float, float]


def image_size(text: str) -> tuple[int, int]:
    """An option's ``HxW`` as height and width in pixels. Raises argparse.ArgumentTypeError."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and len(text) < 20):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not HxW, like 360x480")
    if not 1 <= int(height) * int(width) <= LARGEST_IMAGE_PIXELS:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {LARGEST_IMAGE_PIXELS} pixels")
    return int(height), int(width)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """None: nobody says.

    ``mean`` and ``std`` are of red, green and blue, whatever ``order`` the network takes them in:
    it sees ``(pixel * scale - mean) / std``. ``size`` is (height, width). ``head`` is the name of
    the output, or its position. ``id_offset`` is added to the network's ids. ``cropped`` says which
    part of a picture the network was made to see, where that is not all of it. ``by_corners``: its
    scores are enlarged with corner pixels on corner pixels (PyTorch's ``align_corners``).
    """

    mean: Triple | None = None
    std: Triple | None = None
    scale: float | None = None
    order: str | None = None
    layout: str | None = None
    size: tuple[int, int] | None = None
    head: str | int | None = None
    threshold: float | None = None
    id_offset: int | None = None
    labels: LabelSet | None = None
    resize: str | None = None
    cropped: str | None = None
    by_corners: bool | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Told:
    """What somebody says, and how they are called in the report."""

    by: str
    settings: Settings


@dataclass(frozen=True)
class Settled:
    """What counts, and of each entry that anybody spoke of, by whom."""

    settings: Settings
    by: dict[str, str]


def settle(told: Sequence[Told]) -> Settled:
    """Of every entry the first word counts."""
    values: dict[str, Any] = {}
    by: dict[str, str] = {}
    for item in fields(Settings):
        for teller in told:
            value = getattr(teller.settings, item.name)
            if value is not None:
                values[item.name], by[item.name] = value, teller.by
                break
    return Settled(Settings(**values), by)


def label_set_of(
    name: str, classes: Sequence[str], colors: Sequence[Sequence[int]] = ()
) -> LabelSet:
    """The built-in label set with these classes, or one of its own with this name.

    A name that is there twice gets its id behind it. Raises LabelsError.
    """
    for known in LABEL_SETS.values():
        if [item.lower() for item in known.names] == [item.strip().lower() for item in classes]:
            return known
    entries: list[dict[str, Any]] = []
    for index, text in enumerate(classes):
        is_taken = text in (entry["name"] for entry in entries)
        entry: dict[str, Any] = {"name": f"{text} ({index})" if is_taken else text}
        if index < len(colors):
            entry["color"] = colors[index]
        entries.append(entry)
    return parse_label_set({"name": name, "classes": entries}, f"the classes of {name}")
