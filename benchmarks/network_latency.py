"""``python -m benchmarks.network_latency``: every network's whole graph on every run time, one run.

Image in, class map out: normalisation, upsampling and argmax included. Weights are random; they do
not change the time. All networks and run times of a size take turns; what is slow gets fewer runs.

``peak_share`` is the share of the machine's fp32 convolution peak (``benchmarks.conv_peak``, same
run, same threads) that the network's multiply-adds reach over its whole time. Where the rest goes
on ONNX Runtime comes from its profiler (``benchmarks.operator_times``), at 640x360.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conv_peak import measure_peak, peak_share
from benchmarks.latency_tables import latency_table, peak_line
from benchmarks.operator_times import breakdown, profile
from benchmarks.operator_times import summary as operator_tables
from benchmarks.processor import usable_cores
from benchmarks.random_model import random_model
from benchmarks.record import RESULTS, Record
from benchmarks.run_times import REFERENCE, RUN_TIMES
from benchmarks.timing import spread, take_timed_turns
from segmentation_node.errors import BackendError
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.model_card import ModelCard
from segmentation_node.networks import NETWORKS
from training.summary import count_macs, count_parameters, meta_network

SIZES = ((320, 480), (360, 640), (720, 1280))
PROFILED_SIZE = (360, 640)
LABELS = {len(labels): labels.name for labels in (CAMVID_11, CITYSCAPES_19)}
DEFAULT_NETWORKS = ("elu_squeezenet", "enet", "fast_elu_squeezenet", "segnet")
BLOCK_S = 0.4
PROFILED_RUNS = 5


def measure(
    networks: list[str],
    run_times: list[str],
    size: tuple[int, int],
    classes: int,
    threads: int,
    rounds: int,
    peak: dict[str, Any],
) -> list[dict[str, Any]]:
    """Rows of every network on every run time at one (height, width).

    A pair that cannot be run has the reason under ``error`` in place of its figures.
    """
    image_nhwc = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    calls: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    rows = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for network in networks:
            row = _network_row(network, size, classes)
            card = random_model(network, LABELS[classes], size, folder / network, with_onnx=True)
            for name in run_times:
                rows[network, name] = {**row, "run_time": name}
                try:
                    opened = RUN_TIMES[name].open(card, threads)
                except BackendError as error:
                    rows[network, name]["error"] = str(error)
                    continue
                stack.callback(opened.close)
                calls[network, name] = partial(opened.run, image_nhwc)
            if size == PROFILED_SIZE and REFERENCE in run_times:
                rows[network, "operators"] = _operators(row, card, image_nhwc, threads, peak)
        class_maps = {pair: call().copy() for pair, call in calls.items()}
        for pair, times_ms in take_timed_turns(calls, rounds, BLOCK_S).items():
            rows[pair].update(_figures(rows[pair]["gmac"], times_ms, peak))
            reference = class_maps.get((pair[0], REFERENCE))
            if reference is not None:
                rows[pair]["agreement"] = float((class_maps[pair] == reference).mean())
    return list(rows.values())


def installed(names: list[str]) -> list[str]:
    """The run times that this machine has; prints a line about each that it lacks."""
    found = []
    for name in names:
        reason = RUN_TIMES[name].missing()
        if reason:
            print(f"{name} is left out: {reason}", flush=True)
        else:
            found.append(name)
    return found


def main() -> None:
    """Measure, print the tables, write the JSON."""
    arguments = _parse()
    run_times = installed(arguments.run_times)
    settings = {
        "classes": arguments.classes,
        "threads": arguments.threads,
        "run_times": run_times,
        "precision": "fp32",
        "weights": "random",
    }
    record = Record("network_latency", settings)
    print("convolution peak ...", flush=True)
    peak = measure_peak(arguments.threads, rounds=4)
    print(peak_line(peak), flush=True)
    rows: list[dict[str, Any]] = [{"peak": peak}]
    for size in arguments.sizes:
        print(f"{size[1]}x{size[0]} ...", flush=True)
        rows += measure(
            arguments.networks,
            run_times,
            size,
            arguments.classes,
            arguments.threads,
            arguments.rounds,
            peak,
        )
    print("\n" + latency_table(rows) + "\n")
    print(operator_tables([row for row in rows if "operators" in row], peak))
    record.write(rows, arguments.output)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.network_latency", description=__doc__)
    add = partial(parser.add_argument, nargs="+")
    add("--networks", default=list(DEFAULT_NETWORKS), choices=sorted(NETWORKS))
    add("--run-times", default=list(RUN_TIMES), choices=list(RUN_TIMES))
    add("--sizes", default=list(SIZES), type=_size, metavar="WIDTHxHEIGHT")
    parser.add_argument("--classes", type=int, default=11, choices=sorted(LABELS))
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS / "network_latency.json")
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(height), int(width)


def _network_row(network: str, size: tuple[int, int], classes: int) -> dict[str, Any]:
    built = meta_network(network, classes, {})
    return {
        "network": network,
        "image": f"{size[1]}x{size[0]}",
        "parameters": count_parameters(built),
        "gmac": count_macs(built, size) / 1e9,
    }


def _figures(gmac: float, times_ms: list[float], peak: dict[str, Any]) -> dict[str, float]:
    found = spread(times_ms)
    return {**found, "peak_share": peak_share(gmac, found["median_ms"], peak)}


def _operators(
    row: dict[str, Any], card: ModelCard, image_nhwc: np.ndarray, threads: int, peak: dict[str, Any]
) -> dict[str, Any]:
    nodes = profile(card.artifact_path("onnx"), image_nhwc, threads, PROFILED_RUNS)
    keys = {key: row[key] for key in ("network", "image", "gmac")}
    return {**keys, "run_time": REFERENCE, **breakdown(nodes, row["gmac"], peak)}


if __name__ == "__main__":
    main()
