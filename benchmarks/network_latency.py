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
from typing import Any

import numpy as np

from benchmarks import SIZES, end_with, plots, shown
from benchmarks.cpu_limits import breakdown, measure_peak, peak_share, profile
from benchmarks.measured_models import (
    REFERENCE,
    RUN_TIMES,
    network_on,
    random_model,
    resized,
    shipped_options,
)
from benchmarks.options import THREADS, Size, installed, parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.roofline import PAPER, TX1_MS, TX1_SOURCE
from benchmarks.shown import Row
from benchmarks.timing import spread, take_timed_turns
from segmentation_node.errors import BackendError
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.networks import NETWORKS
from training.summary import count_macs, count_parameters, meta_network

PROFILED_SIZE = (360, 640)
LABELS = {len(labels): labels.name for labels in (CAMVID_11, CITYSCAPES_19)}
VARIANT, ENET = "fast_elu_squeezenet", "enet"
DEFAULT_NETWORKS = [PAPER, ENET, VARIANT, "fast_relu_squeezenet", "segnet"]
BLOCK_S = 0.4
PROFILED_RUNS = 5
OF_THE_NODE = ("onnxruntime", "openvino")
LEAST_SHARE = 0.02
"""Operators below it are left out of the tables."""
TOP = 1.15


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the JSON, print the tables."""
    defaults = {"networks": DEFAULT_NETWORKS, "run_times": list(RUN_TIMES), "sizes": SIZES}
    defaults.update(classes=11, threads=THREADS, rounds=4)
    choices = {"networks": NETWORKS, "run_times": RUN_TIMES, "classes": LABELS}
    options = parser_of("network_latency", __doc__, choices, **defaults).parse_args(arguments)
    run_times = installed({name: RUN_TIMES[name][0] for name in options.run_times})
    about = {"run_times": run_times, "precision": "fp32", "weights": "random"}
    record = Record("network_latency", settings_of(options, **about), arguments)
    print("convolution peak ...", flush=True)
    peak = measure_peak(options.threads, rounds=4)
    rows: list[Row] = [{"peak": peak}]
    for size in options.sizes:
        print(f"{size_text(size)} ...", flush=True)
        rows += measure(size, run_times, peak, options)
    record.finish(rows, options.output, SHOWN)


def measure(size: Size, run_times: list[str], peak: Row, options: argparse.Namespace) -> list[Row]:
    """Rows of every network on every run time at one size; ``gmac`` are 1e9 multiply-adds.

    A pair that cannot be run has the reason under ``error`` in place of its figures.
    """
    image_nhwc = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    calls: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    rows = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for network in options.networks:
            built = meta_network(network, options.classes, shipped_options(network))
            gmac = count_macs(built, size) / 1e9
            about = {"network": network, "image": size_text(size), "gmac": gmac}
            card = random_model(network, LABELS[options.classes], folder / network)
            card = resized(card, size, folder)
            for name in run_times:
                row = {**about, "parameters": count_parameters(built), "run_time": name}
                rows[network, name] = row
                try:
                    run = stack.enter_context(network_on(name, card, options.threads))
                    calls[network, name] = partial(run, image_nhwc)
                except BackendError as error:
                    row["error"] = str(error)
            if size == PROFILED_SIZE and REFERENCE in run_times:
                path = card.artifact_path("onnx")
                found = breakdown(profile(path, image_nhwc, options.threads, PROFILED_RUNS))
                rows[network, "operators"] = {**about, "run_time": REFERENCE, **found}
        class_maps = {pair: call().copy() for pair, call in calls.items()}
        for pair, times_ms in take_timed_turns(calls, options.rounds, BLOCK_S).items():
            row, figures = rows[pair], spread(times_ms)
            share = peak_share(row["gmac"], figures["median_ms"], peak)
            row.update({**figures, "peak_share": share})  # image in, class map out
            reference = class_maps.get((pair[0], REFERENCE))
            if reference is not None:
                # Share of pixels of the class that ONNX Runtime gives.
                row["agreement"] = float((class_maps[pair] == reference).mean())
    return list(rows.values())


NETWORK: dict[str, shown.Cell] = {"Network": "`{network}`", "Run time": shown.run_time}


PARAMETERS: dict[str, shown.Cell] = {"Parameters": lambda row: f"{row['parameters'] / 1e6:.2f} M"}


def _is_timed(row: Row) -> bool:
    return "median_ms" in row


def _short(record: Row) -> shown.Grid:
    """Medians of the run times that the node has on a CPU, and the paper's on a TX1."""
    grid = shown.pivot(
        NETWORK,
        {"{}": "{median_ms:.1f} ms"},
        where=lambda row: _is_timed(row) and row["run_time"] in OF_THE_NODE,
    )(record)
    published = [TX1_MS.get((PAPER, image)) for image in shown.images_of(record)]
    times = [f"{ms:.0f} ms" if ms else shown.NOT_MEASURED for ms in published]
    grid.rows.append([f"`{PAPER}`", f"on a Jetson TX1 ({TX1_SOURCE})", *times])
    return grid


