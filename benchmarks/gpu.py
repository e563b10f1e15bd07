"""``python -m benchmarks.gpu``: the table of latencies and class agreement on a GPU.

All networks at 480x320, 640x360 and 1280x720, batch 1 and 4, in fp32, tf32, fp16 and bf16, eager
against CUDA graph against compiled against compiled CUDA graph. Rows are written as they come;
``--resume`` goes on where a run ended. ``--device cpu`` tries the command out on a small part.
"""

import argparse
import itertools
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tqdm import tqdm

from benchmarks import shown
from benchmarks.gpu_case import RANDOM, Case, Speed, camera_frames
from benchmarks.machine import gpu_facts
from benchmarks.options import parser_of, size_of
from benchmarks.record import TRIALS, Record, read_record
from segmentation_node.backends import EXECUTIONS, LEAST_AGREEMENT
from segmentation_node.backends.torch import TorchBackend
from segmentation_node.backends.torch_cuda import choose_gpu
from segmentation_node.errors import BackendError

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
TARGET = Case("elu_squeezenet", (360, 640), 1, "fp16", "")
TARGET_MS = 1.0
KEYS = ("network", "size", "batch", "precision", "execution")


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; 1 where there is no such GPU, or classes agree too little."""
    try:
        options = parse(arguments)
        if on_gpu(options):
            choose_gpu(options.device, "fp32")
    except (ImportError, BackendError) as error:
        print(f"NOT RUN: {error}", file=sys.stderr)
        print("--device cpu tries the command out on a small part, without a GPU", file=sys.stderr)
        return 1
    record = Record("gpu", {"device": options.device, "warm_up": options.warm_up}, arguments)
    record.content["machine"]["gpu"] = gpu_facts(options.device) if on_gpu(options) else None
    rows = rows_of(options.output, record.content) if options.resume else []
    measure(options, record, rows)
    record.finish(rows, options.output, SHOWN)
    print("\n".join([*agreement_lines(rows), *target_lines(rows)]))
    return 1 if disagreeing(rows) else 0


def on_gpu(options: argparse.Namespace) -> bool:
    """Whether a GPU is measured, not the command tried out."""
    return bool(options.device != "cpu")


def measure(options: argparse.Namespace, record: Record, rows: list[dict[str, Any]]) -> None:
    """Add a row for every case that has none yet, and write the file after each."""
    measured = {tuple(row[key] for key in KEYS) for row in rows}
    cases = [case for case in all_cases(options) if tuple(case.keys().values()) not in measured]
    with tempfile.TemporaryDirectory() as folder:
        speed = Speed(options.device, camera_frames(options.images), Path(folder))
        for case in tqdm(cases, unit="row", disable=None):
            tqdm.write(" ".join(str(value) for value in case.keys().values()) + " ...")
            rows.append(speed.measure(case, options.frames, options.warm_up))
            record.save(rows, options.output)


def all_cases(options: argparse.Namespace) -> list[Case]:
    """Every combination; executions turn slowest."""
    return [
        Case(network, size, batch, precision, execution)
        for execution, network, size, precision, batch in itertools.product(
            options.executions,
            options.networks,
            options.sizes,
            options.precisions,
            options.batches,
        )
    ]


def rows_of(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run that was about the same; those with errors are measured again."""
    if not path.exists():
        return []
    earlier = read_record(path)
    for what in ("name", "cuda"):
        before, now = ((item["machine"]["gpu"] or {}).get(what) for item in (earlier, content))
        if before != now:
            raise SystemExit(
                f"{path}: was measured on {what} {before!r}, this is {now!r}; give another --output"
            )
    return [row for row in earlier["results"] if "error" not in row]


def disagreeing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of trained weights whose classes agree less with the CPU's than they have to."""
    return [
        row
        for row in rows
        if row.get("agreement", 1.0) < LEAST_AGREEMENT[row["precision"]]
        and row["weights"] != RANDOM
    ]


