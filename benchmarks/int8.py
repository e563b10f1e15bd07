"""``python -m benchmarks.int8``: is an int8 form of a shipped model worth it, time and mean IoU.

Int8 forms of a shipped model's graph against the graph as shipped: time in turns on ONNX Runtime,
and on OpenVINO where it is installed; mean IoU on the validation split by the project's own
evaluation; size of the file. The first form is the one that ``training.export`` makes
(``importing.quantise``); the others differ from it in what becomes int8, in notation or in how
ranges are found. A form wins if it takes 5 % less time or better at the model's own size and loses
one point of mean IoU or less. Sizes other than the model's are of the same weights and are timed
only.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from benchmarks import CAMERA_SIZES, MODEL, end_with, shown
from benchmarks.measured_models import resized
from benchmarks.options import THREADS, installed, parser_of, settings_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import spread, take_turns
from segmentation_node.backends import Backend, BackendOptions, open_backend
from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.importing import quantise as importing_quantise
from segmentation_node.importing.quantise import CONVOLUTION, prepare
from segmentation_node.model_card import ArtifactInfo, ModelCard, open_model, sha256_of
from segmentation_node.pipeline import Batch, Segmenter
from training.network_images import network_images

MOST_TIME = 0.95
MOST_LOSS = 0.01
RUN_TIMES = ["onnxruntime", "openvino"]
FP32 = "fp32"
IMAGES_OF_OTHER_SIZES = 4
BETWEEN = ("Add", "Concat", "MaxPool", "Resize")
"""What can pass 8 bits on from one convolution to the next. An ELU cannot: ONNX Runtime has none
in 8 bits, so that values become float and 8 bits again around it."""


class Variant(NamedTuple):
    """What becomes int8; notation and search of ranges by ONNX Runtime's names."""

    format: str = "QDQ"
    calibration: str = "MinMax"
    only_3x3: bool = False
    with_between: bool = False


VARIANTS = {
    "convolutions": Variant(),
    "convolutions_percentile": Variant(calibration="Percentile"),
    "convolutions_qoperator": Variant(format="QOperator"),
    "convolutions_3x3": Variant(only_3x3=True),
    "convolutions_and_between": Variant(with_between=True),
}
UNREADABLE = {
    # OpenVINO 2026.4 takes the scales of QLinearConv's weights for those of its input channels.
    "openvino": [name for name, variant in VARIANTS.items() if variant.format == "QOperator"]
}


def main(arguments: list[str] | None = None) -> None:
    """Quantise, measure, write, print."""
    defaults: dict[str, Any] = {"model": MODEL, "dataset": "camvid", "root": ""}
    defaults.update(variants=list(VARIANTS))
    defaults.update(run_times=RUN_TIMES, images=64, rounds=5, runs=5, threads=THREADS)
    choices = {"variants": VARIANTS, "run_times": RUN_TIMES}
    parser = parser_of("int8", __doc__, choices, **defaults)
    add = parser.add_argument
    add(
        "--other-sizes",
        nargs="*",
        type=size_of,
        default=CAMERA_SIZES,
        metavar="WIDTHxHEIGHT",
        help="sizes beside the model's own, which are timed only; default: 640x360 1280x720",
    )
    add(
        "--frames",
        type=int,
        default=10**6,
        metavar="N",
        help="most pictures of val that are scored, 0: none; default: all",
    )
    options = parser.parse_args(arguments)
    options.run_times = installed({name: name for name in options.run_times})
    versions = {name: version(name) for name in options.run_times}
    settings = settings_of(options, run_times=versions)
    settings.update(most_time=MOST_TIME, most_loss=MOST_LOSS)
    record, rows = Record("int8", settings, arguments), []
    card = open_model(options.model)
    training = open_dataset(options.dataset, options.root, "train")
    validation = open_dataset(options.dataset, options.root, "val") if options.frames else None
    with tempfile.TemporaryDirectory() as folder:
        rows += measure(card, training, validation, options)
        for size in options.other_sizes:
            at_size = resized(card, size, Path(folder))
            rows += measure(at_size, training, None, options)
    record.finish(rows, options.output, SHOWN)


def quantised(
    card: ModelCard, variants: Sequence[str], training: Dataset, images: int, folder: Path
) -> dict[str, ModelCard]:
    """The card with the graph of each variant, made in ``folder``, in place of its own."""
    prepared, found = folder / "prepared.onnx", {}
    prepare(Path(card.artifact_path("onnx")), prepared)
    shape_nhwc = (1, *card.input_size, 3)
    images_nhwc = list(network_images(training, shape_nhwc, card.input.resize, images))
    for name in variants:
        path = folder / f"{name}.onnx"
        print(f"{card.name} {size_text(card.input_size)}, {name} ...", flush=True)
        quantise(prepared, VARIANTS[name], images_nhwc, path)
        artifact = ArtifactInfo(path.name, "onnx", sha256_of(str(path)), "benchmarks.int8")
        found[name] = replace(card, folder=str(folder), artifacts=[artifact])
    return found


