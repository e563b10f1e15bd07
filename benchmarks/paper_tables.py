"""``python -m benchmarks.paper_tables``: the tables of Nervana's article on SegNet, our columns.

Table 1: time of a training step's forward pass (in training mode, batch statistics) and of its
backward pass (cross-entropy summed over pixels, gradients of all parameters), and of both; the
update of the weights is not in it. A batch of 4 at 512x256 (width x height) as in the article,
trained on 12 classes as there, and one image at 256x128.
Table 2: whole training steps of one batch over 1, 2 and 4 processes: gloo on the CPU, whose cores
the processes divide; NCCL on GPUs, one process each. Time per image, and speed-up over the first.

Images and labels are random and ready on the device. Never run on a GPU yet.
"""

import argparse
import sys
import time
from itertools import product
from typing import Any, NamedTuple, TypedDict

import torch
from torch import nn
from torch.nn import functional

from benchmarks import data_parallel, shown
from benchmarks.data_parallel import Load
from benchmarks.machine import gpu_facts
from benchmarks.options import Size, add_threads, parser_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.timing import Stopwatch, spread
from segmentation_node.errors import SegmentationError
from segmentation_node.networks import NETWORKS, build_network
from training.step import AMP_TYPES
from training.train import prepare_arithmetic

NETWORKS_SHOWN = ("segnet", "elu_squeezenet", "enet", "fast_elu_squeezenet")
PRECISIONS = ("fp32", "tf32", "bf16")
CLASSES = 12
MOST_STEPS = 100
LEAST_STEPS = 3
WARM_UP_STEPS = {"cpu": 1, "cuda": 10}
STEPS = {"cpu": 4, "cuda": 50}


class Case(NamedTuple):
    """So many images in one step."""

    batch: int
    size: Size


CASES = (Case(4, (256, 512)), Case(1, (128, 256)))
PARALLEL_CASES = {"cpu": Case(4, (128, 256)), "cuda": Case(16, (256, 512))}
PARTS = ("forward", "backward", "total")
PUBLISHED: dict[tuple[str, Case], tuple[tuple[int | None, ...], str]] = {
    ("segnet", CASES[0]): (
        (101, 164, 265),
        "neon, in the article (its repository, on a Titan X: 109, 193, 302)",
    ),
    ("segnet", CASES[1]): ((97, None, None), "inference on a TX-1, in the article"),
}
"""Times in ms of ``PARTS``, None where none was given, and where they were measured."""


def measure_step(load: Load, threads: int, seconds: float) -> dict[str, Any]:
    """The row of Table 1 of one network: medians over as many steps as fit in ``seconds``."""
    prepare_arithmetic(data_parallel.recipe_of(load), threads)
    device = torch.device(load.device)
    torch.manual_seed(0)
    network = build_network(load.network, load.classes, {}).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = (part.to(device) for part in data_parallel.random_batch(load))
    # About what normalisation gives, so that nothing overflows or saturates.
    images = (images / 64 - 2).contiguous(memory_format=torch.channels_last)
    laps_ms = _steps(network, images, labels, load.precision, seconds)
    forward_ms, backward_ms = zip(*laps_ms, strict=True)
    total = spread([sum(laps) for laps in laps_ms])
    case = (load.network, Case(load.batch, load.size))
    published, published_on = PUBLISHED.get(case, ((None,) * len(PARTS), None))
    return {
        "table": "article_1",
        "network": load.network,
        "image": size_text(load.size),
        "batch": load.batch,
        "classes": load.classes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": load.precision,
        "steps": total["runs"],
        "forward_ms": spread(list(forward_ms))["median_ms"],
        "backward_ms": spread(list(backward_ms))["median_ms"],
        "total_ms": total["median_ms"],
        "total_p95_ms": total["p95_ms"],
        **{f"published_{part}_ms": ms for part, ms in zip(PARTS, published)},
        "published_on": published_on,
    }


def _steps(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str, seconds: float
) -> list[tuple[float, float]]:
    """Forward and backward times in ms of the steps after warm-up."""
    device = images.device
    stopwatch = Stopwatch(device)
    found: list[tuple[float, float]] = []
    for _ in range(WARM_UP_STEPS[device.type]):
        _step(network, images, labels, precision, stopwatch)
    started_s = time.perf_counter()
    while len(found) < LEAST_STEPS or (
        len(found) < MOST_STEPS and time.perf_counter() - started_s < seconds
    ):
        found.append(_step(network, images, labels, precision, stopwatch))
    return found


def _step(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: str,
    stopwatch: Stopwatch,
) -> tuple[float, float]:
    network.zero_grad(set_to_none=True)
    dtype = AMP_TYPES.get(precision)
    stopwatch.mark()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        logits = network(images)
    stopwatch.mark()
    functional.cross_entropy(logits.float(), labels, reduction="sum").backward()
    stopwatch.mark()
    forward_ms, backward_ms = stopwatch.laps_ms()
    return forward_ms, backward_ms


