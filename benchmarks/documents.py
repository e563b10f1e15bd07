"""``python -m benchmarks.documents``: results files into README.md, docs/*.md and docs/*.png.

A document holds ``<!-- table: NAME -->`` and ``<!-- end -->``, each on a line; what is between them
is written here. ``<!-- line: NAME -->`` asks for a sentence, ``<!-- picture: FILE -->`` for a
picture. ``MACHINE/NAME`` takes the results in the folder of another machine.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS, ROOT, plots
from benchmarks.record import RESULTS, provenance, read_record
from benchmarks.shown import Plot, markdown, shown_of
from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.files import write_whole

COMMAND = "python -m benchmarks.documents"
DOCS = ROOT / "docs"
MARKED = re.compile(r"<!-- (table|line|picture): (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
MARKER = re.compile(r"<!-- (?:table|line|picture): (\S+) -->")


class MarkerError(ValueError):
    """A marker that cannot be followed, in one line."""


def main(arguments: list[str] | None = None) -> int:
    """Write what is out of date, or with ``--check`` name it; 1 where something is wrong."""
    parser = CommandParser(prog="python3 -m benchmarks.documents", description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 if a document is out of date",
    )
    is_check = parser.parse_args(arguments).check

    def write() -> int:
        wrong = [*texts(is_check), *pictures(is_check)]
        print("\n".join(wrong), end="\n" if wrong else "")
        return 1 if wrong else 0

    return exit_code(write)


def texts(is_check: bool) -> Iterator[str]:
    """Bring the documents up to date, or say what is not."""
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        place = path.relative_to(ROOT)
        try:
            new, stale = updated(path.read_text(encoding="utf-8"), RESULTS, path.parent)
        except MarkerError as error:
            yield f"{place}: {error}"
            continue
        if is_check:
            yield from (f"{place}: {what} is out of date; {COMMAND} writes it" for what in stale)
        elif stale:
            write_whole(str(path), new)
            print(f"wrote {place}: {', '.join(stale)}")


def pictures(is_check: bool) -> Iterator[str]:
    """The same for the pictures."""
    for file, (benchmark, plot) in declared()["picture"].items():
        source, path = RESULTS / f"{benchmark}.json", DOCS / file
        if not source.exists():
            print(f"{file}: never run; python -m benchmarks {benchmark} measures it")
            continue
        record = read_record(source)
        if plots.shown_by(path) == plots.fingerprint(record):
            continue
        if is_check:
            yield f"docs/{file} is out of date; {COMMAND} draws it"
        else:
            plots.save(plot.draw(record), record, path)
            print(f"wrote docs/{file}")


def declared() -> dict[str, dict[str, tuple[str, Any]]]:
    """What a marker can ask for: by kind and name the benchmark, and what makes it."""
    found: dict[str, dict[str, tuple[str, Any]]] = {"table": {}, "line": {}, "picture": {}}
    for benchmark in BENCHMARKS:
        shown = shown_of(benchmark)
        found["table"].update({name: (benchmark, table) for name, table in shown.tables.items()})
        found["picture"].update({file: (benchmark, plot) for file, plot in shown.plots.items()})
        if shown.line:
            found["line"][benchmark] = (benchmark, shown.line)
    return found


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
    known = declared()[kind]
    machine, _, name = name.rpartition("/")
    if name not in known:
        raise MarkerError(f"there is no {kind} {name}; there are {', '.join(known)}")
    if machine and kind == "picture":
        raise MarkerError(f"pictures are of the results in {results} alone; found {machine}/{name}")
    benchmark, make = known[name]
    path = results / machine / f"{benchmark}.json"
    if not path.exists():
        return f"*Never run: `python -m benchmarks {benchmark}` measures it.*\n"
    if isinstance(make, Plot):
        return f"![{make.shows}]({os.path.relpath(DOCS / name, folder)})\n"
    record = read_record(path)
    made = make(record)
    return f"{made}\n" if kind == "line" else f"\n{markdown(made)}\n\n{provenance(record)}\n"


if __name__ == "__main__":
    sys.exit(main())
