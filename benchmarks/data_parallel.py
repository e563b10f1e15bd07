"""Training steps of one batch spread over several processes: the article's Table 2.

``measure`` starts torchrun for each number of processes; what torchrun starts is this module. A
step is the trainer's own (``training.step``): forward, loss, backward with the exchange of
gradients, update. The batch is the same for every number of processes, and so is its loss, as long
as the network has no batch norm.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch

from benchmarks.options import Size, size_text
from benchmarks.record import ROOT
from benchmarks.timing import Stopwatch
from segmentation_node.errors import SegmentationError
from training.distributed import Group, join_group
from training.losses import Criterion
from training.recipe import Recipe
from training.state import TrainingState
from training.step import TrainStep
from training.train import prepare_arithmetic

WARM_UP_STEPS = {"cpu": 1, "cuda": 5}


class Load(NamedTuple):
    """What all processes together do in one step."""

    network: str
    size: Size
    batch: int
    classes: int
    device: str
    precision: str
    steps: int


class Spread(TypedDict):
    """A row: one batch over several processes, update included."""

    table: str  # article_2
    network: str
    image: str
    batch: int  # of all processes together
    device: str
    precision: str
    processes: int
    threads_per_process: int
    is_oversubscribed: bool  # more threads than cores
    steps: int  # counted
    ms_per_image: float  # median
    most_ms_per_image: float
    loss: float  # of the first step; the same for every number of processes
    speed_up: float  # over the first row
    efficiency: float  # speed_up by how much more of the machine is used


def measure(load: Load, processes: int, threads: int) -> dict[str, Any]:
    """The row of one number of processes, each with so many CPU threads; without speed-up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        _torchrun(load, processes, threads, path)
        found = json.loads(path.read_text())
    ms_per_image = [step_ms / load.batch for step_ms in found["step_ms"]]
    return {
        "table": "article_2",
        "network": load.network,
        "image": size_text(load.size),
        "batch": load.batch,
        "device": found["device"],
        "precision": load.precision,
        "processes": processes,
        "threads_per_process": threads,
        "is_oversubscribed": _is_oversubscribed(load.device, processes, threads),
        "steps": len(ms_per_image),
        "ms_per_image": statistics.median(ms_per_image),
        "most_ms_per_image": max(ms_per_image),
        "loss": found["loss"],
    }


def add_speed_up(rows: list[dict[str, Any]]) -> None:
    """Put beside each time, in place, how much faster it is than the first row's.

    ``efficiency`` divides by how much more of the machine is used: GPUs, or CPU cores.
    """
    first = rows[0]
    for row in rows:
        row["speed_up"] = first["ms_per_image"] / row["ms_per_image"]
        row["efficiency"] = row["speed_up"] * _units(first) / _units(row)


def _units(row: dict[str, Any]) -> int:
    if row["device"] != "cpu":
        return int(row["processes"])
    return min(row["processes"] * row["threads_per_process"], os.cpu_count() or 1)


def _is_oversubscribed(device: str, processes: int, threads: int) -> bool:
    return device == "cpu" and processes * threads > (os.cpu_count() or 1)


def _torchrun(load: Load, processes: int, threads: int, output: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    command += ["--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    command += ["-m", "benchmarks.data_parallel", json.dumps(load._asdict()), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
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


def work(load: Load, group: Group, device: torch.device) -> dict[str, Any]:
    """One process's part: times of its steps in ms, and the whole batch's first loss."""
    recipe = recipe_of(load)
    prepare_arithmetic(recipe, None)
    steps = WARM_UP_STEPS[device.type] + load.steps
    state = TrainingState(recipe, load.classes, steps, device)
    criterion = Criterion(torch.ones(load.classes, device=device))
    train_step = TrainStep(recipe, state, criterion, group)
    images, labels = (part[group.share(load.batch)].to(device) for part in random_batch(load))
    loss = group.sum(train_step(images, labels)).item()
    for _ in range(WARM_UP_STEPS[device.type] - 1):
        train_step(images, labels)
    stopwatch = Stopwatch(device)
    group.wait()
    stopwatch.mark()
    for _ in range(load.steps):
        train_step(images, labels)
        stopwatch.mark()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"step_ms": stopwatch.laps_ms(), "loss": loss, "device": name}


def recipe_of(load: Load) -> Recipe:
    """Plain SGD: no averaging, no clipping, no class weights."""
    return Recipe(
        network=load.network,
        dataset="random",
        epochs=1,
        batch_size=load.batch,
        crop_size=load.size,
        precision=load.precision,
        optimiser="sgd",
        schedule="constant",
        warmup_share=0.0,
        max_gradient_norm=0.0,
        ema_decay=0.0,
        class_weights="none",
    )


def random_batch(load: Load) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 (N, 3, H, W) in 0-255 and labels int64 (N, H, W), always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((load.batch, 3, *load.size), generator=generator) * 255
    shape = (load.batch, *load.size)
    return images, torch.randint(0, load.classes, shape, generator=generator)


def main() -> None:
    """What torchrun starts."""
    parser = argparse.ArgumentParser(prog="benchmarks.data_parallel", description=__doc__)
    parser.add_argument("load", help="JSON of a Load")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    values = json.loads(arguments.load)
    load = Load(**{**values, "size": tuple(values["size"])})
    with join_group(load.device) as (group, device):
        found = work(load, group, device)
        if group.is_first:
            arguments.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