def measure_parallel(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of Table 2."""
    rows = []
    for processes in options.processes:
        if options.device == "cuda" and processes > torch.cuda.device_count():
            found = torch.cuda.device_count()
            print(f"NOT RUN: {processes} processes need {processes} GPUs, found {found}")
            continue
        threads = max(1, options.threads // processes)
        print(f"{options.parallel_network}, {processes} x {threads} threads ...", flush=True)
        case, precision = options.parallel_case, options.precision[0]
        load = _load(options, options.parallel_network, case, precision)
        rows.append(data_parallel.measure(load, processes, threads))
    if rows:
        data_parallel.add_speed_up(rows)
    return rows


def case_of(text: str) -> Case:
    """BATCHxWIDTHxHEIGHT."""
    batch, _, size = text.partition("x")
    return Case(int(batch), size_of(size))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    parser = parser_of("paper_tables", __doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    add("--tables", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    add("--networks", nargs="+", choices=sorted(NETWORKS), default=NETWORKS_SHOWN)
    add("--cases", nargs="+", default=CASES, type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--classes", type=int, default=CLASSES)
    add(
        "--seconds",
        type=float,
        default=6.0,
        help=f"of each row of Table 1; {LEAST_STEPS} steps at least",
    )
    add_threads(parser, "of all processes together")
    add("--processes", nargs="+", type=int, default=[1, 2, 4])
    add("--parallel-network", choices=sorted(NETWORKS), default="segnet")
    add("--parallel-case", type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--steps", type=int, help="counted steps of each row of Table 2")
    options = parser.parse_args(arguments)
    options.parallel_case = options.parallel_case or PARALLEL_CASES[options.device]
    options.steps = options.steps or STEPS[options.device]
    for processes in options.processes:
        if options.parallel_case.batch % processes:
            parser.error(f"a batch of {options.parallel_case.batch} does not divide by {processes}")
    return options


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that were asked for."""
    rows: list[dict[str, Any]] = []
    cases = options.cases if 1 in options.tables else ()
    for case, network, precision in product(cases, options.networks, options.precision):
        print(f"{network}, {case.batch} x {size_text(case.size)}, {precision} ...", flush=True)
        load = _load(options, network, case, precision)
        rows.append(measure_step(load, options.threads, options.seconds))
    return rows + (measure_parallel(options) if 2 in options.tables else [])


def _load(options: argparse.Namespace, network: str, case: Case, precision: str) -> Load:
    return Load(
        network,
        case.size,
        case.batch,
        options.classes,
        options.device,
        precision,
        options.steps,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 where the device is missing or a process failed."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("NOT RUN: PyTorch finds no GPU; --device cpu measures the CPU", file=sys.stderr)
        return 1
    settings = {"device": options.device, "precision": options.precision}
    if options.device == "cuda":
        settings["gpu"] = gpu_facts("cuda")
    record = Record("paper_tables", settings, arguments)
    try:
        rows = measure(options)
    except SegmentationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    record.finish(rows, options.output, SHOWN)
    return 0


class Step(TypedDict):
    """Table 1: one training step without the update of the weights."""

    table: str  # article_1
    network: str
    image: str
    batch: int
    classes: int
    device: str
    threads: int
    precision: str
    steps: int  # counted
    forward_ms: float
    backward_ms: float
    total_ms: float
    total_p95_ms: float
    published_forward_ms: float | None
    published_backward_ms: float | None
    published_total_ms: float | None
    published_on: str | None


def _published(row: shown.Row) -> str:
    found = [row[f"published_{part}_ms"] for part in PARTS]
    if found[0] is None:
        return shown.NOT_MEASURED
    times = ", ".join(f"{ms:.0f}" for ms in found if ms is not None)
    return f"{times} ms: {row['published_on']}"


def _line(record: dict[str, Any]) -> str:
    """The step of SegNet that the article times, where it was measured."""
    rows = [row for row in record["results"] if row.get("published_total_ms") is not None]
    if not rows:
        return "The step that the article times was not measured."
    row = rows[0]
    ours, published = (
        shown.listed([f"{row[f'{prefix}{part}_ms']:.0f}" for part in PARTS])
        for prefix in ("", "published_")
    )
    return (
        f"A training step of `{row['network']}` with {row['batch']} images of {row['image']} in "
        f"{row['precision']} takes {ours} ms forward, backward and in total ({published} ms "
        f"published, {row['published_on']})."
    )


SHOWN = shown.Shown(
    rows={"": Step, "processes": data_parallel.Spread},
    tables={
        "paper_tables.article_1": shown.columns(
            {
                "Network": "`{network}`",
                "Image": "{image}",
                "Batch": "{batch}",
                "Precision": "{precision}",
                "Forward": "{forward_ms:.0f} ms",
                "Backward": "{backward_ms:.0f} ms",
                "Total": "{total_ms:.0f} ms",
                "Published": _published,
            },
            where=lambda row: row["table"] == "article_1",
        ),
        "paper_tables.article_2": shown.columns(
            {
                "network": "{network}",
                "image": "{image}",
                "batch": "{batch}",
                "processes": "{processes}",
                "threads per process": "{threads_per_process}",
                "ms per image": "{ms_per_image:.4g}",
                "speed up": "{speed_up:.4g}",
                "efficiency": "{efficiency:.4g}",
                "is oversubscribed": shown.yes_or_no("is_oversubscribed"),
            },
            where=lambda row: row["table"] == "article_2",
        ),
    },
    line=_line,
)


if __name__ == "__main__":
    sys.exit(main())
