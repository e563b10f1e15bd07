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
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks import data_parallel
from benchmarks.data_parallel import Load
from benchmarks.machine import gpu_facts
from benchmarks.processor import usable_cores
from benchmarks.record import RESULTS, Record
from benchmarks.stopwatch import Stopwatch
from benchmarks.timing import spread
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.report import table
from segmentation_node.networks import NETWORKS, build_network
from training.step import AMP_TYPES
from training.train import prepare_arithmetic

NETWORKS_SHOWN = ("segnet", "elu_squeezenet", "enet", "fast_elu_squeezenet")
PRECISIONS = ("fp32", "tf32", "bf16")
CLASSES = 12
MOST_STEPS = 100
LEAST_STEPS = 3
WARM_UP_STEPS = {"cpu": 1, "cuda": 10}


class Case(NamedTuple):
    """So many images of (height, width) in one step."""

    batch: int
    size: tuple[int, int]


class Published(NamedTuple):
    """Times in ms that somebody else measured."""

    forward_ms: float
    backward_ms: float
    total_ms: float
    on: str


CASES = (Case(4, (256, 512)), Case(1, (128, 256)))
QUICK_CASES = CASES[1:]
PARALLEL_CASES = {"cpu": Case(4, (128, 256)), "cuda": Case(16, (256, 512))}
PUBLISHED = {
    ("segnet", CASES[0]): Published(
        101, 164, 265, "neon, in the article (its repository, on a Titan X: 109, 193, 302)"
    )
}


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
    found = PUBLISHED.get((load.network, Case(load.batch, load.size)))
    return {
        "table": "article_1",
        "network": load.network,
        "image": f"{load.size[1]}x{load.size[0]}",
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
        "published_forward_ms": found and found.forward_ms,
        "published_backward_ms": found and found.backward_ms,
        "published_total_ms": found and found.total_ms,
        "published_on": found and found.on,
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
        threads = options.threads_per_process or max(1, options.threads // processes)
        print(f"{options.parallel_network}, {processes} x {threads} threads ...", flush=True)
        load = _load(options, options.parallel_network, options.parallel_case)
        rows.append(data_parallel.measure(load, processes, threads))
    if rows:
        data_parallel.add_speed_up(rows)
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Both tables, with what is published beside."""
    steps = [row for row in rows if row["table"] == "article_1"]
    parallel = [row for row in rows if row["table"] == "article_2"]
    parts = []
    if steps:
        parts.append("Table 1: one training step in ms, without the update of the weights")
        parts.append(_step_table(steps))
    if parallel:
        first = parallel[0]
        parts.append(
            f"Table 2: {first['network']}, {first['batch']} images of {first['image']} a step over "
            "all processes, update included"
        )
        parts.append(_parallel_table(parallel))
    return "\n".join(parts)


def _step_table(rows: list[dict[str, Any]]) -> str:
    header = ["network", "image", "batch", "device", "forward", "backward", "total", "published"]
    cells = [
        [
            row["network"],
            row["image"],
            str(row["batch"]),
            row["device"],
            *(f"{row[key]:.1f}" for key in ("forward_ms", "backward_ms", "total_ms")),
            _published(row),
        ]
        for row in rows
    ]
    return table(header, cells)


def _published(row: dict[str, Any]) -> str:
    if row["published_total_ms"] is None:
        return ""
    times = (row[f"published_{key}_ms"] for key in ("forward", "backward", "total"))
    return "{:.0f}, {:.0f}, {:.0f}: {}".format(*times, row["published_on"])


def _parallel_table(rows: list[dict[str, Any]]) -> str:
    header = ["processes", "device", "threads each", "ms per image", "speed-up", "efficiency", ""]
    cells = [
        [
            str(row["processes"]),
            row["device"],
            str(row["threads_per_process"]),
            f"{row['ms_per_image']:.1f}",
            f"{row['speed_up']:.2f}",
            f"{row['efficiency']:.2f}",
            "more threads than cores" if row["is_oversubscribed"] else "",
        ]
        for row in rows
    ]
    return table(header, cells)


def case_of(text: str) -> Case:
    """BATCHxWIDTHxHEIGHT."""
    batch, width, height = (int(part) for part in text.split("x"))
    return Case(batch, (height, width))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device and on ``--quick``."""
    parser = argparse.ArgumentParser(prog="benchmarks.paper_tables", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--quick", action="store_true", help="one image only, fewer steps")
    add("--tables", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    add("--networks", nargs="+", choices=sorted(NETWORKS), default=NETWORKS_SHOWN)
    add("--cases", nargs="+", type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--classes", type=int, default=CLASSES)
    add("--seconds", type=float, help=f"of each row of Table 1; {LEAST_STEPS} steps at least")
    add("--threads", type=int, default=usable_cores(), help="of all processes together")
    add("--processes", nargs="+", type=int, default=[1, 2, 4])
    add("--threads-per-process", type=int, help="instead of dividing --threads")
    add("--parallel-network", choices=sorted(NETWORKS), default="segnet")
    add("--parallel-case", type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--steps", type=int, help="counted steps of each row of Table 2")
    add("--output", type=Path, default=RESULTS / "paper_tables.json")
    options = parser.parse_args(arguments)
    options.cases = options.cases or (QUICK_CASES if options.quick else CASES)
    options.parallel_case = options.parallel_case or PARALLEL_CASES[options.device]
    if options.seconds is None:
        options.seconds = 2.0 if options.quick else 6.0
    if options.steps is None:
        options.steps = 2 if options.quick else 4 if options.device == "cpu" else 50
    for processes in options.processes:
        if options.parallel_case.batch % processes:
            parser.error(f"a batch of {options.parallel_case.batch} does not divide by {processes}")
    return options


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that were asked for."""
    rows: list[dict[str, Any]] = []
    for case in options.cases if 1 in options.tables else ():
        for network in options.networks:
            print(f"{network}, {case.batch} x {case.size[1]}x{case.size[0]} ...", flush=True)
            load = _load(options, network, case)
            rows.append(measure_step(load, options.threads, options.seconds))
    return rows + (measure_parallel(options) if 2 in options.tables else [])


def _load(options: argparse.Namespace, network: str, case: Case) -> Load:
    return Load(
        network,
        case.size,
        case.batch,
        options.classes,
        options.device,
        options.precision,
        options.steps,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 where the device is missing or a process failed."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("NOT RUN: PyTorch finds no GPU; --device cpu measures the CPU", file=sys.stderr)
        return 1
    settings = {"device": options.device, "precision": options.precision, "quick": options.quick}
    if options.device == "cuda":
        settings["gpu"] = gpu_facts("cuda")
    record = Record("paper_tables", settings)
    try:
        rows = measure(options)
    except SegmentationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(rows))
    record.write(rows, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
