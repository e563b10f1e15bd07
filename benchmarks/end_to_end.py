"""``python -m benchmarks.end_to_end``: message in to class map out, this node and the usual one.

For each model and image size all nodes are started, as processes, with the same weights. They take
turns: one works for some seconds on images that it gets two at a time, so that the node limits the
throughput, while the others wait. ``class map`` asks for that alone; the baseline makes its overlay
all the same, as such nodes do. A node's CPU time includes the middleware and rclpy. ``node_auto``
has backend and precision ``auto``, on a card that lets it take bf16 and int8.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from benchmarks import plots, shown
from benchmarks.measured_models import model_named, resized
from benchmarks.options import Size, add_threads, installed, parser_of, size_text, street_images
from benchmarks.record import Record
from benchmarks.timing import FrameMetrics, cpu_s, frame_metrics
from segmentation_node.evaluation.live.pairing import keep_all_qos
from segmentation_node.evaluation.live.target import (
    NodeProcess,
    joined_graph,
    prepare_middleware,
)
from segmentation_node.model_card import ModelCard
from segmentation_node.ros.parameters import NODE_STATUS
from segmentation_node.ros.processor import stamp_nanoseconds

SIZES = ((360, 640), (720, 1280))
MODELS = ("fast_elu_squeezenet_camvid", "fast_elu_squeezenet")
BASELINE, OURS = "baseline_onnxruntime", "node_onnxruntime"
AUTO = "node_auto"
NODES = (BASELINE, "baseline_torch", OURS, "node_torch", "node_openvino", AUTO)
NODE_NAMES = {
    BASELINE: "the usual node",
    "baseline_torch": "the usual node, torch eager",
    OURS: "this node, ONNX Runtime",
    "node_openvino": "this node, OpenVINO",
    "node_torch": "this node, torch eager",
    AUTO: "this node, auto",
}
CLASS_MAP = "class map"
IN_FLIGHT = 2
UNCOUNTED_FRAMES = 4
LEAST_FRAMES = 8
READY_TIMEOUT_S = 120.0
FRAME_TIMEOUT_S = 60.0
RATE = "mean_frame_rate_fps"


class Client(Node):
    """Publishes images for one node and waits for its class maps.

    ``Replay`` of ``evaluation.live`` does the same for this package's node; it pairs class maps
    with latencies and labels, which the baseline does not publish.
    """

    def __init__(self, target: str) -> None:
        super().__init__("client_of_" + target)
        self.target = target
        self.images = self.create_publisher(Image, f"/{target}/image", keep_all_qos())
        self.sent_s: dict[int, float] = {}
        self.frames: list[tuple[float, float]] = []
        self.values: dict[str, str] = {}
        self._listen("class_map", self._on_class_map)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._client_executor = SingleThreadedExecutor()
        self._client_executor.add_node(self)

    def wait_for_node(self) -> None:
        """Spin until the node takes the images."""
        self._spin_until(lambda: self.images.get_subscription_count() > 0, READY_TIMEOUT_S)

    def taken(self) -> str:
        """Run time and precision of a node of this package, by its diagnostics."""
        self._spin_until(lambda: "precision" in self.values, FRAME_TIMEOUT_S)
        return "{backend} {precision}".format(**self.values)

    def ask_for_overlay(self) -> None:
        """Subscribe to the overlay too."""
        self._listen("overlay", lambda message: None)

    def play(self, messages: list[Image], duration_s: float) -> dict[str, Any]:
        """Send images, two on their way at any time: the metrics of the class maps' stream."""
        self.frames.clear()
        started_s = time.perf_counter()
        sent = 0
        while sent < LEAST_FRAMES or time.perf_counter() - started_s < duration_s:
            self._spin_until(lambda: len(self.sent_s) < IN_FLIGHT, FRAME_TIMEOUT_S)
            self._send(messages[sent % len(messages)])
            sent += 1
        self._spin_until(lambda: not self.sent_s, FRAME_TIMEOUT_S)
        return frame_metrics(self.frames, sent)

    def warm_up(self, messages: list[Image]) -> None:
        """Some frames that do not count: another node's threads were in the caches."""
        for message in messages[:UNCOUNTED_FRAMES]:
            self._send(message)
            self._spin_until(lambda: not self.sent_s, FRAME_TIMEOUT_S)

    def _send(self, message: Image) -> None:
        message.header.stamp = self.get_clock().now().to_msg()
        self.sent_s[stamp_nanoseconds(message.header.stamp)] = time.perf_counter()
        self.images.publish(message)

    def _listen(self, output: str, callback: Callable[[Image], None]) -> None:
        self.create_subscription(Image, f"/{self.target}/{output}", callback, keep_all_qos())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self.target}: {NODE_STATUS}":
                self.values = {item.key: item.value for item in status.values}

    def _on_class_map(self, message: Image) -> None:
        sent_s = self.sent_s.pop(stamp_nanoseconds(message.header.stamp), None)
        if sent_s is not None:
            self.frames.append((sent_s, time.perf_counter()))

    def _spin_until(self, is_true: Callable[[], bool], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > deadline_s:
                sys.exit(f"end_to_end: {self.target} does not answer")
            self._client_executor.spin_once(timeout_sec=0.1)


def start(stack: contextlib.ExitStack, node: str, card: ModelCard, threads: int) -> psutil.Process:
    """The process of a node, one of ``NODE_NAMES``; it ends with the stack."""
    kind, _, run_time = node.partition("_")
    remaps = (f"__node:={node}", f"image:=/{node}/image")
    quiet = subprocess.DEVNULL
    if kind == "baseline":
        command = [sys.executable, "-m", "benchmarks.baseline_node", run_time, card.folder]
        command += [str(threads), "--ros-args", "-r", remaps[0], "-r", remaps[1]]
        child = stack.enter_context(subprocess.Popen(command, stdout=quiet, stderr=quiet))
        stack.callback(child.kill)
        return psutil.Process(child.pid)
    parameters: dict[str, Any] = {"model": card.folder, "backend": run_time, "device": "cpu"}
    parameters.update(frame_policy="every", num_threads=threads)
    if node == AUTO:  # what it measured elsewhere, or in other company, plays no part
        parameters.update(precision="auto", engine_dir=card.folder)
    return psutil.Process(stack.enter_context(NodeProcess(parameters, remaps, quiet)).pid)


def measure(
    card: ModelCard, size: Size, nodes: list[str], threads: int, rounds: int, turn_s: float
) -> list[dict[str, Any]]:
    """Every node on images of one size, in turns; one row a node and question."""
    messages = image_messages(size)
    rows = []
    with contextlib.ExitStack() as stack:
        processes, clients = {}, {}
        for node in nodes:  # one after the other: auto measures
            processes[node] = start(stack, node, card, threads)
            clients[node] = Client(node)
            stack.callback(clients[node].destroy_node)
            clients[node].wait_for_node()
        for asked_for in (CLASS_MAP, f"{CLASS_MAP}, overlay"):
            print(f"{card.name}, {size_text(size)}, {asked_for} ...", flush=True)
            if asked_for != CLASS_MAP:
                for client in clients.values():
                    client.ask_for_overlay()
            # A node may find a subscription a little later than it was made.
            time.sleep(1.0)
            turns: dict[str, list[dict[str, Any]]] = {node: [] for node in nodes}
            for _ in range(rounds):
                for node, client in clients.items():
                    turns[node].append(_turn(client, processes[node], messages, turn_s))
            about = {"model": card.name, "classes": len(card.labels)}
            about.update(image=size_text(size), asked_for=asked_for)
            rows += [{**about, **_row(node, turns)} for node in nodes]
            if AUTO in nodes:
                rows[nodes.index(AUTO) - len(nodes)]["taken"] = clients[AUTO].taken()
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure the nodes for every model and size; write and print the rows."""
    parser = parser_of("end_to_end", __doc__)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help="models, or a network for 19 classes"
    )
    parser.add_argument("--nodes", nargs="+", default=list(NODES), choices=list(NODE_NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn-s", type=float, default=2.0, help="seconds of a node's turn")
    add_threads(parser)
    options = parser.parse_args(arguments)
    ours = [node for node in options.nodes if not node.startswith("baseline") and node != AUTO]
    lacking = set(ours) - set(installed({node: node.partition("_")[2] for node in ours}))
    nodes = [BASELINE, *(node for node in options.nodes if node not in {BASELINE, *lacking})]
    settings = {name: getattr(options, name) for name in ("rounds", "turn_s", "threads")}
    about = {**settings, "in_flight": IN_FLIGHT, "encoding": "bgr8"}
    record = Record("end_to_end", about, arguments)
    prepare_middleware()
    rows: list[dict[str, Any]] = []
    with joined_graph(), tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            card = model_named(name, Path(folder) / "random")
            for size in SIZES:
                at_size = resized(card, size, Path(folder) / "resized", AUTO in nodes)
                rows += measure(at_size, size, nodes, **settings)
    record.finish(rows, options.output, SHOWN)


def _turn(
    client: Client, process: psutil.Process, messages: list[Image], turn_s: float
) -> dict[str, Any]:
    client.warm_up(messages)
    before_s = cpu_s(process)
    found = client.play(messages, turn_s)
    found["cpu_ms_per_frame"] = (cpu_s(process) - before_s) / found["num_frames_sent"] * 1e3
    return found


def _row(node: str, turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    pairs = zip(turns[node], turns[BASELINE], strict=True)
    ratios = [own[RATE] / usual[RATE] for own, usual in pairs]
    found = turns[node]
    return {
        "node": node,
        "rounds": len(found),
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
        **{key: float(np.median([turn[key] for turn in found])) for key in found[0]},
    }


def image_messages(size: Size) -> list[Image]:
    """Images of the street as a camera publishes them, in bgr8."""
    messages = []
    for image_hwc in street_images(size, 8):
        message = Image(encoding="bgr8", height=size[0], width=size[1], step=3 * size[1])
        message.header.frame_id = "camera"
        message.data.frombytes(image_hwc[..., ::-1].tobytes())
        messages.append(message)
    return messages


class Compared(FrameMetrics):
    """A node; figures of streams are medians over the rounds, from sending to receipt here."""

    model: str
    image: str  # that is published and that the network takes
    classes: int
    asked_for: str  # what is subscribed: "class map", or "class map, overlay"
    node: str  # in NODE_NAMES; a baseline is benchmarks/baseline_node.py
    taken: NotRequired[str]  # by auto: run time and precision
    rounds: int
    ratio: float  # median over rounds of the frame rate over the baseline's
    ratios: list[float]  # by round
    cpu_ms_per_frame: float  # of the node's process


CASE = {"Model": "`{model}`", "Classes": "{classes}", "Image": "{image}"}


def _for_class_map(record: dict[str, Any]) -> list[shown.Row]:
    """Rows where the class map alone is asked for, in the order of ``NODE_NAMES``."""
    rows = [row for row in record["results"] if row["asked_for"] == CLASS_MAP]
    return sorted(rows, key=lambda row: list(NODE_NAMES).index(row["node"]))


def _name(row: shown.Row) -> str:
    return NODE_NAMES[row["node"]]


def _draw(record: dict[str, Any]) -> Any:
    """Frames per second of every node where the class map alone is asked for."""
    rows = _for_class_map(record)
    cases = list(dict.fromkeys((row["model"], row["image"]) for row in rows))
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        place = cases.index((row["model"], row["image"]))
        series.setdefault(_name(row), {})[place] = row[RATE]
    figure, (axes,) = plots.panels(1, height=4)
    plots.bars(axes, series)
    axes.set_xticks(range(len(cases)), ["\n".join(case) for case in cases], fontsize="small")
    axes.set_ylabel("frames/s")
    axes.margins(y=0.12)
    plots.legend(figure, axes, columns=3)
    return figure


SHOWN = shown.Shown(
    rows={"": Compared},
    tables={
        "end_to_end": shown.columns(
            {
                **CASE,
                "Asked for": "{asked_for}",
                "Node": lambda row: _name(row) + (f" ({row['taken']})" if "taken" in row else ""),
                "Frames/s": "{mean_frame_rate_fps:.1f}",
                "Ratio": "{ratio:.2f}",
                "Latency, ms (p95)": "{median_latency_ms:.0f} ({p95_latency_ms:.0f})",
                "CPU time a frame": "{cpu_ms_per_frame:.0f} ms",
            }
        ),
    },
    plots={
        "end_to_end.png": shown.Plot(_draw, "Frames per second of this node and the usual one"),
    },
)


if __name__ == "__main__":
    main()
