"""``python -m benchmarks.int8 --model fast_elu_squeezenet_camvid --root CAMVID``: is int8 worth it?

Int8 forms of a shipped model's graph (``benchmarks.int8_graphs``) against the graph as shipped:
time in turns on ONNX Runtime, and on OpenVINO where it is installed; mean IoU on the validation
split by the project's own evaluation; size of the file. A form wins if it takes 5 % less time or
better at the model's own size and loses one point of mean IoU or less. Sizes other than the model's
are of the same weights and are timed only.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import shown
from benchmarks.int8_graphs import FP32, VARIANTS, Graphs, card_of
from benchmarks.options import Size, add_threads, parser_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.timing import Spread, spread, take_turns
from segmentation_node.backends import BACKENDS, Backend, BackendOptions, open_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.model_card import open_model
from segmentation_node.pipeline import Batch, Segmenter

MOST_TIME = 0.95
MOST_LOSS = 0.01
RUN_TIMES = ("onnxruntime", "openvino")
UNREADABLE = {
    # OpenVINO 2026.4 takes the scales of QLinearConv's weights for those of its input channels.
    "openvino": [name for name, variant in VARIANTS.items() if variant.format == "qoperator"]
}


def main(arguments: list[str] | None = None) -> int:
    """Quantise, measure, write, print; a known error is one line and exit code 1."""
    options = parse(arguments)
    settings = {
        "threads": options.threads,
        "calibration_images": options.images,
        "most_time": MOST_TIME,
        "most_loss": MOST_LOSS,
        "run_times": {name: version(name) for name in options.run_times},
    }
    record = Record("int8", settings, arguments)
    try:
        rows = measure_all(options)
    except SegmentationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    record.finish(rows, options.output, SHOWN)
    print("\n".join(verdicts(rows)))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of("int8", __doc__)
    add = parser.add_argument
    add("--model", default="fast_elu_squeezenet_camvid", help="a model folder or a shipped name")
    add("--dataset", default="camvid")
    add("--root", default="", help="folder of the data set")
    # Entropy looks for each range for seconds.
    usual = [name for name, variant in VARIANTS.items() if variant.calibration != "entropy"]
    add("--variants", nargs="+", default=usual, choices=list(VARIANTS))
    add("--run-times", nargs="+", choices=RUN_TIMES, help="default: those installed")
    add("--other-sizes", nargs="*", type=size_of, default=[(360, 640), (720, 1280)])
    add("--images", type=int, default=64, help="training images that the ranges come from")
    add("--frames", type=int, default=10**6, help="most validation frames; 0: times alone")
    add_threads(parser)
    add("--rounds", type=int, default=5)
    add("--runs", type=int, default=5, help="counted runs of a round")
    add("--folder", type=Path, help="keeps the graphs here and takes those that it finds")
    options = parser.parse_args(arguments)
    if options.run_times is None:
        missing = {name: BACKENDS[name].unavailable() for name in RUN_TIMES}
        print("".join(f"{name} is left out: {why}\n" for name, why in missing.items() if why))
        options.run_times = [name for name, why in missing.items() if not why]
    return options


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all sizes."""
    card = open_model(options.model)
    training = open_dataset(options.dataset, options.root, "train")
    validation = open_dataset(options.dataset, options.root, "val") if options.frames else None
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        graphs = Graphs(card, training, options.images, options.folder or Path(scratch))
        for size in (card.input_size, *options.other_sizes):
            scored = validation if size == card.input_size else None
            rows += measure(graphs, size, scored, options)
    return rows


