"""What a benchmark leaves behind: one JSON file that says what was measured, where and how."""

import datetime
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS, ROOT, machine
from benchmarks.shown import Shown, shown_of, text
from segmentation_node.errors import ContentError
from segmentation_node.evaluation.report.text import write_json
from segmentation_node.yaml_and_json import read_json

RESULTS = ROOT / "benchmarks" / "results"
TRIALS = ROOT / "out" / "benchmarks"
"""For runs that only try something out; git ignores it, and nothing quotes it."""


class Record:
    """Made before anything is measured, so that the machine's load is that before the run.

    ``arguments`` are those of the command line where they do not come from ``sys.argv``, ``gpu``
    the ``machine.gpu_facts`` of the one that is measured.
    """

    def __init__(
        self,
        benchmark: str,
        settings: dict[str, Any],
        arguments: Sequence[str] | None = None,
        gpu: dict[str, Any] | None = None,
    ) -> None:
        words = sys.argv[1:] if arguments is None else arguments
        self.content: dict[str, Any] = {
            "format": 1,  # grows when a key changes its meaning
            "benchmark": benchmark,  # name of the module
            "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *_shown(words)]),
            "started_utc": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "took_s": None,  # from start to this file
            "machine": {**machine.facts(), "gpu": gpu},
            "settings": settings,  # what holds for all rows: threads, rounds, limits
        }
        self._started_s = time.monotonic()

    def save(self, results: list[dict[str, Any]], path: Path) -> None:
        """Write the rows; ``path`` is a JSON file."""
        self.content["took_s"] = round(time.monotonic() - self._started_s, 1)
        self.content["results"] = results
        write_json(str(path), self.content)

    def finish(self, results: list[dict[str, Any]], path: Path, shown: Shown) -> None:
        """Write the rows, print them and say where they are."""
        self.save(results, path)
        print(f"\n{text(shown, self.content)}\n\nwrote {path}")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a file that a benchmark left. Raises ContentError where it is none."""
    content = read_json(str(path))
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise ContentError(str(path), "no results in it; expected what a benchmark writes")
    return content


def problem(record: dict[str, Any]) -> str:
    """Why the documents cannot show a results file; empty where they can."""
    name = record.get("benchmark")
    if name not in BENCHMARKS:
        return f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}"
    try:
        text(shown_of(name), record)
        provenance(record)
    except KeyError as error:
        return f"it lacks {error}, which is shown"
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        return f"it cannot be shown: {error}"
    return ""


def provenance(record: dict[str, Any]) -> str:
    """The line below a table: command, date, machine, versions."""
    about = record["machine"]
    took = "" if record["took_s"] is None else f", {_duration(record['took_s'])}"
    versions = [
        f"{name} {found}" for name, found in about["versions"].items() if found[0].isdigit()
    ]
    parts = [
        f"`{record['command']}`, {record['started_utc'][:10]}{took}",
        _processor(about),
        f"load {about['load_average'][0]:.1f} before",
        ", ".join([f"Python {about['python']}", *versions]),
        f"commit {about['commit']}",
    ]
    return f"*{'; '.join(parts)}.*"


def _processor(about: dict[str, Any]) -> str:
    """Name, cores and instruction sets, and the GPU where one was measured."""
    usable, logical = about["usable_cores"], about["logical_cores"]
    cores = f"{logical} logical cores" if usable == logical else f"pinned to {usable} of {logical}"
    virtual = " of a virtual machine" if about["is_virtual"] else ""
    flags = f" ({' '.join(about['cpu_flags'])})" if about["cpu_flags"] else ""
    gpu = f", {about['gpu']['name']}" if about.get("gpu") else ""
    return f"{about['processor']}, {cores}{virtual}{flags}{gpu}"


def _duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _shown(words: Sequence[str]) -> list[str]:
    """The arguments, with ROOT for the folder of a data set, which is elsewhere for others."""
    follows_root = [False, *(word == "--root" for word in words)]
    return [
        "ROOT" if hidden else re.sub("^--root=.*", "--root=ROOT", word)
        for hidden, word in zip(follows_root, words)
    ]
