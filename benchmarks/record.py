"""What a benchmark leaves behind: one JSON file that says what was measured, where and how.

``benchmarks/README.md`` documents the format.
"""

import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts
from segmentation_node.evaluation.report import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRIALS = ROOT / "out" / "benchmarks"
"""For runs that only try something out; git ignores it, and nothing quotes it."""
FORMAT = 1


class Record:
    """Made before anything is measured, so that the machine's load is that before the run.

    ``arguments`` are those of the command line where they do not come from ``sys.argv``.
    """

    def __init__(
        self, benchmark: str, settings: dict[str, Any], arguments: Sequence[str] | None = None
    ) -> None:
        words = sys.argv[1:] if arguments is None else arguments
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "benchmark": benchmark,
            "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *_shown(words)]),
            "started_utc": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "took_s": None,
            "machine": machine_facts(),
            "settings": settings,
        }
        self._started_s = time.monotonic()

    def save(self, results: list[dict[str, Any]], path: Path) -> None:
        """Write the rows; ``path`` is a JSON file."""
        self.content["took_s"] = round(time.monotonic() - self._started_s, 1)
        write_json(str(path), {**self.content, "results": results})

    def write(self, results: list[dict[str, Any]], path: Path) -> None:
        """Write the rows and say where; ``path`` is a JSON file."""
        self.save(results, path)
        print(f"wrote {path}")


def read_record(path: Path) -> dict[str, Any]:
    """The content of a file that a benchmark left."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _shown(words: Sequence[str]) -> list[str]:
    """The arguments, with ROOT for the folder of a data set, which is elsewhere for others."""
    follows_root = [False, *(word == "--root" for word in words)]
    return ["ROOT" if hidden else word for hidden, word in zip(follows_root, words)]
