"""``python -m benchmarks.end_to_end``: message in to class map out, this node and the usual one.

Both nodes run the same weights as processes of their own, one after the other in every round, and
get the same images from the same publisher, which keeps two on their way: throughput is limited by
the node. ``class map`` asks for that alone; the baseline makes its overlay all the same, as such
nodes do. A node's CPU time includes the middleware and rclpy.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
import torch
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from safetensors.torch import load_file
from sensor_msgs.msg import Image

from benchmarks.frame_metrics import frame_metrics
from benchmarks.processor import usable_cores
from benchmarks.record import RESULTS, Record
from segmentation_node.evaluation.report import table
from segmentation_node.evaluation.street import StreetDrive
from segmentation_node.model_card import CARD_FILE, ModelCard, find_model, read_card, sha256_of
from segmentation_node.models import models_folder
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.ros.demo import prepare_middleware
from segmentation_node.ros.frames import stamp_nanoseconds
from segmentation_node.ros.replay import keep_all_qos
from training.export import write_card
from training.onnx_graph import OPSET, export_onnx, graph_variant

SIZES = ((360, 640), (720, 1280))
OURS, BASELINE = "segmentation_node", "baseline"
IN_FLIGHT = 2
WARM_UP_FRAMES = 5
READY_TIMEOUT_S = 60.0
FRAME_TIMEOUT_S = 30.0


class Client(Node):
    """Publishes images for one node and waits for its class maps."""

    def __init__(self, node_name: str, with_overlay: bool) -> None:
        super().__init__("end_to_end_client")
        self.images = self.create_publisher(Image, "image", keep_all_qos())
        self.sent_s: dict[int, float] = {}
        self.frames: list[tuple[float, float]] = []
        topic = f"/{node_name}/class_map"
        self.create_subscription(Image, topic, self._on_class_map, keep_all_qos())
        if with_overlay:
            topic = f"/{node_name}/overlay"
            self.create_subscription(Image, topic, lambda message: None, keep_all_qos())
        self.executor_ = SingleThreadedExecutor()
        self.executor_.add_node(self)

    def wait_for_node(self) -> None:
        """Spin until somebody takes the images."""
        self._spin_until(lambda: self.images.get_subscription_count() > 0, READY_TIMEOUT_S)
        # The node may find our subscriptions a little later than we its publishers.
        time.sleep(1.0)

    def play(self, messages: list[Image], frames: int) -> None:
        """Send ``frames`` images, two on their way at any time, and wait for all answers."""
        for index in range(frames):
            self._spin_until(lambda: len(self.sent_s) < IN_FLIGHT, FRAME_TIMEOUT_S)
            message = messages[index % len(messages)]
            message.header.stamp = self.get_clock().now().to_msg()
            self.sent_s[stamp_nanoseconds(message.header.stamp)] = time.perf_counter()
            self.images.publish(message)
        self._spin_until(lambda: not self.sent_s, FRAME_TIMEOUT_S)

    def _on_class_map(self, message: Image) -> None:
        sent_s = self.sent_s.pop(stamp_nanoseconds(message.header.stamp), None)
        if sent_s is not None:
            self.frames.append((sent_s, time.perf_counter()))

    def _spin_until(self, is_true: Any, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > deadline_s:
                sys.exit("end_to_end: the node does not answer")
            self.executor_.spin_once(timeout_sec=0.1)


def measure(
    command: list[str], node_name: str, messages: list[Image], frames: int, with_overlay: bool
) -> dict[str, float]:
    """One node process: frames per second, latencies in ms, CPU time in ms a frame."""
    client = Client(node_name, with_overlay)
    try:
        with _running(command) as process:
            client.wait_for_node()
            client.play(messages, WARM_UP_FRAMES)
            client.frames.clear()
            before_s = _cpu_s(process)
            client.play(messages, frames)
            cpu_ms = (_cpu_s(process) - before_s) / frames * 1e3
    finally:
        client.destroy_node()
    return {**frame_metrics(client.frames, frames), "cpu_ms_per_frame": cpu_ms}


def commands(
    model: str, size: tuple[int, int], threads: int, folder: Path
) -> dict[str, tuple[list[str], str]]:
    """Command and node name of the package's node and of the baseline: same weights, same size."""
    card, logits_path = model_at(read_card(find_model(model, models_folder())), size, folder)
    ours = [sys.executable, "-m", "segmentation_node.ros.main", "--ros-args"]
    parameters = {"model": card.folder, "frame_policy": "every", "num_threads": threads}
    for name, value in parameters.items():
        ours += ["-p", f"{name}:={value}"]
    baseline = [sys.executable, "-m", "benchmarks.baseline_node", str(logits_path), card.folder]
    return {OURS: (ours, "segmentation_node"), BASELINE: (baseline, "baseline_node")}


