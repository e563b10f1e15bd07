"""``dataset``: score a model on a split of a data set."""

import argparse
import os
import sys
from contextlib import closing
from typing import Any

from segmentation_node.errors import CardError
from segmentation_node.evaluation.commands.options import (
    add_calibration_option,
    add_geometry_options,
    add_model_options,
    add_output_options,
    geometry_of,
    open_segmenter,
    output_options,
)
from segmentation_node.evaluation.commands.output import progress_bar, reported
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.evaluation.offline import score_frames, segmented
from segmentation_node.evaluation.run.provenance import run_facts
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import DatasetSource
from segmentation_node.model_card import CARD_FILE
from segmentation_node.pipeline import Segmenter


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser("dataset", help="score a model on a split of a data set")
    parser.set_defaults(run=run)
    add_model_options(parser)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--root", default="", help="the data set's folder")
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--no-iiou",
        dest="iiou",
        action="store_false",
        help="leave out iIoU and with it the data set's instance files",
    )
    parser.add_argument(
        "--to-card",
        action="store_true",
        help="also write the figures on the model's card, in place of those of the same data, "
        "size and precision",
    )
    add_calibration_option(parser)
    add_geometry_options(parser)
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; gives the exit code."""
    output, geometry = output_options(arguments), geometry_of(arguments)
    sees_part = arguments.roi or arguments.rotation or arguments.ignore_mask
    if arguments.to_card and (output.grouping or sees_part):
        raise CardError(
            "--to-card: a card's figures are of whole images and all classes; leave --grouping, "
            "--roi, --rotation and --ignore-mask out"
        )
    dataset = open_dataset(
        arguments.dataset, arguments.root, arguments.split, with_instances=arguments.iiou
    )
    for note in dataset.notes:
        print("warning: " + note, file=sys.stderr)
    source = DatasetSource(dataset, arguments.dataset)
    with open_segmenter(arguments, geometry) as segmenter:
        run = source.new_run(segmenter.labels, run_facts(segmenter), output.grouping, geometry)
        segmenter.detected = run.detected
        progress = progress_bar(source.length)
        with reported(run, output), closing(source.frames()) as frames:
            seen = segmented(segmenter, progress(frames), arguments.calibration)
            score_frames(seen, run, output.strict or arguments.to_card)
        if arguments.to_card:
            _write_on_card(segmenter, arguments, run)
    return 0


def _write_on_card(segmenter: Segmenter, arguments: argparse.Namespace, run: Run) -> None:
    # Cards are written where networks are trained or imported: Python 3.11.
    from segmentation_node.importing.model_folder import accuracy_entry, add_to_card

    entry = accuracy_entry(segmenter, arguments.dataset, arguments.split, run.accuracy)
    add_to_card(segmenter.card.folder, accuracy=entry)
    print("%s: mean IoU %.4f" % (os.path.join(segmenter.card.folder, CARD_FILE), entry["mean_iou"]))
