"""``python -m benchmarks.cameras``: several cameras into one node and into a node each, in turns.

The cameras publish one after the other, each at the same rate, all together more than two cores can
do. For every way and round fresh nodes are started, so that the memory is theirs alone.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import psutil
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from benchmarks import shown
from benchmarks.end_to_end import READY_TIMEOUT_S, image_messages
from benchmarks.options import add_threads, parser_of, size_text
from benchmarks.record import Record
from benchmarks.timing import cpu_s
from segmentation_node.backends import BACKENDS
from segmentation_node.evaluation.live.target import (
    NodeProcess,
    joined_graph,
    prepare_middleware,
)
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.ros.processor import stamp_nanoseconds

ONE, SEPARATE = "one node", "a node each"
WAYS = (SEPARATE, ONE)
MODEL = "fast_elu_squeezenet_camvid"
WARM_UP_S = 2.0
QOS = QoSProfile(depth=5)


class Cameras(Node):
    """Publishes the images of all cameras and takes their class maps."""

    def __init__(self, topics: dict[str, str]) -> None:
        """``topics``: that of the class map by that of the images."""
        super().__init__("cameras")
        self.images = [self.create_publisher(Image, topic, QOS) for topic in topics]
        self.ages_ms: list[list[float]] = [[] for _ in topics]
        for camera, topic in enumerate(topics.values()):
            self.create_subscription(Image, topic, self._taker(camera), QOS)
        self._cameras_executor = SingleThreadedExecutor()
        self._cameras_executor.add_node(self)

    def wait_for_nodes(self) -> None:
        """Spin until every camera's images are taken."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not all(publisher.get_subscription_count() for publisher in self.images):
            if time.monotonic() > deadline_s:
                sys.exit("cameras: a node does not take its images")
            self._cameras_executor.spin_once(timeout_sec=0.1)

    def play(self, messages: list[Image], rate_hz: float, duration_s: float) -> None:
        """Publish for so long, at this rate of each camera, and forget what came before."""
        for ages_ms in self.ages_ms:
            ages_ms.clear()
        started_s = time.monotonic()
        sent = 0
        while time.monotonic() < started_s + duration_s:
            due_s = started_s + sent / (rate_hz * len(self.images))
            if time.monotonic() < due_s:
                left_s = max(0.0, due_s - time.monotonic())
                self._cameras_executor.spin_once(timeout_sec=left_s)
                continue
            message = messages[sent % len(messages)]
            message.header.stamp = self.get_clock().now().to_msg()
            self.images[sent % len(self.images)].publish(message)
            sent += 1

    def close(self) -> None:
        """Leave the graph."""
        self._cameras_executor.shutdown()
        self.destroy_node()

    def _taker(self, camera: int) -> Callable[[Image], None]:
        def take(message: Image) -> None:
            age_ns = self.get_clock().now().nanoseconds - stamp_nanoseconds(message.header.stamp)
            self.ages_ms[camera].append(age_ns * 1e-6)

        return take


def topics(way: str, names: list[str]) -> dict[str, str]:
    """The class map's topic by the images'."""
    pattern = "/segmentation_node/{}/class_map" if way == ONE else "/{}/segmentation_node/class_map"
    return {f"/{name}/image": pattern.format(name) for name in names}


