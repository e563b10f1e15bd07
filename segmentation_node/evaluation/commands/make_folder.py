"""``make-folder``: write the procedural street as pictures and masks, as own data would lie."""

import argparse
import os
from typing import Any, Dict, Iterator, Tuple

import cv2
import numpy as np
import yaml

from segmentation_node.evaluation.commands.options import at_least
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.files import Layout, new_folder, write_whole
from segmentation_node.labels import describe, read_grouping

LABELS_FILE = "labels.yaml"
MARK = "# Written by make-folder\n"
LAYOUT = Layout(
    "a folder that make-folder wrote",
    (LABELS_FILE, "images/*/*.png", "labels/*/*.png"),
    LABELS_FILE,
    MARK,
)
FRAMES_PER_VAL = 4
"""One in so many frames is for validation, from drives that training does not see."""


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "make-folder",
        help="write pictures and masks of the drawn street, to try things on",
        description="Write pictures and masks of the drawn street, as one's own data would lie.",
        examples="%(prog)s --output yard --frames 40",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--output", required=True, metavar="ROOT", help="folder to make")
    parser.add_argument(
        "--frames",
        type=at_least(2),
        default=12,
        metavar="N",
        help="pictures in all; a quarter of them is val, the others train",
    )
    parser.add_argument(
        "--grouping",
        metavar="FILE",
        help="write groups instead of Cityscapes' 19 classes: a YAML file like "
        "{name: yard, groups: {ground: [road, sidewalk], rest: '*'}}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    street = open_dataset("street", "", "train")
    labels, lut = street.label_set.in_train_ids(), np.arange(256, dtype=np.uint8)
    if arguments.grouping:
        labels, lut = read_grouping(arguments.grouping).fold(street.label_set)
    in_val = max(1, arguments.frames // FRAMES_PER_VAL)
    counts = {"train": arguments.frames - in_val, "val": in_val}
    header = MARK + yaml.safe_dump(describe(labels), sort_keys=False, default_flow_style=None)
    with new_folder(arguments.output, LAYOUT) as root:
        write_whole(os.path.join(root, LABELS_FILE), header)
        for split, frame in progress_bar(arguments.frames)(_frames(counts)):
            name = frame.name + ".png"
            _write_png(os.path.join(root, "images", split, name), frame.image_hwc[..., ::-1])
            _write_png(os.path.join(root, "labels", split, name), lut[frame.truth_hw])
    print("%s: %d pictures in train, %d in val" % (arguments.output, counts["train"], in_val))
    return 0


def _frames(counts: Dict[str, int]) -> Iterator[Tuple[str, Frame]]:
    """So many frames of each split, spread over its drives."""
    for split, count in counts.items():
        street = open_dataset("street", "", split)
        for index in np.linspace(0, len(street) - 1, count).astype(int):
            yield split, street[int(index)]


def _write_png(path: str, bgr_or_ids: np.ndarray) -> None:
    _, encoded = cv2.imencode(".png", bgr_or_ids)
    write_whole(path, encoded.tobytes())
