"""Options that several commands share."""

import argparse
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, Callable, Iterator, Optional, Sequence, Type, TypeVar, Union

from segmentation_node import pipeline
from segmentation_node.backends import BACKENDS, BackendOptions
from segmentation_node.backends.choice import AUTO
from segmentation_node.backends.cpu import usable_cores
from segmentation_node.errors import BackendError, OutputError, SegmentationError
from segmentation_node.evaluation.datasets import DATASETS
from segmentation_node.evaluation.temperature import FIT, LEAST, MOST
from segmentation_node.geometry import Geometry, make_geometry
from segmentation_node.labels import LABEL_SETS, Grouping, read_grouping
from segmentation_node.model_card import open_model
from segmentation_node.pipeline import Segmenter

Picked = TypeVar("Picked")


def add_model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Which model runs, and on what."""
    parser.add_argument(
        "--model", required=required, help="a model folder, or a shipped model's name"
    )
    parser.set_defaults(size="")
    add_backend_options(parser)
    parser.add_argument(
        "--engine-dir",
        default=BackendOptions().engine_dir,
        metavar="FOLDER",
        help="where TensorRT engines lie, and what 'auto' measured",
    )


def add_size_option(parser: argparse.ArgumentParser) -> None:
    """Which of the model's sizes."""
    parser.add_argument(
        "--size",
        default="",
        metavar="HxW",
        help="height x width in pixels, of those that the model's card has; default: its own size",
    )


def add_backend_option(parser: Any) -> None:
    """What computes; for a parser or a group of one."""
    parser.add_argument(
        "--backend",
        default="auto",
        choices=["auto"] + sorted(BACKENDS),
        help="what computes; auto: the fastest here, measured (default: auto)",
    )


def add_backend_options(parser: Any) -> None:
    """What a model runs on; for a parser or a group of one."""
    add_backend_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32, tf32, fp16, bf16 or int8, as far as the backend has it; auto: the fastest that "
        "keeps the classes, by the model's card",
    )
    parser.add_argument(
        "--num-threads",
        type=at_least(0),
        default=0,
        metavar="N",
        help="CPU threads; default: 0, the backend's own choice among the cores it may use",
    )


def add_data_options(parser: Any, required: bool = True) -> None:
    """Which data set is read, and where it lies; for a parser or a group of one."""
    parser.add_argument(
        "--dataset",
        required=required,
        choices=sorted(DATASETS),
        metavar="NAME",
        help="one of " + ", ".join(sorted(DATASETS)),
    )
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="where the data set lies; street needs none"
    )


def add_split_option(
    parser: Any, text: str = "the part of the data set that is read", default: str = "val"
) -> None:
    """Which part of a data set is read."""
    parser.add_argument("--split", default=default, help=text)


def picked(kind: Type[Picked], arguments: argparse.Namespace, **others: Any) -> Picked:
    """A dataclass of what the options called as its fields give, and of ``others``."""
    names = [field.name for field in fields(kind) if hasattr(arguments, field.name)]  # type: ignore[arg-type]
    return kind(**{**{name: getattr(arguments, name) for name in names}, **others})


def refuse_without_effect(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise SegmentationError, which names them, where one of these options was given.

    ``arguments.default_of`` gives an option's default by name.
    """
    default_of = arguments.default_of
    given = [name for name in names if getattr(arguments, name) != default_of(name)]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SegmentationError(
            "%s: no effect %s, or drop these options"
            % (options.replace("--calibration", "--no-calibration"), why)
        )


def add_topic_options(parser: Any) -> None:
    """Which topics of a bag are meant, by default those that stand out; for a parser or a group."""
    parser.add_argument(
        "--image-topic", metavar="TOPIC", help="the images; default: the bag's one camera"
    )
    parser.add_argument(
        "--truth-topic",
        metavar="TOPIC",
        help="the ground truth; default: /ground_truth; '': score without it",
    )
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="label set of the ground truth, where no LabelInfo in the bag says it: %s, or a file"
        % ", ".join(LABEL_SETS),
    )


def add_geometry_options(parser: Any) -> None:
    """What of an image is seen and counts; for a parser or a group of one."""
    parser.add_argument(
        "--roi",
        nargs=4,
        type=int,
        default=[],
        metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="the part of the image, in pixels, that is segmented and scored; default: all of it",
    )
    parser.add_argument(
        "--rotation",
        type=int,
        default=0,
        metavar="DEGREES",
        help="clockwise turn that makes the image upright: 0, 90, 180 or 270; default: 0",
    )
    parser.add_argument(
        "--ignore-mask",
        default="",
        metavar="PNG",
        help="picture of the image's size; where it is not black, pixels count nowhere",
    )


def geometry_of(arguments: argparse.Namespace) -> Geometry:
    """What ``add_geometry_options`` asked for. Raises GeometryError."""
    return make_geometry(arguments.roi, arguments.rotation, arguments.ignore_mask)


@dataclass(frozen=True)
class OutputOptions:
    """What is counted, and where it goes.

    ``grouping`` folds classes into groups; ``json`` and ``html`` are files for the figures and for
    the page; ``strict`` ends the run at the first broken frame.
    """

    grouping: Optional[Grouping] = None
    json: Optional[str] = None
    html: Optional[str] = None
    strict: bool = False


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What is counted, where the figures go, and what ends a run."""
    parser.add_argument(
        "--grouping",
        metavar="FILE",
        help="score groups of classes: a YAML file like "
        "{name: drivable, groups: {drivable: [road, pavement], other: '*'}}",
    )
    parser.add_argument(
        "--json",
        type=writable,
        metavar="FILE",
        help="also write the figures, all of them, to this file",
    )
    parser.add_argument(
        "--html",
        type=writable,
        metavar="FILE",
        help="also write a page with figures, charts and pictures",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end at the first frame that cannot be read or segmented, instead of skipping it",
    )


def add_calibration_option(parser: argparse.ArgumentParser) -> None:
    """Whether labelled frames are run with confidence."""
    parser.add_argument(
        "--no-calibration",
        dest="calibration",
        action="store_false",
        help="do not measure whether the confidence is right: a tenth of the network's time less",
    )


def add_endpoint_option(parser: argparse.ArgumentParser) -> None:
    """Where the server of s3:// URLs is."""
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="of an S3 server such as MinIO, http://HOST:PORT; default: AWS",
    )