def model_at(card: ModelCard, size: tuple[int, int], folder: Path) -> tuple[ModelCard, Path]:
    """The model with graphs of this (height, width): its card, and the graph of its logits."""
    network = build_network(card.network.name, len(card.labels), card.network.options)
    network.load_state_dict(load_file(card.artifact_path("weights")))
    network.eval()
    normalise = Normalise(card.input.mean_rgb, card.input.std_rgb)
    trained = card.weights.trained_classes
    graph = DeployGraph(normalise, network, True, trained_classes=trained)
    graph = graph_variant(graph, "uint8")
    target = folder / f"{card.name}_{size[1]}x{size[0]}"
    target.mkdir()
    export_onnx(graph, size, 1, card.label_set, target / "model.onnx")
    values = yaml.safe_load((Path(card.folder) / CARD_FILE).read_text())
    values["input"].update(height=size[0], width=size[1])
    kept = [item for item in values["artifacts"] if item["kind"] == "onnx"]
    kept[0]["sha256"] = sha256_of(str(target / "model.onnx"))
    values.update(artifacts=kept, accuracy=[])
    write_card(target, values)
    logits_path = target / "logits.onnx"
    image = (torch.zeros(1, 3, *size),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # export_onnx says why
        torch.onnx.export(
            network,
            image,
            logits_path,
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=False,
        )
    return read_card(str(target)), logits_path


def main(arguments: list[str] | None = None) -> None:
    """Measure both nodes for every model and size, in turns; print the ratios and write them."""
    parser = argparse.ArgumentParser(prog="benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["elu_squeezenet_camvid"])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--output", type=Path, default=RESULTS / "end_to_end.json")
    options = parser.parse_args(arguments)
    prepare_middleware()
    settings = {"threads": options.threads, "frames": options.frames, "rounds": options.rounds}
    record = Record("end_to_end", settings, arguments)
    rclpy.init()
    results = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for model in options.models:
                for size in SIZES:
                    nodes = commands(model, size, options.threads, Path(folder))
                    results += _compare(model, size, nodes, options.frames, options.rounds)
    finally:
        rclpy.shutdown()
    print(summary(results))
    record.write(results, options.output)


def summary(results: list[dict[str, Any]]) -> str:
    """The results as a table: what the node does, and how many times what the baseline does."""
    header = ["model", "image", "asked for", "frames/s", "baseline", "ratio", "p50 ms", "baseline"]
    header += ["CPU ms", "baseline"]
    rows = [
        [
            row["model"],
            row["image"],
            row["asked_for"],
            f"{row[OURS]['mean_frame_rate_fps']:.1f}",
            f"{row[BASELINE]['mean_frame_rate_fps']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row[OURS]['median_latency_ms']:.0f}",
            f"{row[BASELINE]['median_latency_ms']:.0f}",
            f"{row[OURS]['cpu_ms_per_frame']:.0f}",
            f"{row[BASELINE]['cpu_ms_per_frame']:.0f}",
        ]
        for row in results
    ]
    return table(header, rows)


def _compare(
    model: str,
    size: tuple[int, int],
    nodes: dict[str, tuple[list[str], str]],
    frames: int,
    rounds: int,
) -> list[dict[str, Any]]:
    messages = _messages(size)
    rows = []
    for with_overlay in (False, True):
        asked_for = "class map, overlay" if with_overlay else "class map"
        print(f"{model}, {size[1]}x{size[0]}, {asked_for} ...", flush=True)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in nodes}
        for _ in range(rounds):
            for name, (command, node_name) in nodes.items():
                found[name].append(measure(command, node_name, messages, frames, with_overlay))
        medians = {name: _medians(runs) for name, runs in found.items()}
        pairs = zip(found[OURS], found[BASELINE], strict=True)
        rate = "mean_frame_rate_fps"
        ratios = [ours[rate] / usual[rate] for ours, usual in pairs]
        rows.append(
            {
                "model": model,
                "image": f"{size[1]}x{size[0]}",
                "asked_for": asked_for,
                "rounds": rounds,
                "frames": frames,
                "ratio": float(np.median(ratios)),
                "ratios": ratios,
                **medians,
            }
        )
    return rows


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.median([run[key] for run in runs])) for key in runs[0]}


def _messages(size: tuple[int, int]) -> list[Image]:
    drive = StreetDrive(seed=8, width=size[1], height=size[0])
    messages = []
    for index in range(8):
        pixels = drive.frame(index)[0]
        message = Image(encoding="rgb8", height=size[0], width=size[1], step=3 * size[1])
        message.header.frame_id = "camera"
        message.data.frombytes(pixels.tobytes())
        messages.append(message)
    return messages


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[psutil.Process]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            yield psutil.Process(child.pid)
        finally:
            child.kill()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