def quantise(
    prepared: Path, variant: Variant, images_nhwc: Sequence[np.ndarray], output: Path
) -> None:
    """Write the int8 form of a prepared model; ranges come from images uint8 (1, H, W, 3).

    Ranges are kept beside the prepared model, for the other variants.
    """
    quantization = import_onnxruntime(".quantization")
    importing_quantise.quantise(
        prepared,
        nodes_to_quantise(onnx.load(prepared), variant),
        images_nhwc,
        output,
        # Of these the ranges are looked at, so that they serve all variants.
        operators=[CONVOLUTION, *BETWEEN],
        notation=quantization.QuantFormat[variant.format],
        calibration=quantization.CalibrationMethod[variant.calibration],
    )


def nodes_to_quantise(model: onnx.ModelProto, variant: Variant) -> list[str]:
    """Names of the nodes between the first and the last convolution that become int8."""
    nodes = list(model.graph.node)
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == CONVOLUTION]
    wanted = (CONVOLUTION, *(BETWEEN if variant.with_between else ()))
    return [
        node.name
        for node in nodes[convolutions[0] + 1 : convolutions[-1]]
        if node.op_type in wanted and not (variant.only_3x3 and not _is_3x3(node))
    ]


def _is_3x3(node: Any) -> bool:
    return any(item.name == "kernel_shape" and list(item.ints) == [3, 3] for item in node.attribute)


def measure(
    card: ModelCard, training: Dataset, validation: Dataset | None, options: argparse.Namespace
) -> list[Row]:
    """Rows of every variant on every run time; without ``validation`` times alone."""
    size, images, variants = card.input_size, options.images, options.variants
    if validation is None:  # ranges do not change the time
        images = IMAGES_OF_OTHER_SIZES
        variants = [name for name in variants if VARIANTS[name].calibration == "MinMax"]
    backends: dict[tuple[str, str], Backend] = {}
    scores: dict[tuple[str, str], float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cards = {FP32: card, **quantised(card, variants, training, images, folder)}
        for name, variant in product(options.run_times, cards):
            if variant in UNREADABLE.get(name, ()):
                continue
            opening = BackendOptions(num_threads=options.threads)
            opened = stack.enter_context(open_backend(name, cards[variant], opening))
            backends[name, variant] = opened
            if validation is not None:
                print(f"{variant} on {name} ...", flush=True)
                scores[name, variant] = mean_iou(opened, validation, options.frames)
        print(f"{size_text(size)}, in turns ...", flush=True)
        image_nhwc = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
        calls = {pair: partial(backend.run, image_nhwc) for pair, backend in backends.items()}
        times_ms = take_turns(calls, options.rounds, options.runs)
        sizes = {name: Path(it.artifact_path("onnx")).stat().st_size for name, it in cards.items()}
    return [
        {
            "model": card.name,
            "variant": variant,
            "run_time": name,
            "image": size_text(size),
            **spread(found),
            "ratio": float(np.median(found) / np.median(times_ms[name, FP32])),
            "mean_iou": scores.get((name, variant)),  # unknown at other sizes than the model's
            "bytes": sizes[variant],
        }
        for (name, variant), found in times_ms.items()
    ]


def mean_iou(backend: Backend, dataset: Dataset, frames: int) -> float:
    """Mean IoU on the first frames of a data set, as the evaluation counts it."""
    count = min(frames, len(dataset))
    run = evaluate_dataset(Segmenter(Batch(backend)), dataset, range(count), progress_bar(count))
    return run.accuracy.matrix.mean_iou()


def _line(record: Row) -> str:
    """For each run time which int8 forms win by the rule, or that none does."""
    rows = [row for row in record["results"] if row["mean_iou"] is not None]
    parts = []
    for fp32 in (row for row in rows if row["variant"] == FP32):
        winners = [
            f"`{row['variant']}` ({1 / row['ratio']:.2f} times as fast)"
            for row in rows
            if row["run_time"] == fp32["run_time"] and row is not fp32
            if row["ratio"] <= MOST_TIME and fp32["mean_iou"] - row["mean_iou"] <= MOST_LOSS
        ]
        found = ", ".join(winners) or "no int8 form"
        parts.append(f"{shown.run_time(fp32)}: {found} wins over fp32.")
    return "\n".join(parts)


SHOWN = shown.one_table(
    "int8",
    {
        "Form": "{variant}",
        "Run time": shown.run_time,
        "Image": "{image}",
        "Median (p95)": "{median_ms:.1f} ({p95_ms:.1f}) ms",
        "Of fp32's": "{ratio:.2f}",
        "Mean IoU": "{mean_iou:.1%}",
        "Size": lambda row: f"{row['bytes'] / 1e6:.2f} MB",
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
