"""``python -m benchmarks.fleet``: scoring drives on one worker or several, and merging the reports.

Every drive is a copy of one bag of the drawn street. All are scored by a command of their own in
every way in turns: drive by drive with ``evaluation bag``, with a fleet of one worker, and of one a
core, one thread each. CPU time is that of the command and of its workers. What is merged are copies
of one of these drives' reports; memory is the most that the command held.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

from benchmarks import ROOT, end_with, shown
from benchmarks.options import THREADS, parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import in_rounds, medians

SIZE = (360, 640)
STREET_MODEL = "elu_squeezenet_street"
EVALUATION = [sys.executable, "-m", "segmentation_node.evaluation"]
MERGE = """
import sys
from segmentation_node.evaluation.__main__ import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(code)
"""


def main(arguments: list[str] | None = None) -> None:
    """Make the drives, measure, write, print."""
    defaults: dict[str, Any] = {"model": STREET_MODEL, "drives": 4, "frames": 40, "rounds": 3}
    defaults["reports"] = [100, 1000]
    options = parser_of("fleet", __doc__, **defaults).parse_args(arguments)
    settings = settings_of(options, image=size_text(SIZE), backend="onnxruntime", threads=1)
    record = Record("fleet", settings, arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drives = make_drives(place / "drives", options.drives, options.frames)
        rows = score(drives, place, options.model, options.rounds)
        report = next(next(place.glob("fleet_*")).glob("*.json"))
        rows += [merge(report, count, place / f"merged_{count}") for count in options.reports]
    record.finish(rows, options.output, SHOWN)


def make_drives(place: Path, count: int, frames: int) -> list[Path]:
    """Bags of the drawn street."""
    place.mkdir()
    first, *others = (place / f"drive{number}" for number in range(count))
    options = f"--dataset street --split val --frames {frames}".split()
    _run([*EVALUATION, "make-bag", *options, "--output", str(first)])
    for other in others:
        copytree(first, other)
    return [first, *others]


def score(drives: Sequence[Path], place: Path, model: str, rounds: int) -> list[Row]:
    """Rows of every way to score the drives: drives an hour, CPU seconds a drive."""
    how = ["--model", model, "--backend", "onnxruntime", "--num-threads", "1"]

    def one_by_one(out: Path) -> None:
        for drive in drives:
            _run([*EVALUATION, "bag", str(drive), *how, "--json", f"{out}_{drive.name}.json"])

    def fleet(workers: int, out: Path) -> None:
        jobs = ["--jobs", str(workers), "--output", str(out)]
        _run([*EVALUATION, "fleet", str(drives[0].parent / "*"), *how, *jobs])

    ways = {"`evaluation bag`, drive by drive": one_by_one}
    for workers in sorted({1, THREADS}):
        ways[f"`evaluation fleet --jobs {workers}`"] = partial(fleet, workers)

    def measure(way: str) -> dict[str, float]:
        out = Path(tempfile.mkdtemp(prefix="fleet_" if "fleet" in way else "bag_", dir=place))
        started_s, cpu_s = time.perf_counter(), _children_s()
        ways[way](out)
        return {
            "s_per_drive": (time.perf_counter() - started_s) / len(drives),
            "cpu_s_per_drive": (_children_s() - cpu_s) / len(drives),
        }

    turns = in_rounds(measure, list(ways), rounds)
    return [{"way": way, **medians(found)} for way, found in turns.items()]


def merge(report: Path, count: int, place: Path) -> Row:
    """What merging that many reports takes."""
    print(f"merging {count} reports ...", flush=True)
    place.mkdir()
    content = json.loads(report.read_text())
    for number in range(count):
        content["drive"] = f"drive{number}"
        (place / f"{number}.json").write_text(json.dumps(content))
    page = place.with_suffix(".html")
    command = [sys.executable, "-c", MERGE, "merge", str(place), "--html", str(page)]
    started_s = time.perf_counter()
    said = _run(command)
    seconds = time.perf_counter() - started_s
    most = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert most is not None
    return {
        "reports": count,
        "frames": content["report"]["frames"],
        "report_kb": report.stat().st_size / 1e3,
        "seconds": seconds,
        "memory_mb": int(most[1]) * 1024 / 1e6,
        "page_kb": page.stat().st_size / 1e3,
    }


def _run(command: Sequence[str]) -> str:
    """Run it to its end; what it printed. Raises CalledProcessError, with its errors shown."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _children_s() -> float:
    """CPU time of all processes that this one started, and they, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


SHOWN = shown.Shown(
    {
        "fleet": shown.columns(
            {
                "Drives scored with": "{way}",
                "Drives an hour": lambda row: f"{3600 / row['s_per_drive']:.0f}",
                "CPU time a drive": "{cpu_s_per_drive:.1f} s",
            },
            where=lambda row: "way" in row,
        ),
        "fleet.merge": shown.columns(
            {
                "Reports": "{reports}",
                "Of so many frames": "{frames}",
                "A report": "{report_kb:.0f} kB",
                "Merged in": "{seconds:.1f} s",
                "Most memory": "{memory_mb:.0f} MB",
                "The page": "{page_kb:.0f} kB",
            },
            where=lambda row: "reports" in row,
        ),
    }
)


if __name__ == "__main__":
    end_with(main)