def measure(
    way: str, names: list[str], parameters: dict[str, Any], messages: list[Image], rate_hz: float,
    turn_s: float,
) -> dict[str, Any]:  # fmt: skip
    """One turn of a way."""
    quiet = subprocess.DEVNULL
    given: list[tuple[dict[str, Any], list[str]]] = [({**parameters, "cameras": names}, [])]
    if way == SEPARATE:
        given = [(parameters, [f"__ns:=/{name}"]) for name in names]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(NodeProcess(*of_one, quiet)) for of_one in given]
        nodes = [psutil.Process(node.pid) for node in started]
        cameras = Cameras(topics(way, names))
        stack.callback(cameras.close)
        cameras.wait_for_nodes()
        cameras.play(messages, rate_hz, WARM_UP_S)
        before_s = sum(map(cpu_s, nodes))
        cameras.play(messages, rate_hz, turn_s)
        spent_s = sum(map(cpu_s, nodes)) - before_s
        memory_mb = sum(node.memory_full_info().pss for node in nodes) / 2**20
    frames = [len(ages_ms) for ages_ms in cameras.ages_ms]
    ages_ms = np.concatenate([np.array(item) for item in cameras.ages_ms])
    total = sum(frames)
    if not total:
        sys.exit(f"cameras: {way} gave no class map within {turn_s:g} s")
    return {
        "frame_rate_fps": total / turn_s,
        "least_share": min(frames) * len(frames) / total,
        "median_age_ms": float(np.median(ages_ms)),
        "p95_age_ms": float(np.quantile(ages_ms, 0.95)),
        "memory_mb": memory_mb,
        "cpu_ms_per_frame": spent_s / total * 1e3,
        "cores_used": spent_s / turn_s,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways in turns; write and print the rows."""
    parser = parser_of("cameras", __doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--backend", default="onnxruntime", choices=BACKENDS)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--rate-hz", type=float, default=5.0, help="of each camera")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn-s", type=float, default=15.0, help="seconds of a way's turn")
    add_threads(parser, "of each node's run time")
    options = parser.parse_args(arguments)
    card = open_model(options.model)
    names = ("cameras", "rate_hz", "rounds", "turn_s", "threads")
    record = Record("cameras", {name: getattr(options, name) for name in names}, arguments)
    prepare_middleware()
    with joined_graph():
        rows = _rows(card, options.backend, **record.content["settings"])
    record.finish(rows, options.output, SHOWN)


def _rows(
    card: ModelCard,
    backend: str,
    cameras: int,
    rate_hz: float,
    rounds: int,
    turn_s: float,
    threads: int,
) -> list[dict[str, Any]]:
    names = [f"camera_{number}" for number in range(cameras)]
    parameters = {"model": card.folder, "backend": backend, "num_threads": threads}
    messages = image_messages(card.input_size)
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS:
            print(f"round {number + 1}, {way} ...", flush=True)
            turns[way].append(measure(way, names, parameters, messages, rate_hz, turn_s))
    about = {"model": card.name, "backend": backend, "image": size_text(card.input_size)}
    return [{**about, **_row(way, turns)} for way in WAYS]


def _row(way: str, turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def ratio(key: str) -> float:
        pairs = zip(turns[way], turns[SEPARATE], strict=True)
        return float(np.median([own[key] / other[key] for own, other in pairs]))

    found = turns[way]
    medians = {key: float(np.median([turn[key] for turn in found])) for key in found[0]}
    return {
        "way": way,
        **medians,
        "least_share": min(turn["least_share"] for turn in found),
        "frame_rate_ratio": ratio("frame_rate_fps"),
        "memory_ratio": ratio("memory_mb"),
    }


class Way(TypedDict):
    """All cameras together; medians over the rounds, ratios of one round to a node each."""

    model: str
    backend: str
    image: str  # that is published and that the network takes
    way: str  # in WAYS
    frame_rate_fps: float  # class maps that came, of all cameras
    frame_rate_ratio: float
    least_share: float  # frames of the camera with fewest over the mean, the least of all rounds
    median_age_ms: float  # from the image's stamp to the receipt of its class map
    p95_age_ms: float
    memory_mb: float  # MiB of all nodes; what they share counts once (PSS)
    memory_ratio: float
    cpu_ms_per_frame: float  # of all nodes
    cores_used: float  # by all nodes


SHOWN = shown.Shown(
    rows={"": Way},
    tables={
        "cameras": shown.columns(
            {
                "Cameras into": "{way}",
                "Frames/s": "{frame_rate_fps:.1f} ({frame_rate_ratio:.2f})",
                "Least share": "{least_share:.2f}",
                "Age, ms (p95)": "{median_age_ms:.0f} ({p95_age_ms:.0f})",
                "Memory": "{memory_mb:.0f} MiB ({memory_ratio:.2f})",
                "CPU time a frame": "{cpu_ms_per_frame:.0f} ms",
                "Cores": "{cores_used:.2f}",
            }
        )
    },
)


if __name__ == "__main__":
    main()
