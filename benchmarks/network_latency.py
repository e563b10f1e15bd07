"""``python -m benchmarks.network_latency``: every network's whole graph on every run time, one run.

Image in, class map out: normalisation, upsampling and argmax included. Weights are random; they do
not change the time. All networks and run times of a size take turns; what is slow gets fewer runs.

``peak_share`` is the share of the machine's fp32 convolution peak (``benchmarks.cpu_limits``, same
run, same threads) that the network's multiply-adds reach over its whole time. Where the rest goes
on ONNX Runtime comes from its profiler, at 640x360.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from benchmarks import plots, shown
from benchmarks.cpu_limits import breakdown, measure_peak, peak_share, profile
from benchmarks.measured_models import REFERENCE, RUN_TIMES, network_on, random_model
from benchmarks.options import Size, add_threads, installed, parser_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.roofline import TX1_MS, TX1_SOURCE
from benchmarks.timing import spread, take_timed_turns
from segmentation_node.errors import BackendError
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.model_card import ModelCard
from segmentation_node.networks import NETWORKS
from training.summary import count_macs, count_parameters, meta_network

SIZES = ((320, 480), (360, 640), (720, 1280))
PROFILED_SIZE = (360, 640)
LABELS = {len(labels): labels.name for labels in (CAMVID_11, CITYSCAPES_19)}
VARIANT, PAPER, ENET = "fast_elu_squeezenet", "elu_squeezenet", "enet"
DEFAULT_NETWORKS = (PAPER, ENET, VARIANT, "segnet")
BLOCK_S = 0.4
PROFILED_RUNS = 5
OF_THE_NODE = ("onnxruntime", "openvino")
LEAST_SHARE = 0.02
"""Operators below it are left out of the tables."""
TOP = 1.15


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the JSON, print the tables."""
    options = _parse(arguments)
    run_times = installed({name: RUN_TIMES[name].backend for name in options.run_times})
    settings = {
        "classes": options.classes,
        "threads": options.threads,
        "run_times": run_times,
        "precision": "fp32",
        "weights": "random",
    }
    record = Record("network_latency", settings, arguments)
    print("convolution peak ...", flush=True)
    peak = measure_peak(options.threads, rounds=4)
    rows: list[dict[str, Any]] = [{"peak": peak}]
    for size in options.sizes:
        print(f"{size_text(size)} ...", flush=True)
        rows += measure(size, run_times, peak, options)
    record.finish(rows, options.output, SHOWN)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = parser_of("network_latency", __doc__)
    add = partial(parser.add_argument, nargs="+")
    add("--networks", default=list(DEFAULT_NETWORKS), choices=sorted(NETWORKS))
    add("--run-times", default=list(RUN_TIMES), choices=list(RUN_TIMES))
    add("--sizes", default=list(SIZES), type=size_of, metavar="WIDTHxHEIGHT")
    parser.add_argument("--classes", type=int, default=11, choices=sorted(LABELS))
    add_threads(parser)
    parser.add_argument("--rounds", type=int, default=4)
    return parser.parse_args(arguments)


