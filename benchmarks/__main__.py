"""``python -m benchmarks``: run benchmarks one after another, each in a process of its own.

Without names: all that need neither a GPU nor a data set. What follows ``--`` goes to every one.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import BENCHMARKS, ROOT, measures
from benchmarks.record import RESULTS, TRIALS, problem, read_record
from segmentation_node.command_line import CommandParser
from segmentation_node.errors import ContentError
from segmentation_node.evaluation.report.text import table

INTERRUPTED = 130
EXAMPLES = """
%(prog)s --quick
%(prog)s host_cost end_to_end
%(prog)s evaluation_speed -- --root CAMVID
"""


class Outcome(NamedTuple):
    """How one benchmark ended: exit code, seconds, and the file that it wrote, which may be bad."""

    name: str
    code: int
    took_s: float
    written: Path | None
    problem: str


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 where a benchmark failed or wrote what cannot be shown."""
    own, passed_on = _split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(own)
    if options.list:
        print(listing())
        return 0
    names = options.names or [name for name, item in BENCHMARKS.items() if not item.needs]
    outcomes: list[Outcome] = []
    code = 0
    try:
        for name in names:
            command = command_of(name, options.quick, passed_on)
            print(f"[{len(outcomes) + 1}/{len(names)}] {' '.join(command[1:])}", flush=True)
            outcomes.append(run(name, command, TRIALS if options.quick else RESULTS))
    except KeyboardInterrupt:
        code = INTERRUPTED
    print(closing(names, outcomes))
    return code or int(any(outcome.code or outcome.problem for outcome in outcomes))


def command_of(name: str, is_quick: bool, passed_on: Sequence[str]) -> list[str]:
    """The command line of one benchmark. A quick run leaves the recorded results alone."""
    quick = [*BENCHMARKS[name].quick.split(), "--output", str(TRIALS / f"{name}.json")]
    return [sys.executable, "-m", f"benchmarks.{name}", *(quick if is_quick else []), *passed_on]


def run(name: str, command: list[str], folder: Path) -> Outcome:
    """Run it to its end, and see whether it wrote its JSON file in the folder."""
    path = folder / f"{name}.json"
    before_ns, started_s = _changed_ns(path), time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    took_s = time.monotonic() - started_s
    if _changed_ns(path) == before_ns:
        return Outcome(name, code, took_s, None, "")
    try:
        found = problem(read_record(path))
    except ContentError as error:
        found = error.reason
    return Outcome(name, code, took_s, path, found)


def closing(names: list[str], outcomes: list[Outcome]) -> str:
    """What ran, how it ended, and the files that are new."""
    rows = [
        [
            item.name,
            "ok" if not item.code else f"failed ({item.code})",
            f"{item.took_s:.0f} s",
            os.path.relpath(item.written, ROOT) if item.written else "nothing",
        ]
        for item in outcomes
    ]
    rows += [[name, "not run", "", ""] for name in names[len(outcomes) :]]
    lines = ["", table(["benchmark", "result", "took", "wrote"], rows)]
    lines += [f"{item.name}.json: {item.problem}" for item in outcomes if item.problem]
    if any(item.written and item.written.parent == RESULTS for item in outcomes):
        lines.append("into the documents: python -m benchmarks.documents")
    return "\n".join(lines)


def listing() -> str:
    """All benchmarks, in the order in which they run."""
    lines = [f"{name:17} {measures(name):86} {item.needs}" for name, item in BENCHMARKS.items()]
    return "\n".join(line.rstrip() for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python3 -m benchmarks", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "names",
        nargs="*",
        type=_name,
        metavar="NAME",
        help="which, of those of --list; default: all that need neither a GPU nor a data set",
    )
    parser.add_argument(
        "--list", action="store_true", help="print names, what each measures and needs"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure little, to try it out; writes to out/benchmarks, not to benchmarks/results",
    )
    return parser


def _name(text: str) -> str:
    if text not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise argparse.ArgumentTypeError(f"there is no benchmark {text!r}; choose from {known}")
    return text


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Own arguments, and those behind ``--``."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
