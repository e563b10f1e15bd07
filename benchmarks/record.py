"""What a benchmark leaves behind: one JSON file that says what was measured, where and how.

``benchmarks/README.md`` documents the format.
"""

import datetime
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts
from segmentation_node.evaluation.report import write_json

RESULTS = Path(__file__).parent / "results"
FORMAT = 1


class Record:
    """Made before anything is measured, so that the machine's load is that before the run."""

    def __init__(self, benchmark: str, settings: dict[str, Any]) -> None:
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "benchmark": benchmark,
            "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
            "started_utc": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "machine": machine_facts(),
            "settings": settings,
        }

    def write(self, results: list[dict[str, Any]], path: Path) -> None:
        """Write the rows and say where; ``path`` is a JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(str(path), {**self.content, "results": results})
        print(f"wrote {path}")
