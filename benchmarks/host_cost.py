"""``python -m benchmarks.host_cost``: what the node spends on a frame beside the network.

The node runs as a process and gets images over DDS, one at a time; times are stage by stage.

The host's part is everything but the backend's run: conversion, resizing, class map, overlay and
publishing, from the frame's own stage times; with the model's own graph and with one of the
image's size. What the middleware and rclpy spend before the node's callback is not in the stages;
the CPU time of the whole process against that of the network alone shows it.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import psutil

from benchmarks import shown
from benchmarks.measured_models import resized
from benchmarks.options import Size, add_threads, installed, parser_of, size_text, street_images
from benchmarks.record import Record
from benchmarks.timing import cpu_s, wall_and_cpu_s
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.model_card import ModelCard, open_model

SIZES = ((360, 640), (720, 1280))
MODELS = ("fast_elu_squeezenet_camvid",)
BACKENDS_TIMED = ("onnxruntime", "openvino")
HOST_STAGES = ("convert", "preprocess", "postprocess", "publish")
WARM_UP_FRAMES = 5
CHUNK_FRAMES = 10
"""CPU time is read after each chunk, and its median taken: a busy moment must not decide."""


def measure(
    card: ModelCard, backend: str, size: Size, frames: int, with_overlay: bool, threads: int
) -> dict[str, Any]:
    """Medians in ms over ``frames`` frames of this size through a node process."""
    from segmentation_node.evaluation.live.replay import Replay
    from segmentation_node.evaluation.live.target import NodeProcess

    parameters: dict[str, Any] = {"model": card.folder, "backend": backend, "device": "cpu"}
    parameters.update(frame_policy="every", num_threads=threads)
    with Replay(with_overlay=with_overlay) as replay, NodeProcess(parameters) as process:
        replay.wait_until_ready(process)
        images = street_images(size, CHUNK_FRAMES)
        replay.play(images[:WARM_UP_FRAMES], process, in_flight=1)
        replay.results.clear()
        node = psutil.Process(process.pid)
        cpu_ms = []
        for _ in range(max(1, frames // CHUNK_FRAMES)):
            before_s = cpu_s(node)
            replay.play(images, process, in_flight=1)
            cpu_ms.append((cpu_s(node) - before_s) / CHUNK_FRAMES * 1e3)
        latencies = [result.latency for result in replay.results]
    times_ms = {
        stage: np.array([getattr(item, stage + "_ms") for item in latencies])
        for stage in (*HOST_STAGES, "inference", "transport")
    }
    stages_ms = {stage: float(np.median(found)) for stage, found in times_ms.items()}
    host_ms = float(np.median(sum(times_ms[stage] for stage in HOST_STAGES)))
    return {
        "model": card.name,
        "backend": backend,
        "image": size_text(size),
        "graph": size_text(card.input_size),
        "overlay": with_overlay,
        "threads": threads,
        "frames": len(latencies),
        "stages_ms": stages_ms,
        "host_ms": host_ms,
        "host_share_of_inference": host_ms / stages_ms["inference"],
        "process_cpu_ms_per_frame": float(np.median(cpu_ms)),
        "network_cpu_ms_per_frame": _network_cpu_ms(card, backend, threads, frames),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure models and backends at two sizes, with and without overlay; write the rows."""
    from segmentation_node.evaluation.live.target import joined_graph, prepare_middleware

    parser = parser_of("host_cost", __doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS_TIMED), choices=BACKENDS)
    parser.add_argument("--frames", type=int, default=60)
    add_threads(parser)
    options = parser.parse_args(arguments)
    prepare_middleware()
    settings = {"threads": options.threads, "frames": options.frames}
    record = Record("host_cost", settings, arguments)
    with joined_graph(), tempfile.TemporaryDirectory() as folder:
        cases = list(_cases(options.models, Path(folder)))
        backends = installed({name: name for name in options.backends})
        rows = []
        for backend, (card, size), overlay in itertools.product(backends, cases, (False, True)):
            graph = size_text(card.input_size)
            print(f"{card.name} at {graph} on {backend}, {size_text(size)}, overlay {overlay} ...")
            rows.append(measure(card, backend, size, options.frames, overlay, options.threads))
    record.finish(rows, options.output, SHOWN)


def _cases(models: list[str], folder: Path) -> Iterator[tuple[ModelCard, Size]]:
    """Every image size into the model's own graph, and into one of the image's size."""
    for model in models:
        card = open_model(model)
        for size in SIZES:
            yield card, size
            if card.input_size != size:
                yield resized(card, size, folder), size


def _network_cpu_ms(card: ModelCard, backend: str, threads: int, frames: int) -> float:
    """CPU time per run of the network alone, paced as the node's runs are: one after another."""
    with open_backend(backend, card, BackendOptions(num_threads=threads)) as opened:
        image = np.zeros(opened.input_shape, np.uint8)
        for _ in range(WARM_UP_FRAMES):
            opened.run(image)
        _, spent_s = wall_and_cpu_s(lambda: [opened.run(image) for _ in range(frames)])
        return spent_s / frames * 1e3


class HostCost(TypedDict):
    """A model on a backend at an image size."""

    model: str
    backend: str
    image: str  # that is published
    graph: str  # size of the network's input: the model's own, or the image's
    overlay: bool  # whether somebody takes the overlay
    threads: int
    frames: int  # counted
    stages_ms: dict[str, float]  # medians by stage of ~/latency; transport is stamp to receipt
    host_ms: float  # median of a frame's HOST_STAGES together
    host_share_of_inference: float
    process_cpu_ms_per_frame: float  # of the node's process, rclpy and the middleware included
    network_cpu_ms_per_frame: float  # of the network alone in the benchmark's process


CASE: dict[str, shown.Cell] = {
    "Model": "`{model}`",
    "Backend": lambda row: shown.RUN_TIME_NAMES.get(row["backend"], row["backend"]),
    "Image": "{image}",
    "Graph": "{graph}",
    "Overlay": shown.yes_or_no("overlay"),
}
_table = shown.columns(
    {
        **CASE,
        "Network": "{stages_ms[inference]:.1f} ms",
        "Host": "{host_ms:.2f} ms",
        "Host / network": "{host_share_of_inference:.1%}",
        "CPU time, process": "{process_cpu_ms_per_frame:.0f} ms",
        "CPU time, network alone": "{network_cpu_ms_per_frame:.0f} ms",
    }
)


def _stages(record: dict[str, Any]) -> shown.Grid:
    stages = dict.fromkeys(stage for row in record["results"] for stage in row["stages_ms"])
    return shown.columns(
        {**CASE, **{f"{stage}, ms": f"{{stages_ms[{stage}]:.2f}}" for stage in stages}}
    )(record)


SHOWN = shown.Shown(
    rows={"": HostCost},
    tables={"host_cost": _table, "host_cost.stages": _stages},
)


if __name__ == "__main__":
    main()
