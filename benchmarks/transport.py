"""``python -m benchmarks.transport``: which middleware settings deliver camera images.

A camera process publishes images at 20 Hz, a node process takes them, nothing is computed. For
every size and setting: the share that arrives, the time from stamp to callback, CPU time of both.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from benchmarks import shown
from benchmarks.options import Size, parser_of, size_of, size_text, street_images
from benchmarks.record import Record
from benchmarks.timing import FrameMetrics, frame_metrics

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_images.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SIZES = ((360, 640), (720, 1280), (1024, 2048))
RATE_HZ = 20.0
JPEG_QUALITY = 95
QUIET_S = 3.0
DISCOVERY_TIMEOUT_S = 30.0


class Setting(NamedTuple):
    """How both sides are set up."""

    is_reliable: bool
    sender_has_profile: bool
    receiver_has_profile: bool
    is_compressed: bool = False


SETTINGS = {
    "default, best effort": Setting(False, False, False),
    "default, reliable": Setting(True, False, False),
    "profile on both, best effort": Setting(False, True, True),
    "profile on both, reliable": Setting(True, True, True),
    "profile on the sender, best effort": Setting(False, True, False),
    "profile on the node, best effort": Setting(False, False, True),
    "profile on the node, reliable": Setting(True, False, True),
    "default, best effort, compressed": Setting(False, False, False, True),
    "default, reliable, compressed": Setting(True, False, False, True),
}


def camera(size: Size, frames: int, setting: Setting) -> dict[str, Any]:
    """Publish images at the rate; runs in a process of its own."""
    import rclpy

    rclpy.init()
    node = rclpy.create_node("transport_camera")
    publisher = node.create_publisher(_message_type(setting), "transport_image", _qos(setting))
    messages = [_message(image_hwc, setting) for image_hwc in street_images(size, 4)]
    deadline_s = time.monotonic() + DISCOVERY_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline_s:
            sys.exit("transport: nobody takes the images")
        time.sleep(0.05)
    time.sleep(1.0)
    before_s, due_s = time.process_time(), time.monotonic()
    sent_s = []
    for index in range(frames):
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s += 1.0 / RATE_HZ
        message = messages[index % len(messages)]
        message.header.stamp = node.get_clock().now().to_msg()
        sent_s.append(time.monotonic())
        publisher.publish(message)
    cpu_ms = (time.process_time() - before_s) / frames * 1e3
    # A reliable writer still has to serve those who missed something.
    time.sleep(QUIET_S)
    rate_fps = (frames - 1) / (sent_s[-1] - sent_s[0]) if frames > 1 else None
    return {"cpu_ms_per_frame": cpu_ms, "bytes": len(messages[0].data), "rate_fps": rate_fps}


def node(size: Size, frames: int, setting: Setting) -> dict[str, Any]:
    """Take images until none has come for a while; runs in a process of its own."""
    import rclpy

    rclpy.init()
    receiver = rclpy.create_node("transport_node")
    taken: list[tuple[float, float]] = []
    last_s = [time.monotonic() + DISCOVERY_TIMEOUT_S]

    def on_image(message: Any) -> None:
        stamp = message.header.stamp
        now_ns = receiver.get_clock().now().nanoseconds
        taken.append((stamp.sec + stamp.nanosec / 1e9, now_ns / 1e9))
        last_s[0] = time.monotonic()

    receiver.create_subscription(_message_type(setting), "transport_image", on_image, _qos(setting))
    before_s = time.process_time()
    while time.monotonic() < last_s[0] + QUIET_S and len(taken) < frames:
        rclpy.spin_once(receiver, timeout_sec=0.2)
    return {
        "metrics": frame_metrics(taken, frames),
        "cpu_ms_per_frame": (time.process_time() - before_s) / max(1, len(taken)) * 1e3,
    }


ROLES = {"camera": camera, "node": node}


def measure(size: Size, frames: int, name: str) -> dict[str, Any]:
    """One size under one setting, in two fresh processes."""
    setting = SETTINGS[name]
    arguments = [size_text(size), str(frames), name]
    has_profile = {"camera": setting.sender_has_profile, "node": setting.receiver_has_profile}
    children = {
        role: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.transport", "--role", role, *arguments],
            env=_environment(has_profile[role]),
            stdout=subprocess.PIPE,
            text=True,
        )
        for role in ROLES
    }
    outputs = {role: child.communicate()[0] for role, child in children.items()}
    for role, child in children.items():
        if child.returncode:
            sys.exit(f"transport: the {role} ended with {child.returncode}")
    found = {role: json.loads(output.splitlines()[-1]) for role, output in outputs.items()}
    metrics = found["node"]["metrics"]
    return {
        "image": size_text(size),
        "setting": name,
        "message_bytes": found["camera"]["bytes"],
        "mean_playback_frame_rate_fps": found["camera"]["rate_fps"],
        **metrics,
        "delivered": 1 - metrics["num_missed_frames"] / frames,
        "camera_cpu_ms_per_frame": found["camera"]["cpu_ms_per_frame"],
        "node_cpu_ms_per_frame": found["node"]["cpu_ms_per_frame"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure every size and setting, or play one role of a measurement."""
    parser = parser_of("transport", __doc__)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--sizes", nargs="+", default=SIZES, type=size_of, metavar="WIDTHxHEIGHT")
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        role, size, frames, name = options.role
        found = ROLES[role](size_of(size), int(frames), SETTINGS[name])
        print(json.dumps(found), flush=True)
        # Nothing is left to save; tearing the middleware down can take seconds.
        os._exit(0)
    settings = {"rate_hz": RATE_HZ, "frames": options.frames, "jpeg_quality": JPEG_QUALITY}
    record, results = Record("transport", settings, arguments), []
    for size in options.sizes:
        for name in SETTINGS:
            print(f"{size_text(size)}, {name} ...", flush=True)
            results.append(measure(size, options.frames, name))
    record.finish(results, options.output, SHOWN)


