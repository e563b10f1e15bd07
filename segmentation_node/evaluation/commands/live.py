"""``live``: score a node that runs, on a bag or a data set that is played into it."""

import argparse
import sys
from typing import Any

from segmentation_node.errors import ReplayError, SegmentationError
from segmentation_node.evaluation.commands.options import (
    add_backend_options,
    add_data_options,
    add_geometry_options,
    add_output_options,
    add_split_option,
    add_topic_options,
    at_least,
    geometry_of,
    output_options,
    picked,
    positive,
    refuse_without_effect,
)
from segmentation_node.evaluation.commands.output import progress_bar, reported
from segmentation_node.evaluation.sources import BagOptions

OF_A_STARTED = ("policy", "backend", "device", "precision", "num_threads")
OF_A_BAG = ("truth_topic", "labels", "also", "rate", "sim_time")
OF_A_DATASET = ("root", "split")
OF_A_PLAYER = ("also", "rate", "hz", "in_flight")


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "live",
        help="play a bag or a data set into the node, and score what it publishes",
        description="""
Play a bag or a data set into the node over ROS, and score what it publishes.
With --model the node is started, with --node one is used that runs already.""",
        examples="""
%(prog)s --bag BAG --model fast_elu_squeezenet_camvid --html scores.html
%(prog)s --bag BAG --node /front/segmentation_node
%(prog)s --dataset street --split test --model fast_elu_squeezenet_street
%(prog)s --listen --bag BAG --model fast_elu_squeezenet_camvid
""",
    )
    parser.set_defaults(run=run)
    source = parser.add_argument_group("what is played")
    source.add_argument(
        "--bag",
        default="",
        metavar="BAG",
        help="a rosbag2 bag: its folder, or its .mcap or .db3 file",
    )
    add_data_options(source, required=False)
    add_split_option(source)
    source.add_argument(
        "--no-iiou",
        dest="iiou",
        action="store_false",
        help="do not measure iIoU; instance files are not read",
    )
    add_topic_options(source)
    source.add_argument(
        "--also",
        nargs="+",
        default=[],
        metavar="TOPIC",
        help="topics of the bag that are played too, such as /camera/camera_info; all: every one",
    )
    source.add_argument(
        "--listen",
        action="store_true",
        help="play nothing, and score what others play (ros2 bag play, a camera): the frames of "
        "--bag, or what comes on --image-topic",
    )
    _add_node_options(parser.add_argument_group("the node"))
    _add_pace_options(parser.add_argument_group("pace"))
    parser.add_argument(
        "--allow-loss", action="store_true", help="exit code 0 even if frames were lost"
    )
    add_geometry_options(
        parser.add_argument_group(
            "geometry",
            "Given to the node that is started; with --node, state what it runs with. "
            "What these leave out is not scored.",
        )
    )
    add_output_options(parser)
    parser.set_defaults(default_of=parser.get_default)


def _add_node_options(group: Any) -> None:
    group.add_argument(
        "--model", default="", help="start a node with this model folder, or shipped model's name"
    )
    group.add_argument(
        "--node",
        default="",
        metavar="NAME",
        help="use a node that runs already, by its full name, such as /segmentation_node",
    )
    group.add_argument(
        "--policy",
        default="every",
        choices=["every", "latest"],
        help="its frame_policy: every frame, or the newest, which drops others",
    )
    add_backend_options(group)


def _add_pace_options(group: Any) -> None:
    pace = group.add_mutually_exclusive_group()
    pace.add_argument(
        "--rate",
        type=positive,
        default=0.0,
        metavar="FACTOR",
        help="1: at the recorded times, 2: twice as fast; default: as fast as the node takes them",
    )
    pace.add_argument(
        "--hz", type=positive, default=0.0, help="images per second, whatever was recorded"
    )
    group.add_argument(
        "--in-flight",
        type=at_least(1),
        default=2,
        metavar="N",
        help="most images that are on their way at any time",
    )
    group.add_argument(
        "--timeout",
        type=positive,
        default=30.0,
        metavar="SECONDS",
        help="how long no result may come until images on their way count as lost",
    )
    group.add_argument(
        "--idle",
        type=positive,
        default=5.0,
        metavar="SECONDS",
        help="with --listen: ends so long after the last image or result",
    )
    group.add_argument(
        "--sim-time",
        action="store_true",
        help="publish recorded time on /clock; a node that is started runs on it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; frames lost are an error unless allowed."""
    _check(arguments)
    output, geometry = output_options(arguments), geometry_of(arguments)
    evaluate = import_live()
    pace = picked(
        evaluate.PaceOptions, arguments, timeout_s=arguments.timeout, idle_s=arguments.idle
    )
    source = picked(evaluate.SourceOptions, arguments, topics=picked(BagOptions, arguments))
    target = picked(evaluate.TargetOptions, arguments, geometry=geometry)
    options = evaluate.LiveOptions(target, source, pace, arguments.listen, output.grouping)
    with evaluate.live_run(options) as live:
        with reported(live.run, output):
            live.score(progress_bar(live.source.data.length)(None))
        missing = live.losses()
    if missing and arguments.allow_loss:
        print("warning: " + missing, file=sys.stderr)
    elif missing:
        raise ReplayError(missing + "; --allow-loss accepts that")
    return 0


def import_live() -> Any:
    """``evaluation.live.evaluate``, and with it ROS. Raises SegmentationError without that."""
    try:
        from segmentation_node.evaluation.live import evaluate
    except ImportError as error:
        raise SegmentationError(
            "live evaluation needs ROS (%s): source a distribution, or tools/env.sh" % error
        ) from error
    return evaluate


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.node) == bool(arguments.model):
        raise SegmentationError("give --model to start a node, or --node to use one that runs")
    if arguments.node:
        refuse_without_effect(arguments, OF_A_STARTED, "on a node that runs; give --model")
    if arguments.bag and arguments.dataset:
        raise SegmentationError("give either --bag or --dataset")
    if arguments.listen and arguments.dataset:
        raise SegmentationError("--listen hears a topic: give --image-topic or --bag")
    if arguments.listen and not (arguments.bag or arguments.image_topic):
        raise SegmentationError("--listen needs --image-topic, or --bag to take it from")
    if not (arguments.listen or arguments.bag or arguments.dataset):
        raise SegmentationError("nothing to play: give --bag, or --dataset with --root and --split")
    if arguments.dataset:
        refuse_without_effect(arguments, OF_A_BAG, "on a data set; give --bag")
    else:
        refuse_without_effect(arguments, OF_A_DATASET, "without --dataset; add it")
    if arguments.listen:
        refuse_without_effect(arguments, OF_A_PLAYER, "with --listen; drop it")
    else:
        refuse_without_effect(arguments, ("idle",), "without --listen; add it")
