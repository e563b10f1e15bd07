"""``python -m benchmarks.network_latency``: every network's whole graph on ONNX Runtime, one run.

Image in, class map out: normalisation, upsampling and argmax included. Weights are random; they do
not change the time.
"""

import argparse
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS, Record
from benchmarks.rounds import spread, take_turns
from segmentation_node.backends.onnx_outputs import keep_output
from segmentation_node.evaluation.report import table
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from training.onnx_graph import export_onnx, graph_variant
from training.summary import count_macs, count_parameters, meta_network

SIZES = ((320, 480), (360, 640), (720, 1280))
REFERENCE = "enet"


def measure(
    networks: list[str], size: tuple[int, int], classes: int, threads: int, rounds: int, runs: int
) -> list[dict[str, Any]]:
    """Times in ms of every network at one (height, width)."""
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: _session(name, size, classes, threads, Path(folder)) for name in networks}
    calls = {
        name: functools.partial(session.run, ["class_map"], {"image": image})
        for name, session in sessions.items()
    }
    times_ms = take_turns(calls, rounds, runs)
    return [_row(name, size, classes, times_ms[name]) for name in networks]


def summary(rows: list[dict[str, Any]]) -> str:
    """The rows as a table, each beside ENet's time at its size."""
    reference = {row["image"]: row["median_ms"] for row in rows if row["network"] == REFERENCE}
    header = ["network", "image", "parameters", "GMAC", "median ms", "p95 ms", "of ENet's time"]
    cells = []
    for row in rows:
        against = reference.get(row["image"])
        share = f"{row['median_ms'] / against:.2f}" if against else "n/a"
        cells.append(
            [
                row["network"],
                row["image"],
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['gmac']:.2f}",
                f"{row['median_ms']:.1f}",
                f"{row['p95_ms']:.1f}",
                share,
            ]
        )
    return table(header, cells)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.network_latency", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=sorted(NETWORKS), choices=sorted(NETWORKS))
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=6, help="counted runs of a round")
    parser.add_argument("--output", type=Path, default=RESULTS / "network_latency.json")
    arguments = parser.parse_args()
    settings = {"classes": arguments.classes, "threads": arguments.threads}
    record = Record("network_latency", settings)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        print(f"{size[1]}x{size[0]} ...", flush=True)
        rows += measure(
            arguments.networks,
            size,
            arguments.classes,
            arguments.threads,
            arguments.rounds,
            arguments.runs,
        )
    print(summary(rows))
    record.write(rows, arguments.output)


def _session(name: str, size: tuple[int, int], classes: int, threads: int, folder: Path) -> Any:
    import onnxruntime

    torch.manual_seed(0)
    network = build_network(name, classes, {})
    normalise = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    path = folder / f"{name}.onnx"
    graph = graph_variant(DeployGraph(normalise, network, True), "uint8")
    export_onnx(graph, size, 1, "", path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # As the backend runs it while nobody asks for the confidence.
    model = keep_output(path.read_bytes(), "class_map")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _row(name: str, size: tuple[int, int], classes: int, times_ms: list[float]) -> dict[str, Any]:
    network = meta_network(name, classes, {})
    return {
        "network": name,
        "image": f"{size[1]}x{size[0]}",
        "parameters": count_parameters(network),
        "gmac": count_macs(network, size) / 1e9,
        **spread(times_ms),
    }


if __name__ == "__main__":
    main()
