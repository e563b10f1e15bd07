"""``dataset``: score a model on a split of a data set."""

import argparse
from typing import Any

from segmentation_node.evaluation.commands.options import (
    add_model_options,
    add_output_options,
    open_segmenter,
)
from segmentation_node.evaluation.commands.output import counted, progress_bar
from segmentation_node.evaluation.dataset import new_run, score_dataset
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.evaluation.run.provenance import run_facts


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
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; gives the exit code."""
    dataset = open_dataset(
        arguments.dataset, arguments.root, arguments.split, with_instances=arguments.iiou
    )
    with open_segmenter(arguments) as segmenter:
        source = dict(run_facts(segmenter), dataset=arguments.dataset, split=arguments.split)
        result = new_run(segmenter, dataset, source)

        def score() -> None:
            progress = progress_bar(len(dataset))
            score_dataset(segmenter, dataset, result, progress=progress, strict=arguments.strict)

        return counted(result, score, arguments)
