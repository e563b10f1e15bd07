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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import shown
from benchmarks.machine import gpu_facts
from benchmarks.measured_models import RANDOM, forget_compiled, model_named
from benchmarks.options import Size, parser_of, size_of, size_text, street_images
from benchmarks.record import TRIALS, Record, read_record
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
from segmentation_node.model_card import ModelCard
from segmentation_node.networks import NETWORKS

CAMERA_SIZE = (720, 1280)
PERCENTILES = (50, 95, 99)
SIZES = ((320, 480), (360, 640), (720, 1280))
DEFAULTS: dict[str, dict[str, Any]] = {
    "cuda": {
        "sizes": SIZES,
        "batches": (1, 4),
        "precisions": TorchBackend.precisions,
        # Compiling takes a minute a row, so those come last.
        "executions": ("eager", "graph", "compiled", "compiled_graph"),
        "frames": 200,
    },
    "cpu": {
        "sizes": SIZES[:1],
        "batches": (1,),
        "precisions": ("fp32", "bf16"),
        "executions": ("eager",),
        "frames": 5,
    },
}


class Case(NamedTuple):
    """What a row is about."""

    network: str
    size: Size
    batch: int
    precision: str
    execution: str

    def keys(self) -> dict[str, Any]:
        """As in the JSON."""
        return {**self._asdict(), "size": size_text(self.size)}


TARGET = Case("elu_squeezenet", (360, 640), 1, "fp16", "")
TARGET_MS = 1.0


