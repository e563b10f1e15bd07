"""``python -m benchmarks.gpu``: the table of latencies and class agreement on a GPU.

All networks at 480x320, 640x360 and 1280x720, batch 1 and 4, in fp32, tf32, fp16 and bf16, eager
against CUDA graph against compiled against compiled CUDA graph. Rows are written as they come;
``--resume`` goes on where a run ended. ``--device cpu`` tries the command out on a small part.

Frames of the street drive go through the torch backend one batch at a time. Its stages come from
CUDA events on the GPU (staging, upload, network, download) and from the host's clock (preprocess,
run = all of the backend's part, end_to_end = preprocess and run).
"""

import argparse
import itertools
import re
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import SIZES, end_with, shown
from benchmarks.machine import gpu_facts
from benchmarks.measured_models import RANDOM, forget_compiled, model_named
from benchmarks.options import parser_of, settings_of, size_of, size_text, street_images
from benchmarks.record import TRIALS, Record, read_record
from benchmarks.shown import Row
from segmentation_node.backends import (
    EXECUTIONS,
    LEAST_AGREEMENT,
    Backend,
    BackendOptions,
    open_backend,
)
from segmentation_node.backends.torch import TorchBackend
from segmentation_node.backends.torch_cuda import choose_gpu
from segmentation_node.errors import BackendError
from segmentation_node.images import place, to_network
from segmentation_node.networks import NETWORKS
from segmentation_node.timing import PERCENTILES
from training.arguments import whole

CAMERA_SIZE = SIZES[-1]
# Compiling takes a minute a row, so those come last.
ORDER = ["eager", "graph", "compiled", "compiled_graph"]
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "cuda": (SIZES, [1, 4], TorchBackend.precisions, ORDER, 200),
    "cpu": (SIZES[:1], [1], ["fp32", "bf16"], ["eager"], 5),
}
"""Sizes, batches, precisions, executions and frames, by device."""


class Case(NamedTuple):
    """What a row is about; ``size`` is WIDTHxHEIGHT."""

    network: str
    size: str
    batch: int
    precision: str
    execution: str


TOO_LITTLE = "TOO LITTLE"


class Speed:
    """Measures cases on one device; keeps the CPU's class maps, which all are compared with."""

    def __init__(self, device: str, frames: list[np.ndarray], folder: Path) -> None:
        self.device, self.frames = device, frames
        self._card = cache(lambda network: model_named(network, folder))
        self._expected: dict[tuple[str, str], np.ndarray] = {}

    def measure(self, case: Case, frames: int, warm_up: int) -> Row:
        """The row: what was measured, or under ``error`` why it could not be."""
        height, width = size_of(case.size)
        card = self._card(case.network)
        weights = RANDOM if card.weights.data == RANDOM else card.name
        card = replace(card, input=replace(card.input, height=height, width=width))
        row = {**case._asdict(), "weights": weights}
        key = (case.network, case.size)
        if key not in self._expected:
            with open_backend("torch", card, BackendOptions(device="cpu")) as backend:
                self._expected[key] = class_maps(backend, self.frames)
        options = BackendOptions(
            device=self.device,
            precision=case.precision,
            execution=case.execution,
            batch=case.batch,
        )
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
        start_s = time.perf_counter()
        try:
            with open_backend("torch", card, options) as backend:
                load_s = time.perf_counter() - start_s
                figures = self._figures(backend, frames, warm_up, self._expected[key])
                row.update({"load_s": round(load_s, 3), **figures})
        except BackendError as error:
            row["error"] = str(error)
        finally:
            forget_compiled(case.execution)
        return row

    def _figures(self, backend: Any, frames: int, warm_up: int, expected: np.ndarray) -> Row:
        backend.time_stages()
        image_nhwc = np.zeros(backend.input_shape, np.uint8)
        laps = [self._lap_ms(backend, image_nhwc, n) for n in range(warm_up + frames)][warm_up:]
        peak_mib = None
        if self.device != "cpu":
            peak_mib = torch.cuda.max_memory_reserved(self.device) / 2**20
        stages_ms = {stage: _percentiles([lap[stage] for lap in laps]) for stage in laps[0]}
        return {
            "device": backend.device,
            "warnings": backend.warnings,
            "frames": frames,  # batches counted
            "peak_gpu_memory_mib": peak_mib,  # that PyTorch held
            # Share of pixels of the class that the CPU gives in fp32.
            "agreement": float((class_maps(backend, self.frames) == expected).mean()),
            "images_per_s": round(len(image_nhwc) * 1e3 / stages_ms["end_to_end"]["p50"], 1),
            "stages_ms": stages_ms,
        }

    def _lap_ms(self, backend: Any, image_nhwc: np.ndarray, number: int) -> dict[str, float]:
        """Each stage of one batch."""
        start_s = time.perf_counter()
        for slot, image_hwc in enumerate(image_nhwc):
            fill(image_hwc, self.frames[(number + slot) % len(self.frames)])
        filled_s = time.perf_counter()
        backend.run(image_nhwc)
        end_s = time.perf_counter()
        return {
            "preprocess": (filled_s - start_s) * 1e3,
            **backend.stages_ms,
            "run": (end_s - filled_s) * 1e3,
            "end_to_end": (end_s - start_s) * 1e3,
        }


