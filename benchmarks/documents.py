"""``python -m benchmarks.documents``: results files into README.md and docs/*.md.

A document holds ``<!-- table: NAME -->`` and ``<!-- end -->``, each on a line; what is between them
is written here. ``<!-- line: NAME -->`` asks for a single sentence, ``<!-- picture: FILE -->`` for
one of ``benchmarks.plots``.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.line_makers import LINES
from benchmarks.markdown import any_table, provenance
from benchmarks.plots import DOCS, PLOTS
from benchmarks.record import RESULTS, ROOT, read_record
from benchmarks.registry import BENCHMARKS
from benchmarks.table_makers import TABLES
from segmentation_node.files import write_whole

COMMAND = "python -m benchmarks.documents"
MAKERS: dict[str, dict[str, Any]] = {"table": {**TABLES}, "line": {**LINES}, "picture": {**PLOTS}}
MARKED = re.compile(r"<!-- (table|line|picture): (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
MARKER = re.compile(r"<!-- (?:table|line|picture): (\S+) -->")


class MarkerError(ValueError):
    """A marker that cannot be followed, in one line."""


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or with ``--check`` name what is out of date; 1 where something is."""
    parser = argparse.ArgumentParser(prog="benchmarks.documents", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    options = parser.parse_args(arguments)
    wrong = []
    for path in documents(ROOT):
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(ROOT)
        try:
            new, stale = updated(text, RESULTS, path.parent)
        except MarkerError as error:
            wrong.append(f"{place}: {error}")
            continue
        if stale and not options.check:
            write_whole(str(path), new)
            print(f"wrote {place}: {', '.join(stale)}")
        elif stale:
            wrong += [f"{place}: {what} is out of date; {COMMAND} writes it" for what in stale]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


def documents(root: Path) -> list[Path]:
    """Files that may have markers."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def updated(text: str, results: Path, folder: Path = ROOT) -> tuple[str, list[str]]:
    """The document of a folder with its tables anew, and which differ; raises MarkerError."""
    stale = []

    def write(found: re.Match[str]) -> str:
        kind, name, old = found.groups()
        new = content(kind, name, results, folder)
        if new != old:
            stale.append(f"{kind} {name}")
        return f"<!-- {kind}: {name} -->\n{new}<!-- end -->"

    for found in MARKED.finditer(text):
        if inner := MARKER.search(found[3]):
            raise MarkerError(f"{found[1]} {found[2]} has no end before {inner[1]}")
    if len(MARKER.findall(text)) != len(MARKED.findall(text)):
        raise MarkerError("a marker has no line <!-- end --> behind it")
    return MARKED.sub(write, text), stale


def content(kind: str, name: str, results: Path, folder: Path) -> str:
    """What belongs between the markers of a document in the folder; raises MarkerError."""
    makers = MAKERS[kind]
    stem = PLOTS[name].benchmark if name in PLOTS else name.partition(".")[0]
    path = results / f"{stem}.json"
    # A benchmark without a table of its own has the plain one.
    is_plain = kind == "table" and (name in BENCHMARKS or (name == stem and path.exists()))
    if name not in makers and not is_plain:
        raise MarkerError(f"there is no {kind} {name}; there are {', '.join(makers)}")
    if not path.exists():
        return f"*Never run: `python -m benchmarks {stem}` measures it.*\n"
    if kind == "picture":
        return f"![{PLOTS[name].shows}]({os.path.relpath(DOCS / name, folder)})\n"
    record = read_record(path)
    return f"{makers[name](record)}\n" if kind == "line" else _table(record, name)


def _table(record: dict[str, Any], name: str) -> str:
    body = TABLES.get(name, any_table)(record)
    return f"\n{body}\n\n{provenance(record)}\n"


if __name__ == "__main__":
    sys.exit(main())
