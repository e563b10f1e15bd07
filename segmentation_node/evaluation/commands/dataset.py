"""``dataset``: score a model on a split of a data set."""

import argparse
import os
import sys
from contextlib import closing
from dataclasses import replace
from typing import Any, Optional

from segmentation_node import pipeline
from segmentation_node.backends.choice import keeps_classes
from segmentation_node.errors import CardError
from segmentation_node.evaluation.commands.options import (
    add_calibration_option,
    add_data_options,
    add_geometry_options,
    add_jobs_option,
    add_model_options,
    add_output_options,
    add_size_option,
    add_split_option,
    geometry_of,
    open_segmenters,
    output_options,
)
from segmentation_node.evaluation.commands.output import progress_bar, reported
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import (
    score_frames,
    segmented,
    share_of_equal,
)
from segmentation_node.evaluation.run.provenance import run_facts
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import DatasetSource
from segmentation_node.model_card import CARD_FILE, read_card
from segmentation_node.pipeline import Segmenter


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "dataset",
        help="score a model on a split of a data set",
        description="Score a model on a split of a data set.",
        examples="""
%(prog)s --model fast_elu_squeezenet_street --dataset street --split test
%(prog)s --model M --dataset camvid --root CAMVID --html val.html
""",
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    add_size_option(parser)
    add_data_options(parser)
    add_split_option(parser)
    parser.add_argument(
        "--no-iiou",
        dest="iiou",
        action="store_false",
        help="do not measure iIoU; instance files are not read",
    )
    parser.add_argument(
        "--to-card",
        action="store_true",
        help="also write the mean IoU on the model's card, in place of that of the same data, size "
        "and precision; ends at the first broken frame, as --strict does",
    )
    add_calibration_option(parser)
    add_jobs_option(parser)
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
    source = DatasetSource(dataset, arguments.dataset)
    for line in source.warnings():
        print("warning: " + line, file=sys.stderr)
    with open_segmenters(arguments, geometry) as (segmenter, *beside):
        facts = run_facts(segmenter, arguments.jobs)
        run = source.new_run(segmenter.labels, facts, output.grouping, geometry)
        run.source["left_out"] = source.warnings()
        progress = progress_bar(source.length)
        with reported(run, output), closing(source.frames()) as frames:
            shown = progress(frames)
            seen = segmented(segmenter, shown, run, arguments.calibration, beside)
            score_frames(seen, run, output.strict or arguments.to_card)
        if arguments.to_card:
            _write_on_card(segmenter, arguments, run, dataset)
    return 0


def _write_on_card(
    segmenter: Segmenter, arguments: argparse.Namespace, run: Run, dataset: Dataset
) -> None:
    # Cards are written where networks are trained or imported: Python 3.11.
    from segmentation_node.importing.model_folder import accuracy_entry, add_to_card

    card, agreement = segmenter.card, _agreement(segmenter, dataset)
    name = dataset.name_on_card(arguments.dataset)
    entry = accuracy_entry(segmenter, name, arguments.split, run.accuracy, agreement)
    add_to_card(card.folder, accuracy=entry)
    print("%s: mean IoU %.4f" % (os.path.join(card.folder, CARD_FILE), entry["mean_iou"]))
    if agreement is not None:
        written = read_card(card.folder).at_size(card.input_size)
        precision = segmenter.backend.options.precision
        keeps, told = keeps_classes(written, entry["artifact"], precision)
        verdict = "may take" if keeps else "does not take"
        print("%s: fp32's class at %.3f %% of the pixels" % (precision, 100 * agreement))
        print("precision auto %s it: %s" % (verdict, told))


def _agreement(segmenter: Segmenter, dataset: Dataset) -> Optional[float]:
    """Of a low precision with fp32 on the same run time, where that can run here."""
    backend = segmenter.backend
    in_fp32 = replace(backend.options, precision="fp32")
    if backend.options.precision == "fp32" or backend.unready(segmenter.card, in_fp32):
        return None
    with pipeline.open_segmenter(segmenter.card, backend.name, in_fp32) as reference:
        return share_of_equal(segmenter, reference, dataset)
