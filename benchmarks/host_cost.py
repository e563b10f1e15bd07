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
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import CAMERA_SIZES, MODEL, end_with, shown
from benchmarks.measured_models import resized
from benchmarks.nodes import cpu_s, local_graph
from benchmarks.options import (
    THREADS,
    Size,
    installed,
    parser_of,
    settings_of,
    size_text,
    street_images,
)
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import wall_and_cpu_s
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.model_card import ModelCard, open_model

HOST_STAGES = ("convert", "preprocess", "postprocess", "publish")
WARM_UP_FRAMES = 5
CHUNK_FRAMES = 10
"""CPU time is read after each chunk, and its median taken: a busy moment must not decide."""


def measure(
    card: ModelCard, backend: str, size: Size, with_overlay: bool, options: argparse.Namespace
) -> Row:
    """Medians in ms over frames of this size through a node process."""
    parameters: Row = {"model": card.folder, "backend": backend, "device": "cpu"}
    parameters.update(frame_policy="every", num_threads=options.threads)
    with Replay(with_overlay=with_overlay) as replay, NodeProcess(parameters) as process:
        replay.wait_until_ready(process)
        images = street_images(size, CHUNK_FRAMES)
        replay.play(images[:WARM_UP_FRAMES], process, in_flight=1)
        replay.pairing.results.clear()
        cpu_ms = []
        for _ in range(max(1, options.frames // CHUNK_FRAMES)):
            before_s = cpu_s([process])
            replay.play(images, process, in_flight=1)
            cpu_ms.append((cpu_s([process]) - before_s) / CHUNK_FRAMES * 1e3)
        latencies = [result.latency for result in replay.pairing.results]
    times_ms = {
        stage: np.array([getattr(item, stage + "_ms") for item in latencies])
        for stage in (*HOST_STAGES, "inference", "transport")
    }
    stages_ms = {stage: float(np.median(found)) for stage, found in times_ms.items()}
    host_ms = float(np.median(sum(times_ms[stage] for stage in HOST_STAGES)))
    return {
        "model": card.name,
        "backend": backend,
        "image": size_text(size),  # that is published
        "graph": size_text(card.input_size),
        "overlay": with_overlay,  # whether somebody takes it
        "threads": options.threads,
        "frames": len(latencies),
        "stages_ms": stages_ms,  # of ~/latency, medians; transport is from stamp to receipt
        "host_ms": host_ms,  # median of a frame's HOST_STAGES together
        "host_share_of_inference": host_ms / stages_ms["inference"],
        "process_cpu_ms_per_frame": float(np.median(cpu_ms)),  # with rclpy and the middleware
        "network_cpu_ms_per_frame": _network_cpu_ms(card, backend, options),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure models and backends at two sizes, with and without overlay; write the rows."""
    defaults = {"models": [MODEL], "backends": ["onnxruntime", "openvino"], "frames": 60}
    parser = parser_of("host_cost", __doc__, {"backends": BACKENDS}, **defaults, threads=THREADS)
    options = parser.parse_args(arguments)
    record, rows = Record("host_cost", settings_of(options), arguments), []
    with local_graph(), tempfile.TemporaryDirectory() as folder:
        cases = list(_cases(options.models, Path(folder)))
        backends = installed({name: name for name in options.backends})
        for backend, (card, size), overlay in itertools.product(backends, cases, (False, True)):
            graph = size_text(card.input_size)
            print(f"{card.name} at {graph} on {backend}, {size_text(size)}, overlay {overlay} ...")
            rows.append(measure(card, backend, size, overlay, options))
    record.finish(rows, options.output, SHOWN)


def _cases(models: list[str], folder: Path) -> Iterator[tuple[ModelCard, Size]]:
    """Every image size into the model's own graph, and into one of the image's size."""
    for model in models:
        card = open_model(model)
        for size in CAMERA_SIZES:
            yield card, size
            if card.input_size != size:
                yield resized(card, size, folder), size


def _network_cpu_ms(card: ModelCard, backend: str, options: argparse.Namespace) -> float:
    """CPU time per run of the network alone, paced as the node's runs are: one after another."""
    with open_backend(backend, card, BackendOptions(num_threads=options.threads)) as opened:
        image = np.zeros(opened.input_shape, np.uint8)
        for _ in range(WARM_UP_FRAMES):
            opened.run(image)
        _, spent_s = wall_and_cpu_s(lambda: [opened.run(image) for _ in range(options.frames)])
        return spent_s / options.frames * 1e3


CASE: dict[str, shown.Cell] = {
    "Model": "`{model}`",
    "Backend": lambda row: shown.run_time({"run_time": row["backend"]}),
    "Image": "{image}",
    "Graph": "{graph}",
    "Overlay": shown.yes_or_no("overlay"),
}


def _stages(record: Row) -> shown.Grid:
    stages = dict.fromkeys(stage for row in record["results"] for stage in row["stages_ms"])
    return shown.columns(
        {**CASE, **{f"{stage}, ms": f"{{stages_ms[{stage}]:.2f}}" for stage in stages}}
    )(record)


SHOWN = shown.Shown(
    tables={
        "host_cost": shown.columns(
            {
                **CASE,
                "Network": "{stages_ms[inference]:.1f} ms",
                "Host": "{host_ms:.2f} ms",
                "Host / network": "{host_share_of_inference:.1%}",
                "CPU time, process": "{process_cpu_ms_per_frame:.0f} ms",
                "CPU time, network alone": "{network_cpu_ms_per_frame:.0f} ms",
            }
        ),
        "host_cost.stages": _stages,
    },
)


if __name__ == "__main__":
    end_with(main)
