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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from benchmarks import ROOT, end_with, shown
from benchmarks.machine import gpu_facts
from benchmarks.options import THREADS, Size, parser_of, settings_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import spread
from segmentation_node.errors import SegmentationError
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.yaml_and_json import parse_yaml
from training.distributed import Group, join_group
from training.losses import Criterion
from training.recipe import Recipe
from training.state import TrainingState
from training.step import AMP_TYPES, TrainStep
from training.train import prepare_arithmetic

NETWORKS_SHOWN = ["segnet", "elu_squeezenet", "enet", "fast_elu_squeezenet"]
CLASSES = 12
MOST_STEPS, LEAST_STEPS = 100, 3
WARM_UP_STEPS = {"cpu": 1, "cuda": 10}
STEPS = {"cpu": 4, "cuda": 50}


class Case(NamedTuple):
    """So many images in one step."""

    batch: int
    size: Size


CASES = [Case(4, (256, 512)), Case(1, (128, 256))]
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


def recipe_of(network: str, case: Case, precision: str) -> Recipe:
    """Plain SGD: no averaging, no clipping, no class weights. All processes share the batch."""
    return Recipe(
        network=network,
        dataset="random",
        epochs=1,
        batch_size=case.batch,
        crop_size=case.size,
        precision=precision,
        optimiser="sgd",
        schedule="constant",
        warmup_share=0.0,
        max_gradient_norm=0.0,
        ema_decay=0.0,
        class_weights="none",
    )


def about(recipe: Recipe, device: torch.device) -> Row:
    """What rows of both tables say; ``device`` is where it ran."""
    return {
        "network": recipe.network,
        "image": size_text(recipe.crop_size),
        "batch": recipe.batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": recipe.precision,
    }


def random_batch(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 (N, 3, H, W) in 0-255 and labels int64 (N, H, W), always the same."""
    generator = torch.Generator().manual_seed(0)
    images, size = recipe.batch_size, recipe.crop_size
    labels = torch.randint(0, CLASSES, (images, *size), generator=generator)
    return torch.rand((images, 3, *size), generator=generator) * 255, labels


class Stopwatch:
    """Marks go in between pieces of work; the times between them come out at the end.

    A CPU is timed by the host's clock. On a GPU a mark is an event of the current stream, so that
    nothing waits until the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """What was asked for before belongs to the last lap, what comes after to the next."""
        if self._device.type == "cuda":
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def laps_ms(self) -> list[float]:
        """Times between the marks so far, which are then forgotten. Waits for the device."""
        pairs, self._marks = list(zip(self._marks, self._marks[1:])), []
        if self._device.type != "cuda":
            return [(end - start) * 1e3 for start, end in pairs]
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) for start, end in pairs]


def step_of(recipe: Recipe, device: torch.device) -> Callable[[], list[float]]:
    """A step of a network with random weights on one batch, without the update of the weights.

    It gives the times of its forward and of its backward pass in ms.
    """
    torch.manual_seed(0)
    network = build_network(recipe.network, CLASSES, {}).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = (part.to(device) for part in random_batch(recipe))
    # About what normalisation gives, so that nothing overflows or saturates.
    images = (images / 64 - 2).contiguous(memory_format=torch.channels_last)
    dtype, stopwatch = AMP_TYPES.get(recipe.precision), Stopwatch(device)

    def step() -> list[float]:
        network.zero_grad(set_to_none=True)
        stopwatch.mark()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(images)
        stopwatch.mark()
        functional.cross_entropy(logits.float(), labels, reduction="sum").backward()
        stopwatch.mark()
        return stopwatch.laps_ms()

    return step


def measure_step(recipe: Recipe, options: argparse.Namespace) -> Row:
    """The row of Table 1 of one network: medians over as many steps as fit in the seconds."""
    prepare_arithmetic(recipe, options.threads)
    device = torch.device(options.device)
    step = step_of(recipe, device)
    for _ in range(WARM_UP_STEPS[device.type]):
        step()
    laps_ms: list[list[float]] = []
    ends_s = time.perf_counter() + options.seconds
    while len(laps_ms) < MOST_STEPS and (
        len(laps_ms) < LEAST_STEPS or time.perf_counter() < ends_s
    ):
        laps_ms.append(step())
    total = spread([sum(laps) for laps in laps_ms])
    case = (recipe.network, Case(recipe.batch_size, recipe.crop_size))
    published, published_on = PUBLISHED.get(case, ((None,) * len(PARTS), None))
    return {
        "table": "article_1",
        **about(recipe, device),
        "classes": CLASSES,
        "threads": torch.get_num_threads(),
        "steps": total["runs"],
        "forward_ms": statistics.median(forward_ms for forward_ms, _ in laps_ms),
        "backward_ms": statistics.median(backward_ms for _, backward_ms in laps_ms),
        "total_ms": total["median_ms"],
        "total_p95_ms": total["p95_ms"],
        **{f"published_{part}_ms": ms for part, ms in zip(PARTS, published)},
        "published_on": published_on,
    }


