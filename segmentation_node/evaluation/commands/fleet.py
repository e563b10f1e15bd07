"""``fleet``: score many drives, on as many workers as there are; ``merge`` sums the reports."""

import argparse
import sys
from contextlib import closing
from typing import Any, List, Tuple

from segmentation_node.backends.cpu import usable_cores
from segmentation_node.errors import FleetError
from segmentation_node.evaluation.commands.options import (
    add_data_options,
    add_endpoint_option,
    add_geometry_options,
    add_model_options,
    add_size_option,
    add_split_option,
    add_topic_options,
    at_least,
    between,
    picked,
    refuse_without_effect,
)

ENGINES = ("local", "ray")
OF_BAGS = ("image_topic", "truth_topic", "labels")


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "fleet",
        help="score a model on many drives, one report each",
        description="""
Score a model on many drives, one report each in OUT. A drive that has its
report is not done again. Exit code 1 if a drive failed.""",
        examples="""
%(prog)s '/data/drives/*' --model M --output OUT
%(prog)s drives.txt --model M --output s3://bucket/out --shard 3/8
""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "drives",
        nargs="*",
        metavar="DRIVE",
        help="a bag, a pattern of bags in quotes, or a .txt file with one a line; local or a URL",
    )
    add_model_options(parser)
    add_size_option(parser)
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="folder or URL for the reports"
    )
    add_data_options(parser, required=False)
    add_split_option(parser, "of the data set; its sequences are the drives")
    add_topic_options(parser)
    parser.add_argument(
        "--grouping", metavar="FILE", help="score groups of classes, as dataset does"
    )
    add_geometry_options(parser)
    _add_placement_options(parser)
    parser.set_defaults(default_of=parser.get_default)
    add_endpoint_option(parser)
    parser.add_argument(
        "--fail-below",
        type=between(0.0, 1.0),
        metavar="IOU",
        help="in the end also exit 1 if the mean IoU over these drives, 0 to 1, is lower",
    )


def _add_placement_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=ENGINES,
        default="local",
        help="local: processes of this machine; ray: Ray's workers",
    )
    parser.add_argument(
        "--address",
        help="with ray: of a cluster that runs, or auto; default: a Ray of this machine alone",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), metavar="N", help="drives at a time; default: one a core"
    )
    parser.add_argument(
        "--retries",
        type=at_least(0),
        default=3,
        metavar="N",
        help="how often a drive is tried again when its worker died",
    )
    parser.add_argument(
        "--shard",
        type=shard_of,
        default=(1, 1),
        metavar="I/N",
        help="do the I-th of N shares of the drives, I from 1; default: 1/1, all of them",
    )
    parser.add_argument(
        "--gpus-per-drive",
        type=between(0, 64),
        default=0.0,
        metavar="G",
        help="with ray: GPUs that a drive gets, 0.5 for half of one; default: 0",
    )


def shard_of(text: str) -> Tuple[int, int]:
    """``I/N``, for a parser."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError("%s is no share; expected I/N with I from 1 to N" % text)
    return int(number), int(count)


def run(arguments: argparse.Namespace) -> int:
    """Score what has no report yet; 1 where a drive failed or the fleet is below the mark."""
    from segmentation_node.evaluation.fleet.drives import find_drives, shard
    from segmentation_node.evaluation.fleet.storage import open_folder

    _check(arguments)
    placement = _placement(arguments)
    settings = _settings(arguments, placement.threads)
    drives = shard(find_drives(arguments.drives, settings), *arguments.shard)
    folder = open_folder(settings.output, settings.endpoint_url)
    there = set(folder.names())
    missing = [drive for drive in drives if drive.report_name not in there]
    for drive in drives:
        if drive.report_name in there and drive.failure_name in there:
            folder.remove(drive.failure_name)  # it is again what it was before it failed
    print("%d drives, %d of them done before" % (len(drives), len(drives) - len(missing)))
    failed = _score(missing, settings, placement, arguments.executor)
    print("%d scored, %d failed; see evaluation merge" % (len(missing) - failed, failed))
    if arguments.fail_below is None or failed:
        return 1 if failed else 0
    return _judged(folder, drives, arguments.fail_below)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.executor != "ray" and (arguments.address or arguments.gpus_per_drive):
        raise FleetError("--address and --gpus-per-drive are Ray's: add --executor ray")
    if arguments.dataset:
        refuse_without_effect(arguments, OF_BAGS, "with --dataset; drop it")
    else:
        refuse_without_effect(arguments, ("root", "split"), "without --dataset; add it")


def _placement(arguments: argparse.Namespace) -> Any:
    from segmentation_node.evaluation.fleet.executors import Placement

    cores = usable_cores()
    jobs = arguments.jobs or cores
    threads = arguments.num_threads or max(1, cores // jobs)
    return Placement(jobs, threads, arguments.retries, arguments.gpus_per_drive, arguments.address)


def _settings(arguments: argparse.Namespace, threads: int) -> Any:
    from segmentation_node.evaluation.fleet.drives import Settings

    settings = picked(Settings, arguments, num_threads=threads, roi=tuple(arguments.roi))
    settings.geometry()  # what no image can have is told before any drive is scored
    return settings


def _score(drives: List[Any], settings: Any, placement: Any, engine: str) -> int:
    """How many failed; each is told as it does."""
    from tqdm import tqdm

    from segmentation_node.evaluation.fleet.executors import EXECUTORS
    from segmentation_node.evaluation.fleet.score import Task

    if not drives:
        return 0
    failed = 0
    tasks = [Task(drive, settings) for drive in drives]
    try:
        with closing(EXECUTORS[engine](tasks, placement)) as outcomes:  # type: ignore[type-var]
            for outcome in tqdm(outcomes, total=len(drives), unit="drive", disable=None):
                if outcome.error is not None:
                    failed += 1
                    tqdm.write("failed: %s" % outcome.error, file=sys.stderr)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what is scored stays; the same command goes on") from None
    return failed


def _judged(folder: Any, drives: List[Any], least: float) -> int:
    """1 where the mean IoU over these drives is lower; others in the folder play no part."""
    from segmentation_node.evaluation.fleet.merge import merge, reports_in

    if not drives:
        print("no drive in this share: nothing to judge")
        return 0
    wanted = {drive.report_name for drive in drives}
    found = merge(folder, wanted)["mean_iou"]
    if found is None:
        raise FleetError("--fail-below: no drive has ground truth, so there is no mean IoU")
    print("mean IoU %.4f over %d drives, expected at least %.4f" % (found, len(drives), least))
    others = len(set(reports_in(folder)) - wanted)
    if others:
        print("not judged: %d other reports in %s" % (others, folder.path))
    return 1 if found < least else 0
