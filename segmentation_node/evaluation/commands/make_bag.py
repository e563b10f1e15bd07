"""``make-bag``: record a data set, a folder of images or a video as a rosbag2 bag."""

import argparse
import os
import sys
from typing import Any, Optional

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.commands.options import at_least, positive
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import DATASETS, DRIVES, Drive, open_drive
from segmentation_node.evaluation.report.text import table
from segmentation_node.evaluation.sources import import_bags


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "make-bag",
        help="record a data set, a folder of images or a video as a rosbag2 bag",
        description="Record a data set, a folder of images or a video as a rosbag2 bag.",
        examples="""
%(prog)s --dataset street --split test --output street
%(prog)s --dataset images --root FOLDER --rate 10 --output drive
%(prog)s --dataset video --root drive.mp4 --output drive
""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--dataset",
        required=True,
        type=lambda name: name.replace("-", "_"),
        choices=sorted(set(DATASETS) | set(DRIVES)),
        metavar="NAME",
        help="one of " + ", ".join(sorted(set(DATASETS) | set(DRIVES))),
    )
    parser.add_argument(
        "--root",
        default="",
        metavar="PATH",
        help="the data's folder, or the video file; street needs none",
    )
    parser.add_argument(
        "--split",
        default="",
        help="of kitti_raw the drive, of images a subfolder, of others the split; default: val, or "
        "what there is",
    )
    parser.add_argument(
        "--sequence", default="", help="of kitti_step: one sequence of the split; default: all"
    )
    parser.add_argument("--output", required=True, metavar="BAG", help="folder to make")
    parser.add_argument(
        "--storage", choices=("mcap", "sqlite3"), default="mcap", help="format of the bag"
    )
    parser.add_argument(
        "--compression",
        choices=("none", "zstd"),
        default="none",
        help="of the chunks of an MCAP file; loses nothing",
    )
    parser.add_argument(
        "--image",
        choices=("raw", "jpeg", "png"),
        default="raw",
        help="rgb8 images, or compressed ones: png loses nothing, jpeg (quality 95) does",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="also record true boxes, from the data set's instances"
    )
    parser.add_argument(
        "--topic",
        default="/camera/image_raw",
        help="of the images; compressed ones get /compressed behind it",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help="frames per second, where the data has no times; default: 10, of cityscapes_sequence "
        "17, of a video its own",
    )
    parser.add_argument(
        "--frames",
        type=at_least(0),
        default=0,
        metavar="N",
        help="only the first N; default: 0, all",
    )
    parser.add_argument("--force", action="store_true", help="replace BAG, if make-bag wrote it")


def run(arguments: argparse.Namespace) -> int:
    """Write the bag and say what is in it."""
    import_bags()
    from segmentation_node.evaluation.bags.record import Recording, record
    from segmentation_node.evaluation.bags.writer import BagWriter

    drive = _open_drive(arguments)
    recording = Recording(
        arguments.dataset, arguments.image, arguments.topic, arguments.rate, arguments.frames
    )
    writer = BagWriter(
        arguments.output,
        arguments.storage,
        arguments.compression,
        arguments.force,
        sources=[arguments.root],
    )
    with writer:
        done = record(drive, writer, recording, progress_bar(_length(drive, arguments.frames)))
    _print_content(arguments.output, done)
    # What a drive lacks it may know at its end only.
    for note in drive.notes:
        print("note: " + note)
    for problem in done.left_out:
        print("warning: left out: %s" % problem, file=sys.stderr)
    return 0


def _open_drive(arguments: argparse.Namespace) -> Drive:
    if not arguments.root and arguments.dataset != "street":
        raise DatasetError("--root is missing: the folder of %s" % arguments.dataset)
    drive = open_drive(
        arguments.dataset,
        arguments.root,
        arguments.split,
        arguments.sequence,
        with_instances=arguments.boxes,
    )
    if arguments.rate and drive.has_times:
        raise DatasetError("%s has its own times; leave --rate out" % arguments.dataset)
    return drive


def _length(drive: Drive, most: int) -> Optional[int]:
    return min(drive.length or most, most) if most else drive.length


def _print_content(bag: str, done: Any) -> None:
    print(table(["topic", "messages"], [[t, str(n)] for t, n in done.topics.items()]))
    print()
    print(
        "%s: %d frames%s, %d with ground truth, %.3f s, %.1f MB"
        % (
            bag,
            done.frames,
            " (%d left out)" % len(done.left_out) if done.left_out else "",
            done.with_truth,
            (done.last_ns - done.first_ns) * 1e-9,
            _size_bytes(bag) * 1e-6,
        )
    )


def _size_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