def measure(
    graphs: Graphs, size: Size, validation: Dataset | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of every variant on every run time at one size; without ``validation`` times alone."""
    image_nhwc = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    # Where only time counts, other ranges make no difference.
    variants = [FP32] + [
        name
        for name in options.variants
        if validation is not None or VARIANTS[name].calibration == "minmax"
    ]
    paths = {variant: graphs.path(variant, size) for variant in variants}
    with ExitStack() as stack:
        backends: dict[tuple[str, str], Backend] = {}
        for name in options.run_times:
            for variant in variants:
                if variant not in UNREADABLE.get(name, ()):
                    card = card_of(graphs.card, paths[variant], size)
                    opened = open_backend(name, card, BackendOptions(num_threads=options.threads))
                    backends[name, variant] = stack.enter_context(opened)
        scores: dict[Any, float | None] = dict.fromkeys(backends)
        if validation is not None:
            for (name, variant), backend in backends.items():
                print(f"{variant} on {name} ...", flush=True)
                scores[name, variant] = mean_iou(backend, validation, options.frames)
        print(f"{size_text(size)}, in turns ...", flush=True)
        calls = {pair: partial(backend.run, image_nhwc) for pair, backend in backends.items()}
        times_ms = take_turns(calls, options.rounds, options.runs)
    medians_ms = {pair: float(np.median(found)) for pair, found in times_ms.items()}
    return [
        {
            "model": graphs.card.name,
            "variant": variant,
            "run_time": name,
            "image": size_text(size),
            **spread(times_ms[name, variant]),
            "ratio": medians_ms[name, variant] / medians_ms[name, FP32],
            "mean_iou": scores[name, variant],
            "bytes": paths[variant].stat().st_size,
        }
        for name, variant in backends
    ]


def mean_iou(backend: Backend, dataset: Dataset, frames: int) -> float:
    """Mean IoU on the first frames of a data set, as the evaluation counts it."""
    count = min(frames, len(dataset))
    run = evaluate_dataset(Segmenter(Batch(backend)), dataset, range(count), progress_bar(count))
    return run.accuracy.matrix.mean_iou()


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each run time: which int8 forms win by the rule, or that none does."""
    lines = []
    for name in dict.fromkeys(row["run_time"] for row in rows):
        judged = [row for row in rows if row["run_time"] == name and row["mean_iou"] is not None]
        fp32 = [row["mean_iou"] for row in judged if row["variant"] == FP32]
        winners = [
            f"{row['variant']} ({1 / row['ratio']:.2f} times as fast)"
            for row in judged
            if row["ratio"] <= MOST_TIME and fp32[0] - row["mean_iou"] <= MOST_LOSS
            if row["variant"] != FP32
        ]
        if judged:
            lines.append(f"{name}: {', '.join(winners) or 'no int8 form'} wins over fp32")
    return lines


class Form(Spread):
    """A form of the graph on a run time."""

    model: str
    variant: str  # in VARIANTS, or fp32
    run_time: str
    image: str
    ratio: float  # of the fp32 graph's median on the same run time
    mean_iou: float | None  # on the validation split; at other sizes than the model's unknown
    bytes: int  # of the file


def _line(record: dict[str, Any]) -> str:
    """The fastest int8 form that was scored, by run time."""
    rows = [row for row in record["results"] if row["mean_iou"] is not None]
    parts = []
    for name in dict.fromkeys(row["run_time"] for row in rows):
        (fp32, *others) = [row for row in rows if row["run_time"] == name]
        if others:
            best = min(others, key=lambda row: float(row["ratio"]))
            points = 100 * (best["mean_iou"] - fp32["mean_iou"])
            time = f"{best['ratio']:.2f} of fp32's time on {shown.run_time(best)}"
            parts.append(f"{time}, mean IoU {points:+.1f} points")
    if not parts:
        return "No int8 form was scored."
    return f"The fastest int8 form of `{rows[0]['model']}`: {'; '.join(parts)}."


SHOWN = shown.Shown(
    rows={"": Form},
    tables={
        "int8": shown.columns(
            {
                "Form": "{variant}",
                "Run time": shown.run_time,
                "Image": "{image}",
                "Median (p95)": "{median_ms:.1f} ({p95_ms:.1f}) ms",
                "Of fp32's": "{ratio:.2f}",
                "Mean IoU": "{mean_iou:.1%}",
                "Size": lambda row: f"{row['bytes'] / 1e6:.2f} MB",
            }
        )
    },
    line=_line,
)


if __name__ == "__main__":
    sys.exit(main())