def class_maps(backend: Backend, frames: list[np.ndarray]) -> np.ndarray:
    """Class maps (N, H, W) of frames; every place of the batch gets its turn."""
    image_nhwc = np.zeros(backend.input_shape, np.uint8)
    found = []
    for number, frame in enumerate(frames):
        slot = number % len(image_nhwc)
        fill(image_nhwc[slot], frame)
        found.append(backend.run(image_nhwc).class_map_nhw[slot].copy())
    return np.stack(found)


def fill(image_hwc: np.ndarray, frame: np.ndarray) -> None:
    """Write a camera's frame, resized, into a network's input."""
    to_network(frame, place("stretch", CAMERA_SIZE, image_hwc.shape[:2]), image_hwc)


def _percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {f"p{rank}": round(float(value), 4) for rank, value in zip(PERCENTILES, found)}


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 where there is no such GPU, or classes agree too little."""
    options = parse(arguments)
    gpu = None
    if options.device != "cpu":
        try:
            choose_gpu(options.device, "fp32")
        except BackendError as error:
            print(f"NOT RUN: {error}", file=sys.stderr)
            print("--device cpu tries out a small part, without a GPU", file=sys.stderr)
            return 1
        gpu = gpu_facts(options.device)
    record = Record("gpu", settings_of(options), arguments, gpu)
    rows = rows_of(options.output, gpu) if options.resume else []
    measure(options, record, rows)
    record.finish(rows, options.output, SHOWN)
    return int(TOO_LITTLE in _line(record.content))


def measure(options: argparse.Namespace, record: Record, rows: list[Row]) -> None:
    """Add a row for every case that has none yet, and write the file after each."""
    measured = {tuple(row[key] for key in Case._fields) for row in rows}
    cases = [case for case in all_cases(options) if case not in measured]
    with tempfile.TemporaryDirectory() as folder:
        images = street_images(CAMERA_SIZE, options.images, apart=5)
        speed = Speed(options.device, images, Path(folder))
        for case in tqdm(cases, unit="row", disable=None):
            tqdm.write(" ".join(map(str, case)) + " ...")
            rows.append(speed.measure(case, options.frames, options.warm_up))
            record.save(rows, options.output)


def all_cases(options: argparse.Namespace) -> list[Case]:
    """Every combination; executions turn slowest."""
    sizes = map(size_text, options.sizes)
    given = (options.executions, options.networks, sizes, options.precisions, options.batches)
    return [
        Case(network, size, batch, precision, execution)
        for execution, network, size, precision, batch in itertools.product(*given)
    ]


def rows_of(path: Path, gpu: Row | None) -> list[Row]:
    """Rows of an earlier run on the same GPU; those with errors are measured again."""
    if not path.exists():
        return []
    earlier = read_record(path)
    for what in ("name", "cuda"):
        before, now = ((item or {}).get(what) for item in (earlier["machine"]["gpu"], gpu))
        if before != now:
            raise SystemExit(
                f"{path}: was measured on {what} {before!r}, this is {now!r}; give another --output"
            )
    return [row for row in earlier["results"] if "error" not in row]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    defaults = {"device": "cuda", "networks": sorted(NETWORKS), "warm_up": 10}
    parser = parser_of("gpu", __doc__, {"networks": NETWORKS}, **defaults)
    add = parser.add_argument
    usual = "default: all of the table; on the CPU a small part"
    add("--sizes", nargs="+", type=size_of, metavar="WIDTHxHEIGHT", help=f"of the input; {usual}")
    add("--batches", nargs="+", type=whole(1), metavar="N", help=f"images in a run; {usual}")
    names = TorchBackend.precisions
    add(
        "--precisions",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"{', '.join(names)}; {usual}",
    )
    names = EXECUTIONS[1:]
    add(
        "--executions",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"{', '.join(names)}; {usual}",
    )
    frames = ", ".join(f"{values[-1]} on {device}" for device, values in DEFAULTS.items())
    add(
        "--frames",
        type=whole(1),
        metavar="N",
        help=f"batches that are measured of each row; default: {frames}",
    )
    add(
        "--images",
        type=whole(1),
        default=4,
        metavar="N",
        help="pictures of the drawn street that they are made of",
    )
    add("--resume", action="store_true", help="keep the rows that the file of --output has")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error(f"device {options.device!r} is not offered; choose cpu, cuda or cuda:N")
    by_device = ("sizes", "batches", "precisions", "executions", "frames")
    for name, default in zip(by_device, DEFAULTS[options.device.partition(":")[0]]):
        setattr(options, name, getattr(options, name) or default)
    if options.output == parser.get_default("output") and options.device == "cpu":
        options.output = TRIALS / "gpu_cpu.json"
    return options


CASE = {
    "Network": "`{network}`",
    "Image": "{size}",
    "Batch": "{batch}",
    "Precision": "{precision}",
    "Execution": "{execution}",
}


def _span(row: Row, stage: str) -> str:
    if stage not in row.get("stages_ms", {}):
        return "failed" if "error" in row and stage == "run" else shown.NOT_MEASURED
    return "{p50:.2f} ({p95:.2f}, {p99:.2f})".format(**row["stages_ms"][stage])


def _agreement(row: Row) -> str:
    return shown.percent(row.get("agreement"), 1) + (
        ", random weights" if row["weights"] == RANDOM and "error" not in row else ""
    )


def _stages(record: Row) -> shown.Grid:
    stages = dict.fromkeys(s for row in record["results"] for s in row.get("stages_ms", {}))
    spans = {f"{stage}, ms": partial(_span, stage=stage) for stage in stages}
    return shown.columns({**CASE, **spans})(record)


def _line(record: Row) -> str:
    """Whether trained weights give the CPU's classes, the least agreement by precision."""
    lines = []
    trained = [row for row in record["results"] if row["weights"] != RANDOM and "error" not in row]
    for precision, least in LEAST_AGREEMENT.items():
        found = [row["agreement"] for row in trained if row["precision"] == precision]
        if found:
            verdict = "ok" if min(found) >= least else TOO_LITTLE
            lines.append(
                f"classes agree with the CPU in {precision}: {min(found):.3%} or more, expected "
                f"{least:.2%}: {verdict}"
            )
    return "\n".join(lines)


SHOWN = shown.Shown(
    tables={
        "gpu": shown.columns(
            {
                **CASE,
                "Run, ms (p95, p99)": partial(_span, stage="run"),
                "Images/s": "{images_per_s:.0f}",
                "Classes as on the CPU": _agreement,
            }
        ),
        "gpu.stages": _stages,
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
