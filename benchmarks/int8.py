"""``python -m benchmarks.int8 --model fast_elu_squeezenet_camvid --root CAMVID``: is int8 worth it?

Int8 forms of a shipped model's graph (``benchmarks.quantise``) against the graph as shipped: time
in turns on ONNX Runtime, and on OpenVINO where it is installed; mean IoU on the validation split by
the project's own evaluation; size of the file. A form wins if it takes 5 % less time or better at
the model's own size and loses one point of mean IoU or less. Sizes other than the model's are of
the same weights and are timed only.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.int8_graphs import FP32, Graphs, card_of
from benchmarks.processor import usable_cores
from benchmarks.quantise import VARIANTS
from benchmarks.record import RESULTS, Record
from benchmarks.timing import spread, take_turns
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.base import Backend, Prediction
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.evaluation.report import table
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.pipeline import Segmenter

MOST_TIME = 0.95
MOST_LOSS = 0.01

Segment = Callable[[np.ndarray], np.ndarray]
"""Image uint8 (1, H, W, 3) -> class map uint8 (1, H, W)."""


def on_backend(name: str, graph: ModelCard, threads: int) -> Segment:
    """The graph on one of the node's own backends; what is not int8 in it stays in float32."""
    backend = open_backend(name, graph, BackendOptions(num_threads=threads))
    return lambda image: backend.run(image).class_map_nhw


RUN_TIMES: dict[str, Callable[[ModelCard, int], Segment]] = {
    name: functools.partial(on_backend, name) for name in ("onnxruntime", "openvino")
}
UNREADABLE = {
    # OpenVINO 2026.4 takes the scales of QLinearConv's weights for those of its input channels.
    "openvino": [name for name, variant in VARIANTS.items() if variant.format == "qoperator"]
}


class GraphBackend(Backend):
    """A graph that no card names, behind the interface that the evaluation takes."""

    name = "graph"
    artifact_kind = "onnx"
    precisions = ("fp32",)

    def __init__(self, card: ModelCard, segment: Segment) -> None:
        self._segment = segment
        super().__init__(card, BackendOptions())

    @classmethod
    def unavailable(cls) -> str:
        return ""

    def _load(self, artifact_path: str) -> None:
        self.device = "cpu"

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        return Prediction(self._segment(image_nhwc), None)

    def _close(self) -> None:
        del self._segment


def mean_iou(card: ModelCard, segment: Segment, dataset: Dataset, frames: int) -> float:
    """Mean IoU of the graph on the first frames of a data set, as the evaluation counts it."""
    count = min(frames, len(dataset))
    with GraphBackend(card, segment) as backend:
        run = evaluate_dataset(Segmenter(backend), dataset, range(count), progress_bar(count))
    return run.accuracy.matrix.mean_iou()