def output_options(arguments: argparse.Namespace) -> OutputOptions:
    """What ``add_output_options`` asked for."""
    grouping = read_grouping(arguments.grouping) if arguments.grouping else None
    return picked(OutputOptions, arguments, grouping=grouping)


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """How many images are segmented at a time."""
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=1,
        metavar="N",
        help="images segmented at a time, each on its share of the cores (onnxruntime and openvino "
        "only): sooner done, but stage times are those of a busy machine",
    )


@contextmanager
def open_segmenters(
    arguments: argparse.Namespace, geometry: Geometry
) -> Iterator[Sequence[Segmenter]]:
    """As many as ``--jobs`` asks for, closed in the end. Raises BackendError as they do.

    Without ``--num-threads`` each has its share of the cores.
    """
    jobs = arguments.jobs
    threads = arguments.num_threads
    if jobs > 1 and not threads:
        threads = max(1, usable_cores() // jobs)
    with ExitStack() as stack:
        first = stack.enter_context(open_segmenter(arguments, geometry, threads))
        segmenters, backend = [first], first.backend
        if jobs > 1 and not backend.several_at_once:
            raise BackendError(
                "--jobs %d: backend %s is one of a process; choose onnxruntime or openvino, or "
                "evaluation fleet, whose jobs are processes" % (jobs, backend.name)
            )
        while len(segmenters) < jobs:
            another = pipeline.open_segmenter(
                first.card, backend.name, backend.options, geometry=geometry
            )
            segmenters.append(stack.enter_context(another))
        yield segmenters


@contextmanager
def open_segmenter(
    arguments: argparse.Namespace, geometry: Geometry, threads: int = 0
) -> Iterator[Segmenter]:
    """The pipeline that ``add_model_options`` asks for, closed in the end."""
    options = BackendOptions(
        arguments.device,
        arguments.precision,
        threads or arguments.num_threads,
        arguments.engine_dir,
    )
    card = open_model(arguments.model, arguments.size)
    with pipeline.open_segmenter(card, arguments.backend, options, geometry=geometry) as segmenter:
        backend, choice = segmenter.backend, segmenter.batch.choice
        warnings = backend.warnings
        if choice is not None and AUTO in (arguments.backend, arguments.precision):
            print("backend %s (%s)" % (backend.name, choice.summary), file=sys.stderr)
            print("  " + choice.details, file=sys.stderr)
            warnings = list(choice.warnings) + warnings
        for line in warnings:
            print("warning: %s" % line, file=sys.stderr)
        yield segmenter


def positive(text: str) -> float:
    """A number above zero, for a parser."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("%s is not above 0" % text)
    return value


def temperature(text: str) -> Union[str, float]:
    """``FIT`` or a number from where that looks, for a parser."""
    return text if text == FIT else between(LEAST, MOST)(text)


def between(least: float, most: float) -> Callable[[str], float]:
    """A number from ``least`` to ``most``, for a parser."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError("%s is not from %g to %g" % (text, least, most))
        return value

    return number


def at_least(least: int) -> Callable[[str], int]:
    """A whole number from ``least`` on, for a parser."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError("%s is not %d or more" % (text, least))
        return value

    return number


def writable(path: str) -> str:
    """The path, if a file can be made there: a long run must not find out at its end.

    Raises OutputError.
    """
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(path):
        raise OutputError("%s is a folder; name a file" % path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise OutputError("%s: no file can be made in %s: name another place" % (path, folder))
    return path
