"""``python -m benchmarks.host_cost``: what the node spends on a frame beside the network.

The node runs as a process and gets images over DDS, one at a time; times are stage by stage.

The host's part is everything but the backend's run: conversion, resizing, class map, overlay and
publishing, from the frame's own stage times; with the model's own graph and with one of the
image's size. What the middleware and rclpy spend before the node's callback is not in the stages;
the CPU time of the whole process against that of the network alone shows it.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.processor import usable_cores
from benchmarks.record import RESULTS, Record
from benchmarks.resized_models import resized
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.evaluation.report import table
from segmentation_node.model_card import ModelCard, open_model

SIZES = ((360, 640), (720, 1280))
MODELS = ("fast_elu_squeezenet_camvid",)
BACKENDS_TIMED = ("onnxruntime", "openvino")
HOST_STAGES = ("convert", "preprocess", "postprocess", "publish")
WARM_UP_FRAMES = 5
CHUNK_FRAMES = 10
"""CPU time is read after each chunk, and its median taken: a busy moment must not decide."""


def measure(
    card: ModelCard,
    backend: str,
    size: tuple[int, int],
    frames: int,
    with_overlay: bool,
    threads: int,
) -> dict[str, Any]:
    """Medians in ms over ``frames`` frames of this (height, width) through a node process."""
    from segmentation_node.evaluation.live.replay import Replay
    from segmentation_node.evaluation.live.target import NodeProcess

    parameters: dict[str, Any] = {"model": card.folder, "backend": backend, "device": "cpu"}
    parameters.update(frame_policy="every", num_threads=threads)
    replay = Replay(with_overlay=with_overlay)
    try:
        with NodeProcess(parameters) as process:
            replay.wait_until_ready(process)
            replay.play(_images(size, WARM_UP_FRAMES), process, in_flight=1)
            replay.results.clear()
            node = psutil.Process(process.process.pid)
            cpu_ms = []
            for _ in range(max(1, frames // CHUNK_FRAMES)):
                before_s = _cpu_s(node)
                replay.play(_images(size, CHUNK_FRAMES), process, in_flight=1)
                cpu_ms.append((_cpu_s(node) - before_s) / CHUNK_FRAMES * 1e3)
        latencies = [result.latency for result in replay.results]
    finally:
        replay.destroy_node()
    stages_ms = {
        stage: _median([getattr(item, stage + "_ms") for item in latencies])
        for stage in (*HOST_STAGES, "inference", "transport")
    }
    host_ms = _median(
        [sum(getattr(item, stage + "_ms") for stage in HOST_STAGES) for item in latencies]
    )
    return {
        "model": card.name,
        "backend": backend,
        "image": f"{size[1]}x{size[0]}",
        "graph": f"{card.input.width}x{card.input.height}",
        "overlay": with_overlay,
        "threads": threads,
        "frames": len(latencies),
        "stages_ms": stages_ms,
        "host_ms": host_ms,
        "host_share_of_inference": host_ms / stages_ms["inference"],
        "process_cpu_ms_per_frame": _median(cpu_ms),
        "network_cpu_ms_per_frame": _network_cpu_ms(card, backend, threads, frames),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure models and backends at two sizes, with and without overlay; write the rows."""
    import rclpy

    from segmentation_node.evaluation.commands.demo import prepare_middleware

    parser = argparse.ArgumentParser(prog="benchmarks.host_cost", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS_TIMED), choices=BACKENDS)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--output", type=Path, default=RESULTS / "host_cost.json")
    options = parser.parse_args(arguments)
    prepare_middleware()
    settings = {"threads": options.threads, "frames": options.frames}
    record = Record("host_cost", settings, arguments)
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as folder:
            cases = list(_cases(options.models, Path(folder)))
            rows = _rows(cases, options.backends, options.frames, options.threads)
    finally:
        rclpy.shutdown()
    print(summary(rows))
    record.write(rows, options.output)


def _rows(
    cases: list[tuple[ModelCard, tuple[int, int]]], backends: list[str], frames: int, threads: int
) -> list[dict[str, Any]]:
    rows = []
    for backend in backends:
        missing = BACKENDS[backend].unavailable()
        if missing:
            print(f"{backend} is left out: {missing}", flush=True)
            continue
        for (card, size), with_overlay in itertools.product(cases, (False, True)):
            about = f"{card.name} at {card.input.width}x{card.input.height} on {backend}"
            print(f"{about}, {size[1]}x{size[0]}, overlay {with_overlay} ...", flush=True)
            rows.append(measure(card, backend, size, frames, with_overlay, threads))
    return rows


def _cases(models: list[str], folder: Path) -> Iterator[tuple[ModelCard, tuple[int, int]]]:
    """Every image size into the model's own graph, and into one of the image's size."""
    for model in models:
        card = open_model(model)
        for size in SIZES:
            yield card, size
            if card.input_size != size:
                yield resized(card, size, folder), size


def summary(results: list[dict[str, Any]]) -> str:
    """The results as a table."""
    header = [
        "model",
        "backend",
        "image",
        "graph",
        "overlay",
        "inference ms",
        "host ms",
        "host / inference",
    ]
    header += ["process CPU ms", "network CPU ms"]
    rows = [
        [
            result["model"],
            result["backend"],
            result["image"],
            result["graph"],
            "yes" if result["overlay"] else "no",
            f"{result['stages_ms']['inference']:.2f}",
            f"{result['host_ms']:.2f}",
            f"{result['host_share_of_inference']:.2%}",
            f"{result['process_cpu_ms_per_frame']:.1f}",
            f"{result['network_cpu_ms_per_frame']:.1f}",
        ]
        for result in results
    ]
    return table(header, rows)


def _images(size: tuple[int, int], frames: int) -> Iterator[np.ndarray]:
    drive = StreetDrive(seed=8, width=size[1], height=size[0])
    rendered = [drive.frame(index)[0] for index in range(8)]
    for index in range(frames):
        yield rendered[index % len(rendered)]


def _network_cpu_ms(card: ModelCard, backend: str, threads: int, frames: int) -> float:
    """CPU time per run of the network alone, paced as the node's runs are: one after another."""
    with open_backend(backend, card, BackendOptions(num_threads=threads)) as opened:
        image = np.zeros(opened.input_shape, np.uint8)
        for _ in range(WARM_UP_FRAMES):
            opened.run(image)
        before_s = time.process_time()
        for _ in range(frames):
            opened.run(image)
        return (time.process_time() - before_s) / frames * 1e3


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _median(values: list[float]) -> float:
    return float(np.median(values))


if __name__ == "__main__":
    main()
