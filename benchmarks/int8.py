"""``python -m benchmarks.int8 --model fast_elu_squeezenet_camvid --root CAMVID``: is int8 worth it?

Int8 forms of a shipped model's graph against the graph as shipped: time in turns on ONNX Runtime,
and on OpenVINO where it is installed; mean IoU on the validation split by the project's own
evaluation; size of the file. The first form is the one that ``training.export`` makes
(``training.quantise``); the others differ from it in what becomes int8, in notation or in how
ranges are found. A form wins if it takes 5 % less time or better at the model's own size and loses
one point of mean IoU or less. Sizes other than the model's are of the same weights and are timed
only.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from benchmarks import shown
from benchmarks.measured_models import write_class_map_graph
from benchmarks.options import Size, add_threads, installed, parser_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.timing import Spread, spread, take_turns
from segmentation_node.backends import Backend, BackendOptions, open_backend
from segmentation_node.backends.onnx_file import keep_output
from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.files import new_file
from segmentation_node.model_card import ArtifactInfo, ModelCard, open_model, sha256_of
from segmentation_node.pipeline import Batch, Segmenter
from training import quantise as training_quantise
from training.add_variants import graph_of
from training.quantise import CONVOLUTION, calibration_images, prepare

MOST_TIME = 0.95
MOST_LOSS = 0.01
RUN_TIMES = ("onnxruntime", "openvino")
FP32, PREPARED = "fp32", "prepared"
IMAGES_OF_OTHER_SIZES = 4
"""Ranges do not change the time."""
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


def main(arguments: list[str] | None = None) -> int:
    """Quantise, measure, write, print; a known error is one line and exit code 1."""
    options = parse(arguments)

    def run() -> int:
        settings = {
            "threads": options.threads,
            "calibration_images": options.images,
            "most_time": MOST_TIME,
            "most_loss": MOST_LOSS,
            "run_times": {name: version(name) for name in options.run_times},
        }
        record = Record("int8", settings, arguments)
        rows = measure_all(options)
        record.finish(rows, options.output, SHOWN)
        print("\n".join(verdicts(rows)))
        return 0

    return exit_code(run)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of("int8", __doc__)
    add = parser.add_argument
    add("--model", default="fast_elu_squeezenet_camvid", help="a model folder or a shipped name")
    add("--dataset", default="camvid")
    add("--root", default="", help="folder of the data set")
    add("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    add("--run-times", nargs="+", choices=RUN_TIMES, help="default: those installed")
    add("--other-sizes", nargs="*", type=size_of, default=[(360, 640), (720, 1280)])
    add("--images", type=int, default=64, help="training images that the ranges come from")
    add("--frames", type=int, default=10**6, help="most validation frames; 0: times alone")
    add_threads(parser)
    add("--rounds", type=int, default=5)
    add("--runs", type=int, default=5, help="counted runs of a round")
    add("--folder", type=Path, help="keeps the graphs here and takes those that it finds")
    options = parser.parse_args(arguments)
    options.run_times = options.run_times or installed({name: name for name in RUN_TIMES})
    return options


class Graphs:
    """A model's graphs by (variant, size) as files in a folder; those that lie there are kept."""

    def __init__(self, card: ModelCard, dataset: Dataset, images: int, folder: Path) -> None:
        self.card, self.dataset, self.images, self.folder = card, dataset, images, folder
        folder.mkdir(parents=True, exist_ok=True)

    def card_of(self, variant: str, size: Size) -> ModelCard:
        """The model's card as it would be with this graph, which gives a class map alone."""
        path = self.path(variant, size)
        return replace(
            self.card,
            folder=str(path.parent),
            input=replace(self.card.input, height=size[0], width=size[1]),
            outputs=["class_map"],
            artifacts=[ArtifactInfo(path.name, "onnx", sha256_of(str(path)), "benchmarks.int8")],
        )

    def path(self, variant: str, size: Size) -> Path:
        """The file, made where it is missing."""
        path = self.folder / f"{self.card.name}_{size_text(size)}_{variant}.onnx"
        if not path.exists():
            print(f"{path.name} ...", flush=True)
            with new_file(str(path)) as partial_path:
                self._make(variant, size, Path(partial_path))
        return path

    def _make(self, variant: str, size: Size, path: Path) -> None:
        shipped, is_own_size = Path(self.card.artifact_path("onnx")), size == self.card.input_size
        if variant == PREPARED:
            prepare(self.path(FP32, size), path)
        elif variant == FP32 and is_own_size:
            # As the backend runs it while nobody asks for the confidence.
            path.write_bytes(keep_output(shipped.read_bytes(), "class_map"))
        elif variant == FP32:
            write_class_map_graph(graph_of(self.card), self.card.label_set, size, path)
        else:
            wanted = self.images if is_own_size else IMAGES_OF_OTHER_SIZES
            shape, resize = (1, *size, 3), self.card.input.resize
            images_nhwc = calibration_images(self.dataset, shape, resize, wanted)
            quantise(self.path(PREPARED, size), VARIANTS[variant], images_nhwc, path)


def quantise(
    prepared: Path, variant: Variant, images_nhwc: Sequence[np.ndarray], output: Path
) -> None:
    """Write the int8 form of a prepared model; ranges come from images uint8 (1, H, W, 3).

    Ranges are kept beside the prepared model, for the other variants.
    """
    quantization = import_onnxruntime(".quantization")
    training_quantise.quantise(
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
        if validation is not None or VARIANTS[name].calibration == "MinMax"
    ]
    with ExitStack() as stack:
        backends: dict[tuple[str, str], Backend] = {}
        for name in options.run_times:
            for variant in variants:
                if variant not in UNREADABLE.get(name, ()):
                    card = graphs.card_of(variant, size)
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
            "bytes": graphs.path(variant, size).stat().st_size,
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
)


if __name__ == "__main__":
    sys.exit(main())
