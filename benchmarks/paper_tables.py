"""``python -m benchmarks.paper_tables``: the tables of Nervana's article on SegNet, our columns.

Table 1: time of a training step's forward pass (in training mode, batch statistics) and of its
backward pass (cross-entropy summed over pixels, gradients of all parameters), and of both; the
update of the weights is not in it. A batch of 4 at 512x256 (width x height) as in the article,
trained on 12 classes as there, and one image at 256x128.
Table 2: whole training steps (``training.step``, with the exchange of gradients) of one batch over
1, 2 and 4 processes that torchrun starts: gloo on the CPU, whose cores the processes divide; NCCL
on GPUs, one process each. Time per image, and speed-up over the first. The loss is the same for
every number of processes, as long as the network has no batch norm.

Images and labels are random and ready on the device. Never run on a GPU yet.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch.nn import functional

from benchmarks import shown
from benchmarks.machine import gpu_facts
from benchmarks.options import Size, add_threads, parser_of, size_of, size_text
from benchmarks.record import ROOT, Record
from benchmarks.timing import Stopwatch, spread
from segmentation_node.errors import SegmentationError, exit_code
from segmentation_node.networks import NETWORKS, build_network
from training.distributed import Group, join_group
from training.losses import Criterion
from training.recipe import Recipe
from training.state import TrainingState
from training.step import AMP_TYPES, TrainStep
from training.train import prepare_arithmetic

NETWORKS_SHOWN = ("segnet", "elu_squeezenet", "enet", "fast_elu_squeezenet")
PRECISIONS = ("fp32", "tf32", "bf16")
CLASSES = 12
MOST_STEPS, LEAST_STEPS = 100, 3
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


class Load(NamedTuple):
    """What all processes together do in one step."""

    network: str
    size: Size
    batch: int
    classes: int
    device: str
    precision: str
    steps: int

    def about(self, device: torch.device) -> dict[str, Any]:
        """What rows of both tables say of it; ``device`` is where it ran."""
        on_gpu = device.type == "cuda"
        return {
            "network": self.network,
            "image": size_text(self.size),
            "batch": self.batch,
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "precision": self.precision,
        }

    def recipe(self) -> Recipe:
        """Plain SGD: no averaging, no clipping, no class weights."""
        return Recipe(
            network=self.network,
            dataset="random",
            epochs=1,
            batch_size=self.batch,
            crop_size=self.size,
            precision=self.precision,
            optimiser="sgd",
            schedule="constant",
            warmup_share=0.0,
            max_gradient_norm=0.0,
            ema_decay=0.0,
            class_weights="none",
        )

    def random_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 (N, 3, H, W) in 0-255 and labels int64 (N, H, W), always the same."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((self.batch, 3, *self.size), generator=generator) * 255
        shape = (self.batch, *self.size)
        return images, torch.randint(0, self.classes, shape, generator=generator)


def measure_step(load: Load, threads: int, seconds: float) -> dict[str, Any]:
    """The row of Table 1 of one network: medians over as many steps as fit in ``seconds``."""
    prepare_arithmetic(load.recipe(), threads)
    device = torch.device(load.device)
    torch.manual_seed(0)
    network = build_network(load.network, load.classes, {}).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = (part.to(device) for part in load.random_batch())
    # About what normalisation gives, so that nothing overflows or saturates.
    images = (images / 64 - 2).contiguous(memory_format=torch.channels_last)
    dtype, stopwatch = AMP_TYPES.get(load.precision), Stopwatch(device)

    def step_ms() -> list[float]:
        network.zero_grad(set_to_none=True)
        stopwatch.mark()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(images)
        stopwatch.mark()
        functional.cross_entropy(logits.float(), labels, reduction="sum").backward()
        stopwatch.mark()
        return stopwatch.laps_ms()

    for _ in range(WARM_UP_STEPS[device.type]):
        step_ms()
    laps_ms: list[list[float]] = []
    ends_s = time.perf_counter() + seconds
    while len(laps_ms) < LEAST_STEPS or (
        len(laps_ms) < MOST_STEPS and time.perf_counter() < ends_s
    ):
        laps_ms.append(step_ms())
    total = spread([sum(laps) for laps in laps_ms])
    case = (load.network, Case(load.batch, load.size))
    published, published_on = PUBLISHED.get(case, ((None,) * len(PARTS), None))
    return {
        "table": "article_1",
        **load.about(device),
        "classes": load.classes,
        "threads": torch.get_num_threads(),
        "steps": total["runs"],
        "forward_ms": statistics.median(forward_ms for forward_ms, _ in laps_ms),
        "backward_ms": statistics.median(backward_ms for _, backward_ms in laps_ms),
        "total_ms": total["median_ms"],
        "total_p95_ms": total["p95_ms"],
        **{f"published_{part}_ms": ms for part, ms in zip(PARTS, published)},
        "published_on": published_on,
    }


def measure_parallel(load: Load, processes: int, threads: int) -> dict[str, Any]:
    """The row of Table 2 of so many processes with so many CPU threads each, without speed-up."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        _torchrun(load, processes, threads, path)
        found = json.loads(path.read_text())
    ms_per_image = [step_ms / load.batch for step_ms in found["step_ms"]]
    return {
        "table": "article_2",
        **found["about"],
        "processes": processes,
        "threads_per_process": threads,
        "is_oversubscribed": load.device == "cpu" and processes * threads > cores,
        "steps": len(ms_per_image),
        "ms_per_image": statistics.median(ms_per_image),
        "most_ms_per_image": max(ms_per_image),
        "loss": found["loss"],
    }


