"""On the machine with the GPU: ``python -m tools.gpu.run OUTPUT`` in the folder that was packed.

Conformance tests, trainings, the latency table, the article's step, each within its own time;
OUTPUT has what came out of each as soon as it is there. ``--toy`` tries all of it on a CPU.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.report.text import write_json
from segmentation_node.yaml_and_json import read_json
from tools.gpu import (
    CAMVID_FILE,
    GPU_FILE,
    LOG_FILE,
    OUTCOME_FILE,
    PACK_FILE,
    ROOT,
    RUN_FILE,
    STEP_FILE,
    TRAININGS,
    GpuError,
    Limits,
)
from tools.gpu.limited import Ended, run_limited
from tools.gpu.pictures import unpack_camvid

TOY_LIMITS = Limits(1200, 1200, 1200, 1200)
FINISHING_S = 20
"""Of the time for training: imports, and the last network's score and weights."""
CONFORMANCE = ("test/core/test_backends.py", "test/backends/test_backend_parity.py")
TOY_GPU = ("--networks", "enet", "--sizes", "48x32", "--images", "2", "--frames", "3")


class Run:
    """Carries the parts out one after another and notes how each ended."""

    def __init__(self, output: Path, work: Path, is_toy: bool) -> None:
        self.output, self.work, self.is_toy = output, work, is_toy
        self.device = "cpu" if is_toy else "cuda"
        self.limits = TOY_LIMITS if is_toy else Limits()
        self.camvid = work / "datasets" / "camvid"
        pack = read_json(str(ROOT / PACK_FILE))
        self.notes: dict[str, Any] = {
            "toy": is_toy,
            "commit": pack["commit"],
            "parts": [],
        }

    def run(self) -> int:
        """All parts, whatever fails; 1 where something did."""
        unpack_camvid(ROOT / CAMVID_FILE, self.camvid)
        self.conformance()
        self.training()
        self.latency()
        self.step()
        return int(any(part["ended"] != Ended.OK for part in self.notes["parts"]))

    def conformance(self) -> None:
        """The backends' conformance tests, on the GPU alone."""
        wanted = "torch-cpu-fp32" if self.is_toy else "cuda"
        # Few warnings, no cache: log.txt has all of it.
        tests = ("pytest", "-q", "-p", "no:cacheprovider", "-k", wanted, *CONFORMANCE)
        self._run("conformance", tests, self.limits.conformance)

    def training(self) -> None:
        """Every network; one that fails is tried once more without a CUDA graph, then left out."""
        ends_s = time.monotonic() + self.limits.training
        left = list(TRAININGS)
        eager: list[str] = []
        while left:
            left_s = ends_s - time.monotonic()
            ended = self._run("training", self._train(left, eager, left_s), left_s)
            left = [name for name in left if not self._is_trained(name)]
            if not left or ended == Ended.STOPPED:
                break
            failed = left[0]
            if failed in eager or self.is_toy:
                left.remove(failed)
            else:
                eager.append(failed)

    def latency(self) -> None:
        """The latency table: at the paper's size one image a time first, then all of it."""
        ends_s = time.monotonic() + self.limits.latency
        common = ("benchmarks.gpu", "--device", self.device, "--output", self.output / GPU_FILE)
        core: Sequence[str] = ("--sizes", "640x360", "--batches", "1", "--executions", "graph")
        rest: Sequence[str] = ("--resume",)
        if self.is_toy:
            core, rest = TOY_GPU, (*TOY_GPU, "--batches", "1", "2", "--resume")
        for more in (core, rest):
            self._run("latency", (*common, *more), ends_s - time.monotonic())

    def step(self) -> None:
        """SegNet's training step beside the article's, in its precision and in ours."""
        common = ("benchmarks.paper_tables", "--device", self.device, "--tables", "1")
        more = ("--networks", "segnet", "--output", self.output / STEP_FILE)
        case = ("--precision", "bf16", "tf32", "fp32", "--seconds", "2")
        if self.is_toy:
            case = ("--precision", "fp32", "--seconds", "0", "--cases", "1x64x32")
        self._run("step", (*common, *more, *case), self.limits.step)

    def _train(self, left: Sequence[str], eager: Sequence[str], seconds: float) -> Sequence[Any]:
        toy = ("--toy",) if self.is_toy else ()
        return (
            "tools.gpu.train",
            *left,
            *("--camvid", self.camvid, "--work", self.work / "runs", "--output", self.output),
            *("--seconds", f"{seconds - FINISHING_S:.1f}", "--device", self.device, *toy),
            *(("--eager", *eager) if eager else ()),
        )

    def _is_trained(self, network: str) -> bool:
        return (self.work / "runs" / network / OUTCOME_FILE).is_file()

    def _run(self, part: str, module: Sequence[Any], seconds: float) -> str:
        """A Python module as a process of its own; gives how it ended."""
        command = [sys.executable, "-m", *map(str, module)]
        print(f"[{part}] {' '.join(command[1:])}", flush=True)
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "SEGMENTATION_DATASETS": str(self.camvid.parent),
        }
        started_s = time.monotonic()
        with open(self.output / LOG_FILE, "ab") as log:
            ended = run_limited(command, seconds, log, environment)
        took_s = round(time.monotonic() - started_s, 1)
        note = {"part": part, "command": " ".join(command[1:]), "ended": ended, "took_s": took_s}
        self.notes["parts"].append({**note, "limit_s": round(seconds, 1)})
        write_json(str(self.output / RUN_FILE), self.notes)
        print(f"[{part}] {ended} after {took_s} s", flush=True)
        return ended


def run(options: argparse.Namespace) -> int:
    """Raises GpuError where OUTPUT holds something or this is no packed folder."""
    if not (ROOT / PACK_FILE).is_file():
        raise GpuError(f"{ROOT} is no packed folder: python -m tools.gpu.pack makes one")
    # By SystemExit, what was started is ended and notes are kept.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.output.mkdir(parents=True, exist_ok=True)
    if any(options.output.iterdir()):
        raise GpuError(f"{options.output} is not empty: name another folder")
    with tempfile.TemporaryDirectory() as work:
        return Run(options.output.resolve(), Path(work), options.toy).run()


def main(arguments: list[str] | None = None) -> int:
    """Run all; 1 where a part failed or was stopped at its limit."""
    parser = CommandParser(prog="python3 -m tools.gpu.run", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for what comes back")
    parser.add_argument(
        "--toy", action="store_true", help="everything tiny and on the CPU, to try it out"
    )
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
