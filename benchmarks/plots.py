"""``python -m benchmarks.plots``: results files into docs/*.png; ``--check`` only compares.

Each picture carries the sha256 of the results that it shows.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.latency_makers import RUN_TIMES, images_of, latencies
from benchmarks.published import TX1_MS, TX1_SOURCE
from benchmarks.record import RESULTS, ROOT, read_record
from benchmarks.ros_makers import CLASS_MAP, NODE_NAMES

DOCS = ROOT / "docs"
# Of the Okabe-Ito palette: told apart by the colour-blind too.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
DPI = 110
TOP = 1.15
KEY = "Results-SHA256"


class Plot(NamedTuple):
    """A picture of one benchmark's results."""

    benchmark: str
    draw: Callable[[dict[str, Any]], Any]
    shows: str


def main(arguments: list[str] | None = None) -> int:
    """Draw what was measured; with ``--check`` name what is out of date, 1 where something is."""
    parser = argparse.ArgumentParser(prog="benchmarks.plots", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    options = parser.parse_args(arguments)
    wrong = 0
    for file, plot in PLOTS.items():
        source, path = RESULTS / f"{plot.benchmark}.json", DOCS / file
        if not source.exists():
            print(f"{file}: never run; python -m benchmarks {plot.benchmark} measures it")
            continue
        record = read_record(source)
        if shown_by(path) == fingerprint(record):
            continue
        if options.check:
            print(f"docs/{file} is out of date; python -m benchmarks.plots draws it")
            wrong = 1
        else:
            save(plot.draw(record), record, path)
            print(f"wrote docs/{file}")
    return wrong


def latency(record: dict[str, Any]) -> Any:
    """Bars of every network by run time, one panel an image, the paper's TX1 times as marks."""
    from matplotlib.figure import Figure

    images, found = images_of(record), latencies(record)
    networks = list(dict.fromkeys(network for network, _ in found))
    run_times = list(dict.fromkeys(run_time for _, run_time in found))
    figure = Figure(figsize=(9.5, 3.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, image in zip(panels, images, strict=True):
        top = TOP * _reference_ms(found, image)
        for index, run_time in enumerate(run_times):
            bars = {
                place: found[network, run_time][image]["median_ms"]
                for place, network in enumerate(networks)
                if image in found.get((network, run_time), {})
            }
            label = RUN_TIMES.get(run_time, run_time)
            _bars(axes, bars, index, len(run_times), label, top=top)
        _published_marks(axes, networks, image)
        axes.set_xticks(range(len(networks)), networks, rotation=35, ha="right", fontsize="small")
        axes.set_title(image)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_ylim(0, top)
    panels[0].set_ylabel("latency, ms")
    _legend(figure, panels[0])
    return figure


def end_to_end(record: dict[str, Any]) -> Any:
    """Frames per second of every node where the class map alone is asked for."""
    from matplotlib.figure import Figure

    rows = [row for row in record["results"] if row["asked_for"] == CLASS_MAP]
    cases = list(dict.fromkeys((row["model"], row["image"]) for row in rows))
    nodes = [node for node in NODE_NAMES if any(row["node"] == node for row in rows)]
    figure = Figure(figsize=(9.5, 4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for index, node in enumerate(nodes):
        rates = {
            cases.index((row["model"], row["image"])): row["mean_frame_rate_fps"]
            for row in rows
            if row["node"] == node
        }
        _bars(axes, rates, index, len(nodes), NODE_NAMES[node])
    axes.set_xticks(range(len(cases)), ["\n".join(case) for case in cases], fontsize="small")
    axes.set_ylabel("frames/s")
    axes.margins(y=0.12)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    _legend(figure, axes, columns=3)
    return figure


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


def _bars(
    axes: Any,
    bars: dict[int, float],
    index: int,
    count: int,
    label: str,
    text: str = "{:.0f}",
    top: float = float("inf"),
) -> None:
    """One bar a group, beside those of the other ``count`` series; cut off at ``top``."""
    width = 0.8 / count
    places = [place + (index - (count - 1) / 2) * width for place in bars]
    color = COLORS[index % len(COLORS)]
    axes.bar(places, bars.values(), width, label=label, color=color)
    style = {"ha": "center", "fontsize": "small" if count < 3 else 6, "clip_on": True}
    for place, value in zip(places, bars.values(), strict=True):
        if value <= top:
            axes.text(place, value, text.format(value), va="bottom", **style)
        else:
            inside = {**style, "va": "top", "rotation": 90, "color": "white"}
            axes.text(place, 0.98 * top, text.format(value), **inside)


def _reference_ms(found: dict[tuple[str, str], dict[str, Any]], image: str) -> float:
    """The longest of the light networks: SegNet would flatten them all."""
    shown = [
        by_image[image]["median_ms"]
        for (network, _), by_image in found.items()
        if image in by_image and not network.startswith("segnet")
    ]
    published = [ms for (_, at), ms in TX1_MS.items() if at == image]
    return max([*shown, *published])


def _published_marks(axes: Any, networks: list[str], image: str) -> None:
    marks = {
        place: TX1_MS[network, image]
        for place, network in enumerate(networks)
        if (network, image) in TX1_MS
    }
    label = f"Jetson TX1, {TX1_SOURCE}"
    axes.plot(list(marks), list(marks.values()), "D", color="black", markersize=6, label=label)


def _legend(figure: Any, axes: Any, columns: int = 5) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


PLOTS = {
    "latency.png": Plot("network_latency", latency, "Latency of the networks by run time"),
    "end_to_end.png": Plot(
        "end_to_end", end_to_end, "Frames per second of this node and the usual one"
    ),
}


if __name__ == "__main__":
    sys.exit(main())