class Speed:
    """Measures cases on one device; keeps the CPU's class maps, which all are compared with."""

    def __init__(self, device: str, frames: list[np.ndarray], folder: Path) -> None:
        self.device, self.frames, self._folder = device, frames, folder
        self._cards: dict[str, ModelCard] = {}
        self._expected: dict[tuple[str, Size], list[np.ndarray]] = {}

    def measure(self, case: Case, frames: int, warm_up: int) -> dict[str, Any]:
        """The row: what was measured, or under ``error`` why it could not be."""
        card = self._card(case)
        weights = RANDOM if card.weights.data == RANDOM else card.name
        options = BackendOptions(
            device=self.device,
            precision=case.precision,
            execution=case.execution,
            batch=case.batch,
        )
        row = {**case.keys(), "weights": weights}
        if (case.network, case.size) not in self._expected:
            with open_backend("torch", card, BackendOptions(device="cpu")) as backend:
                self._expected[case.network, case.size] = class_maps(backend, self.frames)
        expected = self._expected[case.network, case.size]
        try:
            row.update(self._figures(card, options, frames, warm_up, expected))
        except BackendError as error:
            row["error"] = str(error)
        finally:
            forget_compiled(case.execution)
        return row

    def _card(self, case: Case) -> ModelCard:
        """The network's card with its input at the case's size."""
        if case.network not in self._cards:
            self._cards[case.network] = model_named(case.network, self._folder)
        card, (height, width) = self._cards[case.network], case.size
        return replace(card, input=replace(card.input, height=height, width=width))

    def _figures(
        self, card: ModelCard, options: BackendOptions, frames: int, warm_up: int, expected: Any
    ) -> dict[str, Any]:
        on_gpu = self.device != "cpu"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        start_s = time.perf_counter()
        with open_backend("torch", card, options) as backend:
            load_s = time.perf_counter() - start_s
            backend.time_stages()  # type: ignore[attr-defined]  # the torch backend has it
            image_nhwc = np.zeros(backend.input_shape, np.uint8)
            laps = [self._lap_ms(backend, image_nhwc, n) for n in range(warm_up + frames)][warm_up:]
            peak_mib = torch.cuda.max_memory_reserved(self.device) / 2**20 if on_gpu else None
            found = np.stack(class_maps(backend, self.frames))
            about = {"device": backend.device, "warnings": backend.warnings}
        stages_ms = {stage: _percentiles([lap[stage] for lap in laps]) for stage in laps[0]}
        return {
            **about,
            "load_s": round(load_s, 3),
            "frames": frames,
            "peak_gpu_memory_mib": peak_mib,
            "agreement": float((found == np.stack(expected)).mean()),
            "images_per_s": round(options.batch * 1e3 / stages_ms["end_to_end"]["p50"], 1),
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


def class_maps(backend: Backend, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Class maps (H, W) of frames; every place of the batch gets its turn."""
    image_nhwc = np.zeros(backend.input_shape, np.uint8)
    found = []
    for number, frame in enumerate(frames):
        slot = number % len(image_nhwc)
        fill(image_nhwc[slot], frame)
        found.append(backend.run(image_nhwc).class_map_nhw[slot].copy())
    return found


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
    record = Record("gpu", {"device": options.device, "warm_up": options.warm_up}, arguments)
    record.content["machine"]["gpu"] = gpu
    rows = rows_of(options.output, gpu) if options.resume else []
    measure(options, record, rows)
    record.finish(rows, options.output, SHOWN)
    print("\n".join([*agreement_lines(rows), *target_lines(rows)]))
    return 1 if disagreeing(rows) else 0


def measure(options: argparse.Namespace, record: Record, rows: list[dict[str, Any]]) -> None:
    """Add a row for every case that has none yet, and write the file after each."""
    measured = [[row[key] for key in Case._fields] for row in rows]
    cases = [case for case in all_cases(options) if list(case.keys().values()) not in measured]
    with tempfile.TemporaryDirectory() as folder:
        images = street_images(CAMERA_SIZE, options.images, apart=5)
        speed = Speed(options.device, images, Path(folder))
        for case in tqdm(cases, unit="row", disable=None):
            tqdm.write(" ".join(str(value) for value in case.keys().values()) + " ...")
            rows.append(speed.measure(case, options.frames, options.warm_up))
            record.save(rows, options.output)


def all_cases(options: argparse.Namespace) -> list[Case]:
    """Every combination; executions turn slowest."""
    given = (options.executions, options.networks, options.sizes, options.precisions)
    return [
        Case(network, size, batch, precision, execution)
        for execution, network, size, precision, batch in itertools.product(*given, options.batches)
    ]


def rows_of(path: Path, gpu: dict[str, Any] | None) -> list[dict[str, Any]]:
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


def disagreeing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of trained weights whose classes agree less with the CPU's than they have to."""
    return [row for row in _judged(rows) if row["agreement"] < LEAST_AGREEMENT[row["precision"]]]


def agreement_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Per precision the least agreement of trained weights with the CPU in fp32."""
    lines = []
    for precision, least in LEAST_AGREEMENT.items():
        found = [row["agreement"] for row in _judged(rows) if row["precision"] == precision]
        if found:
            verdict = "ok" if min(found) >= least else "TOO LITTLE"
            lines.append(
                f"classes agree with the CPU in {precision}: {min(found):.3%} or more, "
                f"expected {least:.2%}: {verdict}"
            )
    return lines


def _judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "agreement" in row and row["weights"] != RANDOM]


def target_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The best median of the case that a target was set for."""
    wanted = list(TARGET.keys().values())[:-1]
    found = {
        row["execution"]: row["stages_ms"]["run"]["p50"]
        for row in rows
        if "error" not in row and [row[key] for key in Case._fields[:-1]] == wanted
    }
    if not found:
        return []
    best = min(found, key=lambda execution: found[execution])
    verdict = "reached" if found[best] <= TARGET_MS else "missed"
    return [
        f"{' '.join(map(str, wanted))} with copies: {found[best]:.3f} ms ({best}); target on an "
        f"H100-class GPU {TARGET_MS:g} ms: {verdict}"
    ]


def positive(text: str) -> int:
    """A whole number from 1."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    parser = parser_of("gpu", __doc__)
    add = parser.add_argument
    add("--device", default="cuda", help="cpu, cuda or cuda:N")
    add("--networks", nargs="+", default=sorted(NETWORKS), choices=sorted(NETWORKS))
    add("--sizes", nargs="+", type=size_of, metavar="WIDTHxHEIGHT")
    add("--batches", nargs="+", type=positive)
    add("--precisions", nargs="+", choices=TorchBackend.precisions)
    add("--executions", nargs="+", choices=EXECUTIONS[1:])
    add("--frames", type=positive, help="batches measured a row")
    add("--warm-up", type=int, default=10, help="batches before those")
    add("--images", type=positive, default=4, help="street frames of the run")
    add("--resume", action="store_true", help="keep the rows that OUTPUT has")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error(f"device {options.device!r} is not offered; choose cpu, cuda or cuda:N")
    for name, default in DEFAULTS[options.device.partition(":")[0]].items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.output == parser.get_default("output") and options.device == "cpu":
        options.output = TRIALS / "gpu_cpu.json"
    return options


class Measured(TypedDict):
    """A case; one that could not be measured has ``error`` and nothing of what follows it."""

    network: str
    size: str  # of the network's input
    batch: int
    precision: str
    execution: str
    weights: str  # name of a shipped model, or "random", whose agreement is not judged
    error: NotRequired[str]  # why there are no figures
    device: NotRequired[str]  # as the backend names it
    load_s: NotRequired[float]
    frames: NotRequired[int]  # batches counted
    peak_gpu_memory_mib: NotRequired[float | None]  # that PyTorch held; None on the CPU
    warnings: NotRequired[list[str]]  # of the backend
    agreement: NotRequired[float]  # share of pixels of the class that the CPU gives in fp32
    images_per_s: NotRequired[float]  # from the median of end_to_end
    stages_ms: NotRequired[dict[str, Any]]  # p50, p95 and p99 by stage


CASE = {
    "Network": "`{network}`",
    "Image": "{size}",
    "Batch": "{batch}",
    "Precision": "{precision}",
    "Execution": "{execution}",
}


def _span(row: shown.Row, stage: str) -> str:
    if stage not in row.get("stages_ms", {}):
        return "failed" if "error" in row and stage == "run" else shown.NOT_MEASURED
    return "{p50:.2f} ({p95:.2f}, {p99:.2f})".format(**row["stages_ms"][stage])


def _agreement(row: shown.Row) -> str:
    return shown.percent(row.get("agreement"), 1) + (
        ", random weights" if row["weights"] == RANDOM and "error" not in row else ""
    )


def _stages(record: dict[str, Any]) -> shown.Grid:
    stages = dict.fromkeys(s for row in record["results"] for s in row.get("stages_ms", {}))
    spans = {f"{stage}, ms": partial(_span, stage=stage) for stage in stages}
    return shown.columns({**CASE, **spans})(record)


SHOWN = shown.Shown(
    rows={"": Measured},
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
)


if __name__ == "__main__":
    sys.exit(main())