def measure(
    graphs: Graphs, size: tuple[int, int], validation: Dataset | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of every variant on every run time at one size; without ``validation`` times alone."""
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    card = graphs.card
    variants = [FP32]
    # Where only time counts, other ranges make no difference.
    variants += [
        name
        for name in options.variants
        if validation is not None or VARIANTS[name].calibration == "minmax"
    ]
    names = [
        (kind, variant)
        for kind in options.run_times
        for variant in variants
        if variant not in UNREADABLE.get(kind, ())
    ]
    paths = {variant: graphs.path(variant, size) for variant in variants}
    runs = {
        name: RUN_TIMES[name[0]](card_of(card, paths[name[1]], size), options.threads)
        for name in names
    }
    scores: dict[Any, float | None] = dict.fromkeys(names)
    if validation is not None:
        for name in names:
            scores[name] = mean_iou(card, runs[name], validation, options.frames)
            print(f"{name[1]} on {name[0]}: mean IoU {scores[name]:.2%}", flush=True)
    print(f"{size[1]}x{size[0]}, in turns ...", flush=True)
    calls = {name: functools.partial(run, image) for name, run in runs.items()}
    times_ms = take_turns(calls, options.rounds, options.runs)
    medians_ms = {name: float(np.median(times_ms[name])) for name in names}
    return [
        {
            "model": card.name,
            "variant": variant,
            "run_time": kind,
            "image": f"{size[1]}x{size[0]}",
            **spread(times_ms[kind, variant]),
            "ratio": medians_ms[kind, variant] / medians_ms[kind, FP32],
            "mean_iou": scores[kind, variant],
            "bytes": paths[variant].stat().st_size,
        }
        for kind, variant in names
    ]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each run time: which int8 forms win by the rule, or that none does."""
    lines = []
    for kind in dict.fromkeys(row["run_time"] for row in rows):
        judged = [row for row in rows if row["run_time"] == kind and row["mean_iou"] is not None]
        fp32 = [row["mean_iou"] for row in judged if row["variant"] == FP32]
        winners = [
            f"{row['variant']} ({1 / row['ratio']:.2f} times as fast)"
            for row in judged
            if row["ratio"] <= MOST_TIME and fp32[0] - row["mean_iou"] <= MOST_LOSS
            if row["variant"] != FP32
        ]
        if judged:
            lines.append(f"{kind}: {', '.join(winners) or 'no int8 form'} wins over fp32")
    return lines


def summary(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    header = ["variant", "run time", "image", "median ms", "p95 ms", "of fp32's", "mIoU %", "MB"]
    cells = [
        [
            row["variant"],
            row["run_time"],
            row["image"],
            f"{row['median_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['ratio']:.2f}",
            "" if row["mean_iou"] is None else f"{100 * row['mean_iou']:.2f}",
            f"{row['bytes'] / 1e6:.2f}",
        ]
        for row in rows
    ]
    return table(header, cells)


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.split("x"))
    return height, width


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.int8", description=__doc__)
    add = parser.add_argument
    add("--model", default="fast_elu_squeezenet_camvid", help="a model folder or a shipped name")
    add("--dataset", default="camvid")
    add("--root", default="", help="folder of the data set")
    # Entropy looks for each range for seconds.
    usual = [name for name, variant in VARIANTS.items() if variant.calibration != "entropy"]
    add("--variants", nargs="+", default=usual, choices=list(VARIANTS))
    add("--run-times", nargs="+", choices=list(RUN_TIMES), help="default: those installed")
    add("--other-sizes", nargs="*", type=size_of, default=[(360, 640), (720, 1280)])
    add("--images", type=int, default=64, help="training images that the ranges come from")
    add("--frames", type=int, default=10**6, help="most validation frames; 0: times alone")
    add("--threads", type=int, default=usable_cores())
    add("--rounds", type=int, default=5)
    add("--runs", type=int, default=5, help="counted runs of a round")
    add("--folder", type=Path, help="keeps the graphs here and takes those that it finds")
    add("--output", type=Path, default=RESULTS / "int8.json")
    options = parser.parse_args(arguments)
    if options.run_times is None:
        options.run_times = [kind for kind in RUN_TIMES if importlib.util.find_spec(kind)]
        for kind in RUN_TIMES:
            if kind not in options.run_times:
                print(f"{kind} is not installed: left out")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Quantise, measure, print, write; a known error is one line and exit code 1."""
    options = parse(arguments)
    settings = {
        "threads": options.threads,
        "calibration_images": options.images,
        "most_time": MOST_TIME,
        "most_loss": MOST_LOSS,
        "run_times": {kind: importlib.metadata.version(kind) for kind in options.run_times},
    }
    record = Record("int8", settings)
    try:
        rows = measure_all(options)
    except SegmentationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(verdicts(rows)))
    record.write(rows, options.output)
    return 0


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all sizes; each size's table is printed when it is done."""
    card = open_model(options.model)
    training = open_dataset(options.dataset, options.root, "train")
    validation = open_dataset(options.dataset, options.root, "val") if options.frames else None
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        graphs = Graphs(card, training, options.images, options.folder or Path(scratch))
        for size in (card.input_size, *options.other_sizes):
            scored = validation if size == card.input_size else None
            found = measure(graphs, size, scored, options)
            print(summary(found), flush=True)
            rows += found
    return rows


if __name__ == "__main__":
    sys.exit(main())
