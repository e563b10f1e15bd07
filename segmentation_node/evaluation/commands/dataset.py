"""``dataset``: score a model on a split of a data set."""

import argparse
import sys
from contextlib import closing
from typing import Any

from segmentation_node.evaluation.commands.options import (
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
from segmentation_node.evaluation.sources import DatasetSource


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
    add_geometry_options(parser)
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; gives the exit code."""
    output, geometry = output_options(arguments), geometry_of(arguments)
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
            score_frames(segmented(segmenter, progress(frames)), run, output.strict)
    return 0