def _ratios(record: Row) -> shown.Grid:
    """Every median over ENet's on the same run time, and over the paper's network on a TX1."""
    found = _medians_ms(record)

    def over(row: Row, reference_ms: float | None) -> str:
        return f"{row['median_ms'] / reference_ms:.2f}" if reference_ms else shown.NOT_MEASURED

    cells = {
        "{} / ENet": lambda row: over(row, found.get((ENET, row["run_time"], row["image"]))),
        "{} / TX1": lambda row: over(row, TX1_MS.get((PAPER, row["image"]))),
    }
    return shown.pivot(NETWORK, cells, _is_timed)(record)


def _peak_shares(record: Row) -> shown.Grid:
    notes = [
        f"The peak is {row['peak']['gflops']:.0f} GFLOP/s ({row['peak']['convolution']}, "
        f"{row['peak']['layout']}); a copy moves {row['peak']['copy_gb_per_s']:.0f} GB/s."
        for row in record["results"]
        if "peak" in row
    ]
    table = shown.pivot(NETWORK, {"{}": "{peak_share:.0%}"}, _is_timed)
    return table(record)._replace(notes=tuple(notes))


def _operator_shares(record: Row) -> shown.Grid:
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


def _medians_ms(record: Row) -> dict[tuple[str, str, str], float]:
    """By network, run time and image."""
    keys = ("network", "run_time", "image")
    timed = filter(_is_timed, record["results"])
    return {tuple(row[key] for key in keys): row["median_ms"] for row in timed}


def _line(record: Row) -> str:
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


def _draw(record: Row) -> Any:
    """Bars of every network by run time, one panel an image, the paper's TX1 times as marks."""
    found, images = _medians_ms(record), shown.images_of(record)
    networks = list(dict.fromkeys(network for network, _, _ in found))
    figure, panels = plots.panels(len(images), height=3.9)
    for axes, image in zip(panels, images, strict=True):
        series: dict[str, dict[int, float]] = {}
        for (network, name, at), time_ms in found.items():
            if at == image:
                label = shown.RUN_TIME_NAMES[name]
                series.setdefault(label, {})[networks.index(network)] = time_ms
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
        marks = (list(published), list(published.values()))
        label = f"Jetson TX1, {TX1_SOURCE}"
        axes.plot(*marks, "D", color="black", markersize=6, label=label)
        axes.set_xticks(range(len(networks)), networks, rotation=35, ha="right", fontsize="small")
        axes.set_title(image)
        axes.set_ylim(0, top)
    panels[0].set_ylabel("latency, ms")
    plots.legend(figure, panels[0], columns=5)
    return figure


SHOWN = shown.Shown(
    tables={
        "network_latency": shown.pivot(
            {**NETWORK, **PARAMETERS}, {"{}, ms (p95)": "{median_ms:.1f} ({p95_ms:.1f})"}, _is_timed
        ),
        "network_latency.short": _short,
        "network_latency.ratios": _ratios,
        "network_latency.peak_share": _peak_shares,
        "network_latency.operators": _operator_shares,
    },
    line=_line,
    plots={"latency.png": shown.Plot(_draw, "Latency of the networks by run time")},
)


if __name__ == "__main__":
    end_with(main)
