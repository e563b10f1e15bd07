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
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import gpu_facts
from benchmarks.record import RESULTS, TRIALS, Record, read_record
from benchmarks.torch_speed import RANDOM, Case, Speed, camera_frames
from segmentation_node.backends import EXECUTIONS, LEAST_AGREEMENT
from segmentation_node.backends.torch import TorchBackend
from segmentation_node.backends.torch_cuda import choose_gpu
from segmentation_node.errors import BackendError
from segmentation_node.evaluation.report import table

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
    """Measure, print, write; 1 where there is no such GPU, or classes agree too little."""
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
    print(summary(rows))
    print(f"wrote {options.output}")
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


def summary(rows: list[dict[str, Any]]) -> str:
    """The table (p50, p95 and p99 of each stage in ms), the errors, and the two verdicts."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.get("stages_ms", {})))
    header = ["network", "size", "batch", "precision", "execution"]
    header += [f"{stage} ms" for stage in stages] + ["images/s", "agreement %"]
    lines = ["each stage: p50 p95 p99"]
    lines.append(table(header, [_cells(row, stages) for row in rows if "error" not in row]))
    for row in rows:
        if "error" in row:
            lines.append(" ".join(str(row[key]) for key in KEYS) + ": " + row["error"])
    return "\n".join([*lines, *agreement_lines(rows), *target_lines(rows)])


def _cells(row: dict[str, Any], stages: list[str]) -> list[str]:
    spans = [row["stages_ms"].get(stage) for stage in stages]
    mark = "" if row["weights"] != RANDOM else " (random weights)"
    return [
        *(str(row[key]) for key in KEYS),
        *(" ".join(f"{value:.2f}" for value in span.values()) if span else "" for span in spans),
        f"{row['images_per_s']:.1f}",
        f"{100 * row['agreement']:.3f}{mark}",
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


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.split("x"))
    return height, width


def positive(text: str) -> int:
    """A whole number from 1."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    from segmentation_node.networks import NETWORKS

    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
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
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", options.device):
        parser.error(f"device {options.device!r} is not offered; choose cpu, cuda or cuda:N")
    kind = options.device.partition(":")[0]
    for name, default in DEFAULTS[kind].items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    default = RESULTS / "gpu.json" if on_gpu(options) else TRIALS / "gpu_cpu.json"
    options.output = options.output or default
    return options


if __name__ == "__main__":
    sys.exit(main())
