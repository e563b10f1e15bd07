"""What the pictures of the documents have in common; each carries the sha256 of its results."""

import hashlib
import json
from pathlib import Path
from typing import Any

# Of the Okabe-Ito palette: told apart by the colour-blind too.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DPI = 110
KEY = "Results-SHA256"


def panels(count: int, height: float) -> tuple[Any, list[Any]]:
    """A figure and its axes side by side, with lines behind the bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained", facecolor="white")
    found = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in found:
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    return figure, found


def bars(
    axes: Any, series: dict[str, dict[int, float]], top: float = float("inf"), width: float = 0.8
) -> None:
    """Bars of every series by group, side by side; what is longer than ``top`` is cut off there."""
    for index, (label, by_group) in enumerate(series.items()):
        one = width / len(series)
        places = [group + (index - (len(series) - 1) / 2) * one for group in by_group]
        color = COLORS[index % len(COLORS)]
        axes.bar(places, by_group.values(), one, label=label, color=color)
        style = {"ha": "center", "fontsize": "small" if len(series) < 3 else 6, "clip_on": True}
        for place, value in zip(places, by_group.values(), strict=True):
            if value <= top:
                axes.text(place, value, f"{value:.0f}", va="bottom", **style)
            else:
                inside = {**style, "va": "top", "rotation": 90, "color": "white"}
                axes.text(place, 0.98 * top, f"{value:.0f}", **inside)


def legend(figure: Any, axes: Any, columns: int) -> None:
    """The labels of the axes, above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def save(figure: Any, record: dict[str, Any], path: Path) -> None:
    """Write the picture with the mark of its results in it."""
    figure.savefig(path, dpi=DPI, metadata={KEY: fingerprint(record), "Software": None})


def fingerprint(record: dict[str, Any]) -> str:
    """The sha256 of the rows."""
    return hashlib.sha256(json.dumps(record["results"]).encode()).hexdigest()


def shown_by(path: Path) -> str | None:
    """The mark that a picture carries; None where there is no picture."""
    if not path.exists():
        return None
    from PIL import Image

    with Image.open(path) as picture:
        return getattr(picture, "text", {}).get(KEY)