def measure_parallel(
    recipe: Recipe, processes: int, threads: int, options: argparse.Namespace
) -> Row:
    """The row of Table 2 of so many processes with so many CPU threads each, without speed-up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        part = ["--part", recipe.text(), "--device", options.device, "--steps", str(options.steps)]
        _torchrun([*part, "--output", str(path)], processes, threads)
        found = json.loads(path.read_text())
    ms_per_image = [step_ms / recipe.batch_size for step_ms in found["step_ms"]]
    return {
        "table": "article_2",
        **found["about"],
        "processes": processes,
        "threads_per_process": threads,
        "is_oversubscribed": options.device == "cpu" and processes * threads > THREADS,
        "steps": len(ms_per_image),
        "ms_per_image": statistics.median(ms_per_image),
        "most_ms_per_image": max(ms_per_image),
        "loss": found["loss"],  # of the first step; the same for every number of processes
    }


def add_speed_up(rows: list[Row]) -> None:
    """Put beside each time, in place, how much faster it is than the first row's.

    ``efficiency`` divides by how much more of the machine is used: GPUs, or CPU cores.
    """

    def used(row: Row) -> int:
        if row["device"] != "cpu":
            return int(row["processes"])
        return min(row["processes"] * row["threads_per_process"], THREADS)

    for row in rows:
        row["speed_up"] = rows[0]["ms_per_image"] / row["ms_per_image"]
        row["efficiency"] = row["speed_up"] * used(rows[0]) / used(row)


def _torchrun(part: list[str], processes: int, threads: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "benchmarks.paper_tables", *part]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SegmentationError(
            f"{processes} processes: torchrun ended with {done.returncode}: "
            + " | ".join(done.stdout.strip().splitlines()[-12:])
        )


def part_of(recipe: Recipe, steps: int, group: Group, device: torch.device) -> Row:
    """One process's part: times of its steps in ms, and the whole batch's first loss."""
    prepare_arithmetic(recipe, None)
    warm_up = WARM_UP_STEPS[device.type]
    state = TrainingState(recipe, CLASSES, warm_up + steps, device)
    criterion = Criterion(torch.ones(CLASSES, device=device))
    train_step = TrainStep(recipe, state, criterion, group)
    own = group.share(recipe.batch_size)
    images, labels = (part[own].to(device) for part in random_batch(recipe))
    loss = group.sum(train_step(images, labels)).item()
    for _ in range(warm_up - 1):
        train_step(images, labels)
    stopwatch = Stopwatch(device)
    group.wait()
    stopwatch.mark()
    for _ in range(steps):
        train_step(images, labels)
        stopwatch.mark()
    return {"step_ms": stopwatch.laps_ms(), "loss": loss, "about": about(recipe, device)}


def run_part(options: argparse.Namespace) -> None:
    """What torchrun starts: a recipe's YAML; the first process writes what it measured."""
    with join_group(options.device) as (group, device):
        recipe = Recipe.of(parse_yaml(options.part, "--part"))
        found = part_of(recipe, options.steps, group, device)
        if group.is_first:
            options.output.write_text(json.dumps(found))


def case_of(text: str) -> Case:
    """BATCHxWIDTHxHEIGHT."""
    batch, _, size = text.partition("x")
    return Case(int(batch), size_of(size))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    defaults = {"device": "cpu", "precision": ["fp32"], "tables": [1, 2], "seconds": 6.0}
    defaults.update(networks=NETWORKS_SHOWN, processes=[1, 2, 4], threads=THREADS)
    choices = {"device": STEPS, "precision": ("fp32", "tf32", "bf16"), "tables": (1, 2)}
    choices.update(networks=NETWORKS, parallel_network=NETWORKS)
    parser = parser_of("paper_tables", __doc__, choices, **defaults, parallel_network="segnet")
    add = parser.add_argument
    case = "BATCHxWIDTHxHEIGHT"
    add(
        "--cases",
        nargs="+",
        default=CASES,
        type=case_of,
        metavar=case,
        help="of Table 1; default: 4x512x256 1x256x128",
    )
    add(
        "--parallel-case",
        type=case_of,
        metavar=case,
        help="of Table 2; default: 4x256x128 on cpu, 16x512x256 on cuda",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help="of Table 2: steps of each row; default: "
        + ", ".join(f"{steps} on {device}" for device, steps in STEPS.items()),
    )
    add("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.parallel_case = options.parallel_case or PARALLEL_CASES[options.device]
    options.steps = options.steps or STEPS[options.device]
    for processes in options.processes:
        if options.parallel_case.batch % processes:
            parser.error(f"a batch of {options.parallel_case.batch} does not divide by {processes}")
    return options


def measure(options: argparse.Namespace) -> list[Row]:
    """All rows that were asked for."""
    rows: list[Row] = []
    cases = options.cases if 1 in options.tables else ()
    for case, network, precision in product(cases, options.networks, options.precision):
        print(f"{network}, {case.batch} x {size_text(case.size)}, {precision} ...", flush=True)
        rows.append(measure_step(recipe_of(network, case, precision), options))
    parallel: list[Row] = []
    recipe = recipe_of(options.parallel_network, options.parallel_case, options.precision[0])
    for processes in options.processes if 2 in options.tables else ():
        if options.device == "cuda" and processes > torch.cuda.device_count():
            print(f"NOT RUN: {processes} GPUs, found {torch.cuda.device_count()}")
            continue
        threads = max(1, options.threads // processes)
        print(f"{recipe.network}, {processes} x {threads} threads ...", flush=True)
        parallel.append(measure_parallel(recipe, processes, threads, options))
    add_speed_up(parallel)
    return rows + parallel


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 where the device is missing."""
    options = parse(arguments)
    if options.part:
        run_part(options)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("NOT RUN: PyTorch finds no GPU; --device cpu measures the CPU", file=sys.stderr)
        return 1
    gpu = gpu_facts("cuda") if options.device == "cuda" else None
    record = Record("paper_tables", settings_of(options), arguments, gpu)
    record.finish(measure(options), options.output, SHOWN)
    return 0


def _published(row: Row) -> str:
    found = [row[f"published_{part}_ms"] for part in PARTS]
    if found[0] is None:
        return shown.NOT_MEASURED
    times = ", ".join(f"{ms:.0f}" for ms in found if ms is not None)
    return f"{times} ms: {row['published_on']}"


SHOWN = shown.Shown(
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
    end_with(main)