def agreement_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Per precision the least agreement of trained weights with the CPU in fp32."""
    lines = []
    for precision, least in LEAST_AGREEMENT.items():
        found = [
            row["agreement"]
            for row in rows
            if row["precision"] == precision and row["weights"] != RANDOM and "agreement" in row
        ]
        if found:
            verdict = "ok" if min(found) >= least else "TOO LITTLE"
            lines.append(
                f"classes agree with the CPU in {precision}: {min(found):.3%} or more, "
                f"expected {least:.2%}: {verdict}"
            )
    return lines


def target_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The best median of the case that a target was set for."""
    wanted = list(TARGET.keys().values())[:-1]
    found = {
        row["execution"]: row["stages_ms"]["run"]["p50"]
        for row in rows
        if "error" not in row and [row[key] for key in KEYS[:-1]] == wanted
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
    from segmentation_node.networks import NETWORKS

    parser = parser_of("gpu", __doc__)
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N")
    parser.add_argument("--networks", nargs="+", default=sorted(NETWORKS), choices=sorted(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=size_of, metavar="WIDTHxHEIGHT")
    parser.add_argument("--batches", nargs="+", type=positive)
    parser.add_argument("--precisions", nargs="+", choices=TorchBackend.precisions)
    parser.add_argument("--executions", nargs="+", choices=EXECUTIONS[1:])
    parser.add_argument("--frames", type=positive, help="batches measured a row")
    parser.add_argument("--warm-up", type=int, default=10, help="batches before those")
    parser.add_argument("--images", type=positive, default=4, help="street frames of the run")
    parser.add_argument("--resume", action="store_true", help="keep the rows that OUTPUT has")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error(f"device {options.device!r} is not offered; choose cpu, cuda or cuda:N")
    kind = options.device.partition(":")[0]
    for name, default in DEFAULTS[kind].items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.output == parser.get_default("output") and not on_gpu(options):
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
    peak_gpu_memory_mib: NotRequired[float | None]
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


def _run(row: shown.Row) -> str:
    return _span(row, "run") if "error" not in row else "failed"


def _span(row: shown.Row, stage: str) -> str:
    if stage not in row.get("stages_ms", {}):
        return shown.NOT_MEASURED
    return "{p50:.2f} ({p95:.2f}, {p99:.2f})".format(**row["stages_ms"][stage])


def _agreement(row: shown.Row) -> str:
    return shown.percent(row.get("agreement"), 1) + (
        ", random weights" if row["weights"] == RANDOM and "error" not in row else ""
    )


def _stages(record: dict[str, Any]) -> shown.Grid:
    stages = dict.fromkeys(s for row in record["results"] for s in row.get("stages_ms", {}))
    spans = {f"{stage}, ms": partial(_span, stage=stage) for stage in stages}
    return shown.columns({**CASE, **spans})(record)


def _line(record: dict[str, Any]) -> str:
    """The fastest case of every precision."""
    best: dict[str, float] = {}
    for row in record["results"]:
        if [row[key] for key in KEYS[:3]] == list(TARGET.keys().values())[
            :3
        ] and "error" not in row:
            run_ms = row["stages_ms"]["run"]["p50"]
            best[row["precision"]] = min(run_ms, best.get(row["precision"], run_ms))
    if not best:
        return f"`{TARGET.network}` at 640x360 was not timed."
    parts = [f"{run_ms:.2f} ms in {precision}" for precision, run_ms in best.items()]
    where = (record["machine"]["gpu"] or {"name": "the CPU"})["name"]
    return f"On {where}, `{TARGET.network}` takes {shown.listed(parts)} at 640x360."


SHOWN = shown.Shown(
    rows={"": Measured},
    tables={
        "gpu": shown.columns(
            {
                **CASE,
                "Run, ms (p95, p99)": _run,
                "Images/s": "{images_per_s:.0f}",
                "Classes as on the CPU": _agreement,
            }
        ),
        "gpu.stages": _stages,
    },
    line=_line,
)


if __name__ == "__main__":
    sys.exit(main())