def measure(
    size: Size, run_times: list[str], peak: dict[str, Any], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of every network on every run time at one size.

    A pair that cannot be run has the reason under ``error`` in place of its figures.
    """
    image_nhwc = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    calls: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    rows = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for network in options.networks:
            row = _network_row(network, size, options.classes)
            labels = LABELS[options.classes]
            card = random_model(network, labels, size, folder / network, with_onnx=True)
            for name in run_times:
                rows[network, name] = {**row, "run_time": name}
                try:
                    run = stack.enter_context(network_on(name, card, options.threads))
                except BackendError as error:
                    rows[network, name]["error"] = str(error)
                    continue
                calls[network, name] = partial(run, image_nhwc)
            if size == PROFILED_SIZE and REFERENCE in run_times:
                found = _operators(row, card, image_nhwc, options.threads)
                rows[network, "operators"] = found
        class_maps = {pair: call().copy() for pair, call in calls.items()}
        for pair, times_ms in take_timed_turns(calls, options.rounds, BLOCK_S).items():
            rows[pair].update(_figures(rows[pair]["gmac"], times_ms, peak))
            reference = class_maps.get((pair[0], REFERENCE))
            if reference is not None:
                rows[pair]["agreement"] = float((class_maps[pair] == reference).mean())
    return list(rows.values())


def _network_row(network: str, size: Size, classes: int) -> dict[str, Any]:
    built = meta_network(network, classes, {})
    return {
        "network": network,
        "image": size_text(size),
        "parameters": count_parameters(built),
        "gmac": count_macs(built, size) / 1e9,
    }


def _figures(gmac: float, times_ms: list[float], peak: dict[str, Any]) -> dict[str, float]:
    found = spread(times_ms)
    return {**found, "peak_share": peak_share(gmac, found["median_ms"], peak)}


def _operators(
    row: dict[str, Any], card: ModelCard, image_nhwc: np.ndarray, threads: int
) -> dict[str, Any]:
    operators = profile(card.artifact_path("onnx"), image_nhwc, threads, PROFILED_RUNS)
    keys = {key: row[key] for key in ("network", "image", "gmac")}
    return {**keys, "run_time": REFERENCE, **breakdown(operators)}


class Timed(TypedDict):
    """A network on a run time at a size."""

    network: str  # name in NETWORKS
    image: str
    run_time: NotRequired[str]  # onnxruntime where it is missing
    parameters: int
    gmac: float  # 10^9 multiply-adds of an image
    error: NotRequired[str]  # why there are no figures; then nothing follows
    runs: NotRequired[int]  # counted
    median_ms: NotRequired[float]  # image in, class map out
    p95_ms: NotRequired[float]
    least_ms: NotRequired[float]
    peak_share: NotRequired[float]  # of the fp32 convolution peak, measured in the same run
    agreement: NotRequired[float]  # share of pixels of the class that ONNX Runtime gives


class Peak(TypedDict):
    """The machine's best: ``gflops`` of a ``convolution`` in a ``layout``, ``copy_gb_per_s``."""

    peak: dict[str, Any]  # with all that was "tried"


class Profiled(TypedDict):
    """Where the time goes on ONNX Runtime, by its profiler."""

    network: str
    image: str
    gmac: float
    run_time: str
    total_ms: float  # of all operators
    operators: dict[str, Any]  # by kind: nodes, median_ms, share, gb_per_s read and written
    conv_peak_share: NotRequired[float | None]  # these two were measured until 2026-11
    convolutions: NotRequired[dict[str, Any]]


NETWORK: dict[str, shown.Cell] = {"Network": "`{network}`", "Run time": shown.run_time}


def _table(record: dict[str, Any]) -> shown.Grid:
    line = {**NETWORK, "Parameters": lambda row: f"{row['parameters'] / 1e6:.2f} M"}
    return shown.pivot(_timed(record), line, {"{}, ms (p95)": "{median_ms:.1f} ({p95_ms:.1f})"})


def _short(record: dict[str, Any]) -> shown.Grid:
    """Medians of the run times that the node has on a CPU, and the paper's on a TX1."""
    rows = [row for row in _timed(record) if row.get("run_time", REFERENCE) in OF_THE_NODE]
    grid = shown.pivot(rows, NETWORK, {"{}": "{median_ms:.1f} ms"})
    for network in dict.fromkeys(network for network, _ in TX1_MS):
        published = [TX1_MS.get((network, image)) for image in shown.images_of(record)]
        times = [f"{ms:.0f} ms" if ms else shown.NOT_MEASURED for ms in published]
        grid.rows.append([f"`{network}`", f"on a Jetson TX1 ({TX1_SOURCE})", *times])
    return grid


def _ratios(record: dict[str, Any]) -> shown.Grid:
    """Every median over ENet's on the same run time, and over the paper's network on a TX1."""
    enet = {
        (row.get("run_time"), row["image"]): row["median_ms"]
        for row in _timed(record)
        if row["network"] == ENET
    }

    def over(row: shown.Row, reference_ms: float | None) -> str:
        return f"{row['median_ms'] / reference_ms:.2f}" if reference_ms else shown.NOT_MEASURED

    cells = {
        "{} / ENet": lambda row: over(row, enet.get((row.get("run_time"), row["image"]))),
        "{} / TX1": lambda row: over(row, TX1_MS.get((PAPER, row["image"]))),
    }
    return shown.pivot(_timed(record), NETWORK, cells)


def _peak_shares(record: dict[str, Any]) -> shown.Grid:
    notes = [
        f"The peak is {row['peak']['gflops']:.0f} GFLOP/s ({row['peak']['convolution']}, "
        f"{row['peak']['layout']}); a copy moves {row['peak']['copy_gb_per_s']:.0f} GB/s."
        for row in record["results"]
        if "peak" in row
    ]
    grid = shown.pivot(_timed(record), NETWORK, {"{}": "{peak_share:.0%}"})
    return grid._replace(notes=tuple(notes))


def _operator_shares(record: dict[str, Any]) -> shown.Grid:
    """Where the time goes, largest first."""
    rows = [
        {**figures, "network": row["network"], "operator": operator}
        for row in record["results"]
        for operator, figures in row.get("operators", {}).items()
        if figures["share"] >= LEAST_SHARE
    ]
    cells = {"Network": "`{network}`", "Operator": "{operator}", "Nodes": "{nodes}"}
    cells.update({"ms": "{median_ms:.1f}", "Share": "{share:.0%}", "GB/s": "{gb_per_s:.1f}"})
    return shown.columns(cells)({"results": rows})


def _timed(record: dict[str, Any]) -> list[shown.Row]:
    return [row for row in record["results"] if "median_ms" in row]


def _medians_ms(record: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """By network, run time and image."""
    return {
        (row["network"], row.get("run_time", REFERENCE), row["image"]): row["median_ms"]
        for row in _timed(record)
    }


def _line(record: dict[str, Any]) -> str:
    """The variant against ENet, the paper's network likewise."""
    found, images = _medians_ms(record), shown.images_of(record)
    compared = (VARIANT, ENET, PAPER)
    if any((item, REFERENCE, image) not in found for item in compared for image in images):
        return (
            f"Not all of {shown.listed([f'`{item}`' for item in compared])} were timed in this run."
        )

    def ratios(network: str) -> str:
        pairs = ((found[item, REFERENCE, at] for item in (network, ENET)) for at in images)
        return shown.listed([f"{ours / enets:.2f}" for ours, enets in pairs])

    return (
        f"At {shown.listed(images)}, `{VARIANT}` takes {ratios(VARIANT)} of ENet's time on ONNX "
        f"Runtime, and the paper's network {ratios(PAPER)} (1.25 to 1.48 in the paper, on a TX1)."
    )


def _draw(record: dict[str, Any]) -> Any:
    """Bars of every network by run time, one panel an image, the paper's TX1 times as marks."""
    found, images = _medians_ms(record), shown.images_of(record)
    networks = list(dict.fromkeys(network for network, _, _ in found))
    run_times = list(dict.fromkeys(name for _, name, _ in found))
    figure, panels = plots.panels(len(images), height=3.9)
    for axes, image in zip(panels, images, strict=True):
        series = {
            shown.RUN_TIME_NAMES.get(name, name): {
                place: found[network, name, image]
                for place, network in enumerate(networks)
                if (network, name, image) in found
            }
            for name in run_times
        }
        published = {
            place: TX1_MS[network, image]
            for place, network in enumerate(networks)
            if (network, image) in TX1_MS
        }
        # SegNet would flatten all the others.
        light = [
            ms for key, ms in found.items() if key[2] == image and not key[0].startswith("segnet")
        ]
        top = TOP * max([*light, *published.values()])
        plots.bars(axes, series, top)
        label = f"Jetson TX1, {TX1_SOURCE}"
        marks = (list(published), list(published.values()))
        axes.plot(*marks, "D", color="black", markersize=6, label=label)
        axes.set_xticks(range(len(networks)), networks, rotation=35, ha="right", fontsize="small")
        axes.set_title(image)
        axes.set_ylim(0, top)
    panels[0].set_ylabel("latency, ms")
    plots.legend(figure, panels[0], columns=5)
    return figure


SHOWN = shown.Shown(
    rows={"": Timed, "peak": Peak, "operators": Profiled},
    tables={
        "network_latency": _table,
        "network_latency.short": _short,
        "network_latency.ratios": _ratios,
        "network_latency.peak_share": _peak_shares,
        "network_latency.operators": _operator_shares,
    },
    line=_line,
    plots={"latency.png": shown.Plot(_draw, "Latency of the networks by run time")},
)


if __name__ == "__main__":
    main()
