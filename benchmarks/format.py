"""The documented format of results files, read out of ``benchmarks/README.md``, and held to it."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

README = Path(__file__).parent / "README.md"
HEADING = re.compile(r"### `(\w+)`(?: with `(\w+)`)?")
KEY = re.compile(r"\| `(\w+)` \| ([^|]+) \|")
OPTIONAL, OR_NULL = ", optional", " or null"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all_of(holds: Callable[[Any], bool], kind: type) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, kind) and all(holds(item) for item in items)

    return check


TYPES: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "list of objects": _all_of(lambda value: isinstance(value, dict), list),
    "list of numbers": _all_of(_is_number, list),
    "list of texts": _all_of(lambda value: isinstance(value, str), list),
    "object of numbers": _all_of(_is_number, dict),
    "object of texts": _all_of(lambda value: isinstance(value, str), dict),
}


class Field(NamedTuple):
    """What the documentation says of a key."""

    type: str
    is_optional: bool
    is_nullable: bool


@functools.cache
def documented() -> dict[str, dict[str, Field]]:
    """Fields by the heading that they stand under: ``file``, ``machine``, or a benchmark.

    Rows that have a certain key can be of another kind: ``benchmark key`` has their fields.
    """
    found: dict[str, dict[str, Field]] = {}
    section = ""
    for line in README.read_text(encoding="utf-8").splitlines():
        if heading := HEADING.fullmatch(line):
            section = " ".join(filter(None, heading.groups()))
        elif line.startswith("#"):
            section = ""
        elif section and (row := KEY.match(line)):
            found.setdefault(section, {})[row[1]] = _field(row[2])
    return found


def problems(record: dict[str, Any]) -> list[str]:
    """One line for whatever in a results file is not as documented."""
    fields = documented()
    name = str(record.get("benchmark"))
    if name not in fields:
        return [f"the rows of {name!r} are not documented in {README.parent.name}/{README.name}"]
    lines = _differences("file", record, fields["file"])
    lines += _differences("machine", record.get("machine", {}), fields["machine"])
    for index, row in enumerate(record.get("results", [])):
        kinds = [fields[f"{name} {key}"] for key in row if f"{name} {key}" in fields]
        lines += _differences(f"results[{index}]", row, (kinds or [fields[name]])[0])
    return lines


def _differences(place: str, found: dict[str, Any], fields: dict[str, Field]) -> list[str]:
    lines = [f"{place} has the undocumented key {key!r}" for key in found if key not in fields]
    for key, field in fields.items():
        if key not in found:
            lines += [] if field.is_optional else [f"{place} lacks {key!r}"]
        elif not _fits(found[key], field):
            lines.append(f"{place}: {key!r} is {found[key]!r:.60}, documented as {field.type}")
    return lines


def _fits(value: Any, field: Field) -> bool:
    return TYPES[field.type](value) or (field.is_nullable and value is None)


def _field(text: str) -> Field:
    is_optional, text = text.endswith(OPTIONAL), text.removesuffix(OPTIONAL)
    is_nullable, text = text.endswith(OR_NULL), text.removesuffix(OR_NULL)
    if text not in TYPES:
        raise ValueError(f"{README}: type {text!r} is none of {', '.join(TYPES)}")
    return Field(text, is_optional, is_nullable)