def add_speed_up(rows: list[dict[str, Any]]) -> None:
    """Put beside each time, in place, how much faster it is than the first row's.

    ``efficiency`` divides by how much more of the machine is used: GPUs, or CPU cores.
    """

    def used(row: dict[str, Any]) -> int:
        if row["device"] != "cpu":
            return int(row["processes"])
        return min(row["processes"] * row["threads_per_process"], os.cpu_count() or 1)

    for row in rows:
        row["speed_up"] = rows[0]["ms_per_image"] / row["ms_per_image"]
        row["efficiency"] = row["speed_up"] * used(rows[0]) / used(row)


def _torchrun(load: Load, processes: int, threads: int, output: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    command += ["--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    command += ["-m", "benchmarks.paper_tables", "--part", json.dumps(load._asdict())]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SegmentationError(
            f"{processes} processes on {load.device}: torchrun ended with {done.returncode}: "
            + " | ".join(done.stdout.strip().splitlines()[-12:])
        )


def part_of(load: Load, group: Group, device: torch.device) -> dict[str, Any]:
    """One process's part: times of its steps in ms, and the whole batch's first loss."""
    recipe = load.recipe()
    prepare_arithmetic(recipe, None)
    warm_up = WARM_UP_STEPS[device.type]
    state = TrainingState(recipe, load.classes, warm_up + load.steps, device)
    criterion = Criterion(torch.ones(load.classes, device=device))
    train_step = TrainStep(recipe, state, criterion, group)
    images, labels = (part[group.share(load.batch)].to(device) for part in load.random_batch())
    loss = group.sum(train_step(images, labels)).item()
    for _ in range(warm_up - 1):
        train_step(images, labels)
    stopwatch = Stopwatch(device)
    group.wait()
    stopwatch.mark()
    for _ in range(load.steps):
        train_step(images, labels)
        stopwatch.mark()
    return {"step_ms": stopwatch.laps_ms(), "loss": loss, "about": load.about(device)}


def run_part(text: str, output: Path) -> int:
    """What torchrun starts: a Load's JSON; the first process writes what it measured."""
    values = json.loads(text)
    load = Load(**{**values, "size": tuple(values["size"])})
    with join_group(load.device) as (group, device):
        found = part_of(load, group, device)
        if group.is_first:
            output.write_text(json.dumps(found))
    return 0


def case_of(text: str) -> Case:
    """BATCHxWIDTHxHEIGHT."""
    batch, _, size = text.partition("x")
    return Case(int(batch), size_of(size))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    parser = parser_of("paper_tables", __doc__)
    add = parser.add_argument
    about_seconds = f"of each row of Table 1; {LEAST_STEPS} steps at least"
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    add("--tables", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    add("--networks", nargs="+", choices=sorted(NETWORKS), default=NETWORKS_SHOWN)
    add("--cases", nargs="+", default=CASES, type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--classes", type=int, default=CLASSES)
    add("--seconds", type=float, default=6.0, help=about_seconds)
    add_threads(parser, "of all processes together")
    add("--processes", nargs="+", type=int, default=[1, 2, 4])
    add("--parallel-network", choices=sorted(NETWORKS), default="segnet")
    add("--parallel-case", type=case_of, metavar="BATCHxWIDTHxHEIGHT")
    add("--steps", type=int, help="counted steps of each row of Table 2")
    add("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.parallel_case = options.parallel_case or PARALLEL_CASES[options.device]
    options.steps = options.steps or STEPS[options.device]
    for processes in options.processes:
        if options.parallel_case.batch % processes:
            parser.error(f"a batch of {options.parallel_case.batch} does not divide by {processes}")
    return options


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows that were asked for."""

    def load_of(network: str, case: Case, precision: str) -> Load:
        load = (options.classes, options.device, precision, options.steps)
        return Load(network, case.size, case.batch, *load)

    rows: list[dict[str, Any]] = []
    cases = options.cases if 1 in options.tables else ()
    for case, network, precision in product(cases, options.networks, options.precision):
        print(f"{network}, {case.batch} x {size_text(case.size)}, {precision} ...", flush=True)
        load = load_of(network, case, precision)
        rows.append(measure_step(load, options.threads, options.seconds))
    parallel: list[dict[str, Any]] = []
    for processes in options.processes if 2 in options.tables else ():
        if options.device == "cuda" and processes > torch.cuda.device_count():
            print(f"NOT RUN: {processes} GPUs, found {torch.cuda.device_count()}")
            continue
        threads = max(1, options.threads // processes)
        print(f"{options.parallel_network}, {processes} x {threads} threads ...", flush=True)
        load = load_of(options.parallel_network, options.parallel_case, options.precision[0])
        parallel.append(measure_parallel(load, processes, threads))
    add_speed_up(parallel)
    return rows + parallel


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 where the device is missing or a process failed."""
    options = parse(arguments)
    if options.part:
        return run_part(options.part, options.output)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("NOT RUN: PyTorch finds no GPU; --device cpu measures the CPU", file=sys.stderr)
        return 1
    settings = {"device": options.device, "precision": options.precision}
    if options.device == "cuda":
        settings["gpu"] = gpu_facts("cuda")
    record = Record("paper_tables", settings, arguments)

    def run() -> int:
        record.finish(measure(options), options.output, SHOWN)
        return 0

    return exit_code(run)


class Row(TypedDict):
    """What both tables say."""

    table: str  # article_1 or article_2
    network: str
    image: str
    batch: int  # of all processes together
    device: str
    precision: str
    steps: int  # counted


class Step(Row):
    """Table 1: one training step without the update of the weights."""

    classes: int
    threads: int
    forward_ms: float
    backward_ms: float
    total_ms: float
    total_p95_ms: float
    published_forward_ms: float | None
    published_backward_ms: float | None
    published_total_ms: float | None
    published_on: str | None


class Parallel(Row):
    """Table 2: one batch over several processes, update included."""

    processes: int
    threads_per_process: int
    is_oversubscribed: bool  # more threads than cores
    ms_per_image: float  # median
    most_ms_per_image: float
    loss: float  # of the first step; the same for every number of processes
    speed_up: float  # over the first row
    efficiency: float  # speed_up by how much more of the machine is used


def _published(row: shown.Row) -> str:
    found = [row[f"published_{part}_ms"] for part in PARTS]
    if found[0] is None:
        return shown.NOT_MEASURED
    times = ", ".join(f"{ms:.0f}" for ms in found if ms is not None)
    return f"{times} ms: {row['published_on']}"


SHOWN = shown.Shown(
    rows={"": Step, "processes": Parallel},
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
)


if __name__ == "__main__":
    sys.exit(main())
