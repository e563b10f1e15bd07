"""Markdown of what a results file holds, whatever the benchmark."""

from collections.abc import Iterable, Sequence
from typing import Any

NOT_MEASURED = "-"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a sentence where there is no row."""
    lines = [header, ["---"] * len(header), *rows]
    if len(lines) == 2:
        return "*Not measured in this run.*"
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def any_table(record: dict[str, Any]) -> str:
    """All plain values of the rows as columns, for benchmarks without a table of their own."""
    rows = record["results"]
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if _is_plain(value))
    header = [key.replace("_", " ") for key in keys]
    return grid(header, [[_cell(row.get(key)) for key in keys] for row in rows])


def provenance(record: dict[str, Any]) -> str:
    """The line below a table: command, date, machine, versions."""
    machine = record["machine"]
    took = "" if record["took_s"] is None else f", {duration(record['took_s'])}"
    versions = [f"{name} {text}" for name, text in machine["versions"].items() if text[0].isdigit()]
    parts = [
        f"`{record['command']}`, {record['started_utc'][:10]}{took}",
        processor(machine),
        f"load {machine['load_average'][0]:.1f} before",
        ", ".join([f"Python {machine['python']}", *versions]),
        f"commit {machine['commit']}",
    ]
    return f"*{'; '.join(parts)}.*"


def processor(machine: dict[str, Any]) -> str:
    """Name, cores and instruction sets, and the GPU where one was measured."""
    usable, logical = machine["usable_cores"], machine["logical_cores"]
    cores = f"{logical} logical cores" if usable == logical else f"pinned to {usable} of {logical}"
    virtual = " of a virtual machine" if machine["is_virtual"] else ""
    flags = f" ({' '.join(machine['cpu_flags'])})" if machine["cpu_flags"] else ""
    gpu = f", {machine['gpu']['name']}" if machine.get("gpu") else ""
    return f"{machine['processor']}, {cores}{virtual}{flags}{gpu}"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def name(text: str) -> str:
    """A name of the code."""
    return f"`{text}`"


def percent(share: float) -> str:
    """A share as 12.3 %."""
    return f"{share:.1%}".replace("%", " %")


def whole_percent(share: float) -> str:
    """A share as 12 %."""
    return f"{share:.0%}".replace("%", " %")


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _cell(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