def _environment(has_profile: bool) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in PROFILE_VARIABLES}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if has_profile:
        environment.update(dict.fromkeys(PROFILE_VARIABLES, str(PROFILE)))
    return environment


def _message_type(setting: Setting) -> Any:
    from sensor_msgs.msg import CompressedImage, Image

    return CompressedImage if setting.is_compressed else Image


def _qos(setting: Setting) -> Any:
    from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy

    policy = QoSReliabilityPolicy
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=5,  # as in rclcpp's SensorDataQoS, which camera drivers use
        reliability=policy.RELIABLE if setting.is_reliable else policy.BEST_EFFORT,
    )


def _message(image_hwc: np.ndarray, setting: Setting) -> Any:
    message = _message_type(setting)()
    message.header.frame_id = "camera"
    if setting.is_compressed:
        message.format = "rgb8; jpeg compressed bgr8"
        bgr = cv2.cvtColor(image_hwc, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        message.data.frombytes(encoded.tobytes())
        return message
    message.encoding = "rgb8"
    message.height, message.width = image_hwc.shape[:2]
    message.step = 3 * message.width
    message.data.frombytes(image_hwc.tobytes())
    return message


class Transported(FrameMetrics):
    """An image size under one setting; latencies are from stamp to callback."""

    image: str
    setting: str  # name in SETTINGS
    message_bytes: int  # of the image's data
    mean_playback_frame_rate_fps: float | None  # that the camera reached
    delivered: float  # share
    camera_cpu_ms_per_frame: float  # of the sending process
    node_cpu_ms_per_frame: float  # of the receiving process, by received frame


def _delivered(row: shown.Row) -> str:
    share = shown.percent(row["delivered"])
    if row["median_latency_ms"] is None:
        return share
    return f"{share}, {row['median_latency_ms']:.1f} ({row['p95_latency_ms']:.1f}) ms"


def _by_setting(cell: shown.Cell) -> shown.Table:
    return lambda record: shown.pivot(record["results"], {"Setting": "{setting}"}, {"{}": cell})


CPU_MS = "{camera_cpu_ms_per_frame:.1f} + {node_cpu_ms_per_frame:.1f} ms"
SHOWN = shown.Shown(
    rows={"": Transported},
    tables={"transport": _by_setting(_delivered), "transport.cpu": _by_setting(CPU_MS)},
)


if __name__ == "__main__":
    main()
