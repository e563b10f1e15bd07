"""Draw logs of runs: ``python -m training.curves training/logs/*.csv --output docs/training.png``.

Loss and mean IoU on the validation split against epochs.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code, reason
from training.errors import TrainingError, writing


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a run's log.csv: (epoch, value) wherever there is a value."""
    columns: dict[str, list[tuple[int, float]]] = {"loss": [], "val_mean_iou": []}
    try:
        with path.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, values in columns.items():
                    if row[name]:
                        values.append((int(row["epoch"]), float(row[name])))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a run's log.csv: {reason(error)}") from error
    return columns


def draw(logs: dict[str, dict[str, list[tuple[int, float]]]]) -> Any:
    """A figure of two panels with a line for each log, by name."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    palette = colormaps["tab10" if len(logs) <= 10 else "tab20"]
    legend_in = 0.4 + 0.2 * len(logs)
    figure = Figure(figsize=(11, max(3.6, legend_in)), layout="constrained")
    panels = {"loss": "training loss", "val_mean_iou": "mean IoU on val"}
    for axes, (column, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for index, (name, columns) in enumerate(logs.items()):
            if columns[column]:
                points = zip(*columns[column], strict=True)
                style = "-" if index < palette.N else "--"
                color = palette(index % palette.N)
                axes.plot(*points, style, label=name, color=color, linewidth=1.5)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize="small")
    return figure


def _names(paths: list[Path]) -> list[str]:
    """A run's folder or a log's stem; the whole path where two logs would share that."""
    short = [path.parent.name if path.stem == "log" else path.stem for path in paths]
    return [
        str(path) if short.count(name) > 1 else name
        for path, name in zip(paths, short, strict=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Draw the logs that are given into one picture; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.curves",
        description="""
Draw logs of runs into one picture: loss and mean IoU on the validation split, against epochs.""",
        examples="%(prog)s runs/mine/log.csv --output curves.png",
    )
    parser.add_argument(
        "logs", nargs="+", type=Path, metavar="LOG", help="log.csv of a run, or several"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="picture to write, .png or .svg"
    )
    parsed = parser.parse_args(arguments)
    return exit_code(lambda: _draw(parsed.logs, parsed.output))


def _draw(paths: list[Path], output: Path) -> int:
    logs = dict(zip(_names(paths), map(read_log, paths), strict=True))
    with writing(output, ValueError):
        draw(logs).savefig(output, dpi=110)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
