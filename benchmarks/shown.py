"""How results are shown: a benchmark says it once, for the terminal and for the documents."""

import importlib
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, NamedTuple

from segmentation_node.evaluation.report.text import table as text_table

Record = dict[str, Any]
"""The content of a results file."""
Row = dict[str, Any]
Cell = str | Callable[[Row], str]
"""A function, or a template of ``str.format`` of the row: a dash where a key is not measured."""
NOT_MEASURED = "-"
EXCERPT = ".short"
RUN_TIME_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "torch_compile": "torch.compile",
}


class Grid(NamedTuple):
    """A table's cells in Markdown, and sentences below it."""

    header: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


Table = Callable[[Record], Grid]


class Plot(NamedTuple):
    """A picture: ``draw`` makes a matplotlib Figure."""

    draw: Callable[[Record], Any]
    shows: str


class Shown(NamedTuple):
    """How a results file is shown."""

    tables: Mapping[str, Table]
    """By the name in a document; one that ends in ``EXCERPT`` is for documents only."""
    line: Callable[[Record], str] | None = None
    plots: Mapping[str, Plot] = {}
    """By the file in docs/."""


def shown_of(benchmark: str) -> Shown:
    """What a module of ``BENCHMARKS`` declares."""
    shown: Shown = importlib.import_module(f"benchmarks.{benchmark}").SHOWN
    return shown


def every_row(row: Row) -> bool:
    """That a table is about all of them."""
    return True


def columns(cells: Mapping[str, Cell], where: Callable[[Row], bool] = every_row) -> Table:
    """A table with a line for every row; ``cells`` by heading."""

    def table(record: Record) -> Grid:
        rows = filter(where, record["results"])
        return Grid(list(cells), [[cell_of(row, cell) for cell in cells.values()] for row in rows])

    return table


def one_table(
    name: str, cells: Mapping[str, Cell], line: Callable[[Record], str] | None = None
) -> Shown:
    """What is shown as a table of ``columns`` and a sentence."""
    return Shown({name: columns(cells)}, line)


def pivot(
    line: Mapping[str, Cell], cells: Mapping[str, Cell], where: Callable[[Row], bool] = every_row
) -> Table:
    """A table with one line for the rows that agree in ``line``; ``cells`` for every image.

    A heading of ``cells`` has {} where the image belongs.
    """

    def table(record: Record) -> Grid:
        found: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in filter(where, record["results"]):
            key = tuple(cell_of(row, cell) for cell in line.values())
            found.setdefault(key, {})[row["image"]] = row
        images = list(dict.fromkeys(image for rows in found.values() for image in rows))
        grid = Grid([*line, *(heading.format(at) for heading in cells for at in images)], [])
        for key, rows in found.items():
            texts = [
                cell_of(rows[image], cell) if image in rows else NOT_MEASURED
                for cell in cells.values()
                for image in images
            ]
            grid.rows.append([*key, *texts])
        return grid

    return table


def markdown(grid: Grid) -> str:
    """A Markdown table; a sentence where there is no row."""
    lines = [grid.header, ["---"] * len(grid.header), *grid.rows]
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join([body if grid.rows else "*Not measured in this run.*", *grid.notes])


def text(shown: Shown, record: Record) -> str:
    """All tables for the terminal, what failed and why, and the sentence."""
    parts = []
    for name, table in shown.tables.items():
        grid = table(record)
        if grid.rows and not name.endswith(EXCERPT):
            parts.append("\n".join([f"{name}:", text_table(grid.header, grid.rows), *grid.notes]))
    parts += [_failure(row) for row in record["results"] if "error" in row]
    parts += [shown.line(record)] if shown.line else []
    return "\n\n".join(filter(None, parts)).replace("`", "").replace("**", "")


def _failure(row: Row) -> str:
    about = [
        str(value) for key, value in row.items() if isinstance(value, (str, int)) and key != "error"
    ]
    return f"not measured: {' '.join(about)}: {row['error']}"


def cell_of(row: Row, cell: Cell) -> str:
    """The text of a cell. Raises KeyError where the row lacks what it shows."""
    if not isinstance(cell, str):
        return cell(row)
    keys = [key.partition("[")[0] for _, key, _, _ in Formatter().parse(cell) if key]
    values = [row.get(key) if "error" in row else row[key] for key in keys]
    return NOT_MEASURED if None in values else cell.format(**row).replace("%", " %")


def yes_or_no(key: str) -> Cell:
    """Whether the value of a key is true."""
    return lambda row: "yes" if row[key] else "no"


def rate(seconds: str) -> Cell:
    """How many of what takes the seconds under this key fit into one."""
    return lambda row: f"{1 / row[seconds]:.1f}"


def run_time(row: Row) -> str:
    """The run time's own spelling of its name."""
    name: str = row["run_time"]
    return RUN_TIME_NAMES.get(name, name)


def percent(share: float | None, digits: int = 0) -> str:
    """A share as 12 %."""
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"


def images_of(record: Record) -> list[str]:
    """The images of the rows, in their order."""
    return list(dict.fromkeys(row["image"] for row in record["results"] if "image" in row))


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
