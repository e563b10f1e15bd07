"""What a benchmark leaves behind: one JSON file that says what was measured, where and how."""

import datetime
import inspect
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, get_args, get_origin, get_type_hints

from benchmarks import BENCHMARKS, machine
from benchmarks.shown import Shown, shown_of, text
from segmentation_node.errors import ContentError
from segmentation_node.evaluation.report import write_json
from segmentation_node.yaml_and_json import read_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRIALS = ROOT / "out" / "benchmarks"
"""For runs that only try something out; git ignores it, and nothing quotes it."""
FORMAT = 1


class File(TypedDict):
    """A results file."""

    format: int  # grows when a key changes its meaning
    benchmark: str  # name of the module
    command: str  # what was run; ROOT stands for the folder of a data set
    started_utc: str  # 2026-11-22T18:00:00Z
    took_s: float | None  # from start to this file
    machine: dict[str, Any]  # benchmarks.machine.Machine
    settings: dict[str, Any]  # what holds for all rows: threads, rounds, limits
    results: list[dict[str, Any]]  # rows, as the benchmark's SHOWN.rows


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
            "machine": machine.facts(),
            "settings": settings,
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


def problems(record: dict[str, Any]) -> list[str]:
    """One line for whatever in a results file is not as declared."""
    name = record.get("benchmark")
    if name not in BENCHMARKS:
        return [f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}"]
    kinds = shown_of(name).rows
    lines = _differences("file", record, File)
    lines += _differences("machine", record.get("machine", {}), machine.Machine)
    for index, row in enumerate(record.get("results", [])):
        kind = next((kinds[key] for key in kinds if key in row), kinds[""])
        lines += _differences(f"results[{index}]", row, kind)
    return lines


def _differences(place: str, found: dict[str, Any], declared: Any) -> list[str]:
    """Against a TypedDict."""
    hints = get_type_hints(declared)
    lines = [f"{place} has the undeclared key {key!r}" for key in found if key not in hints]
    for key, hint in hints.items():
        if key not in found:
            lines += [f"{place} lacks {key!r}"] if key in declared.__required_keys__ else []
        elif not _fits(found[key], hint):
            wanted = inspect.formatannotation(hint)
            lines.append(f"{place}: {key!r} is {found[key]!r:.60}, declared as {wanted}")
    return lines


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if kind in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, kind) and all(_fits(item, parts[-1]) for item in items)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _shown(words: Sequence[str]) -> list[str]:
    """The arguments, with ROOT for the folder of a data set, which is elsewhere for others."""
    follows_root = [False, *(word == "--root" for word in words)]
    return ["ROOT" if hidden else word for hidden, word in zip(follows_root, words)]
