"""``bag``: score a model on a recorded drive, or the predictions that were recorded in it."""

import argparse
import sys
from contextlib import closing
from typing import Any, Iterable, Union

from segmentation_node.evaluation.commands.options import (
    OutputOptions,
    add_calibration_option,
    add_geometry_options,
    add_jobs_option,
    add_model_options,
    add_output_options,
    add_size_option,
    add_topic_options,
    geometry_of,
    open_segmenters,
    output_options,
    picked,
    refuse_without_effect,
)
from segmentation_node.evaluation.commands.output import progress_bar, reported
from segmentation_node.evaluation.frame import Problem, ScoredFrame
from segmentation_node.evaluation.offline import score_frames, segmented
from segmentation_node.evaluation.run.provenance import environment_facts, run_facts
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import (
    BagOptions,
    BagSource,
    CameraSource,
    RecordedSource,
    import_bags,
)

OF_A_MODEL = (
    "size", "backend", "device", "precision", "num_threads", "engine_dir", "calibration", "jobs",
    "rotation",
)  # fmt: skip
OF_RECORDED = ("prediction_topic", "prediction_labels")


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "bag",
        help="score a model, or recorded class maps, on a bag",
        description="""
Score a bag, without a ROS graph. With --model its images go through the
pipeline; without it the class maps that were recorded in it are scored.""",
        examples="""
%(prog)s BAG --model fast_elu_squeezenet_camvid --html scores.html
%(prog)s BAG --json scores.json
""",
    )
    parser.set_defaults(run=run)
    parser.add_argument("bag", metavar="BAG", help="the bag's folder, or its .mcap or .db3 file")
    add_model_options(parser, required=False)
    add_size_option(parser)
    add_topic_options(parser)
    parser.add_argument(
        "--prediction-topic",
        metavar="TOPIC",
        help="the recorded class maps; default: the bag's one .../class_map",
    )
    parser.add_argument(
        "--prediction-labels",
        metavar="LABELS",
        help="their label set, where no LabelInfo in the bag says it: as of --labels",
    )
    add_calibration_option(parser)
    add_jobs_option(parser)
    add_geometry_options(parser)
    add_output_options(parser)
    parser.set_defaults(default_of=parser.get_default)


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; gives the exit code."""
    _check(arguments)
    options = picked(BagOptions, arguments)
    with import_bags().open_bag(arguments.bag, arguments.strict) as bag:
        if arguments.model:
            _score_model(CameraSource(bag, options), arguments)
        else:
            _score_recorded(RecordedSource(bag, options), arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise SegmentationError, which names them, where options are given that have no effect."""
    if arguments.model:
        refuse_without_effect(arguments, OF_RECORDED, "with --model; drop it")
    else:
        refuse_without_effect(arguments, OF_A_MODEL, "without --model; add it")


def _score_model(source: CameraSource, arguments: argparse.Namespace) -> None:
    output, geometry = output_options(arguments), geometry_of(arguments)
    with open_segmenters(arguments, geometry) as (segmenter, *beside), closing(
        source.frames()
    ) as frames:
        facts = run_facts(segmenter, arguments.jobs)
        run = source.new_run(segmenter.labels, facts, output.grouping, geometry)
        shown = progress_bar(source.length)(frames)
        seen = segmented(segmenter, shown, run, arguments.calibration, beside)
        _score(seen, source, run, output)


def _score_recorded(source: RecordedSource, arguments: argparse.Namespace) -> None:
    output, geometry = output_options(arguments), geometry_of(arguments)
    with closing(source.frames()) as frames:
        run = source.new_run(source.predicted, environment_facts(), output.grouping, geometry)
        recorded = progress_bar(source.length)(frames)
        _score(recorded, source, run, output)


def _score(
    frames: Iterable[Union[ScoredFrame, Problem]],
    source: BagSource,
    run: Run,
    options: OutputOptions,
) -> None:
    with reported(run, options):
        try:
            score_frames(frames, run, options.strict)
        finally:
            run.source["bag_problems"] = source.warnings()
            for line in source.warnings():
                print("warning: " + line, file=sys.stderr)
