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
from typing import Any, NamedTuple

import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from benchmarks import ROOT, end_with, shown
from benchmarks.nodes import image_messages
from benchmarks.options import Size, parser_of, settings_of, size_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import frame_metrics
from segmentation_node.ros.processor import stamp_nanoseconds

PROFILE = ROOT / "config" / "fastdds_large_images.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SIZES = [(360, 640), (720, 1280), (1024, 2048)]
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

    def topic(self) -> tuple[Any, str, QoSProfile]:
        """Type, name and QoS."""
        policy = QoSReliabilityPolicy
        reliability = policy.RELIABLE if self.is_reliable else policy.BEST_EFFORT
        # As in rclcpp's SensorDataQoS, which camera drivers use.
        qos = QoSProfile(depth=5, reliability=reliability)
        return CompressedImage if self.is_compressed else Image, "transport_image", qos


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


def camera(size: Size, frames: int, setting: Setting) -> Row:
    """Publish images at the rate; runs in a process of its own."""
    node = rclpy.create_node("transport_camera")
    publisher = node.create_publisher(*setting.topic())
    messages = image_messages(size, 4)
    if setting.is_compressed:
        messages = [_compressed(message) for message in messages]
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


def node(size: Size, frames: int, setting: Setting) -> Row:
    """Take images until none has come for a while; runs in a process of its own."""
    receiver = rclpy.create_node("transport_node")
    taken: list[tuple[float, float]] = []
    last_s = [time.monotonic() + DISCOVERY_TIMEOUT_S]

    def on_image(message: Any) -> None:
        received_s = receiver.get_clock().now().nanoseconds / 1e9
        taken.append((stamp_nanoseconds(message.header.stamp) / 1e9, received_s))
        last_s[0] = time.monotonic()

    kind, topic, qos = setting.topic()
    receiver.create_subscription(kind, topic, on_image, qos)
    before_s = time.process_time()
    while time.monotonic() < last_s[0] + QUIET_S and len(taken) < frames:
        rclpy.spin_once(receiver, timeout_sec=0.2)
    return {
        "metrics": frame_metrics(taken, frames),
        "cpu_ms_per_frame": (time.process_time() - before_s) / max(1, len(taken)) * 1e3,
    }


ROLES = {"camera": camera, "node": node}


def play(role: str, size: str, frames: str, name: str) -> None:
    """One role of a measurement, in this process, which ends; its last line is what it found."""
    rclpy.init()
    print(json.dumps(ROLES[role](size_of(size), int(frames), SETTINGS[name])), flush=True)
    # Nothing is left to save; tearing the middleware down can take seconds.
    os._exit(0)


def measure(size: Size, frames: int, name: str) -> Row:
    """One size under one setting, in two fresh processes."""
    setting = SETTINGS[name]
    has_profile = {"camera": setting.sender_has_profile, "node": setting.receiver_has_profile}
    command = [sys.executable, "-m", "benchmarks.transport", "--role"]
    children = {
        role: subprocess.Popen(
            [*command, role, size_text(size), str(frames), name],
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
    sent, taken = (json.loads(outputs[role].splitlines()[-1]) for role in ROLES)
    return {
        "image": size_text(size),
        "setting": name,
        "message_bytes": sent["bytes"],
        "mean_playback_frame_rate_fps": sent["rate_fps"],  # that the camera reached
        **taken["metrics"],
        # From stamp to callback; the share that arrives; CPU time by sent and by received frame.
        "delivered": 1 - taken["metrics"]["num_missed_frames"] / frames,
        "camera_cpu_ms_per_frame": sent["cpu_ms_per_frame"],
        "node_cpu_ms_per_frame": taken["cpu_ms_per_frame"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure every size and setting, or play one role of a measurement."""
    parser = parser_of("transport", __doc__, frames=100, sizes=SIZES)
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        play(*options.role)
    settings = settings_of(options, rate_hz=RATE_HZ, jpeg_quality=JPEG_QUALITY)
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


def _compressed(image: Image) -> CompressedImage:
    message = CompressedImage(header=image.header, format="bgr8; jpeg compressed bgr8")
    bgr = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message.data.frombytes(encoded.tobytes())
    return message


def _delivered(row: Row) -> str:
    share = shown.percent(row["delivered"])
    if row["median_latency_ms"] is None:
        return share
    return f"{share}, {row['median_latency_ms']:.1f} ({row['p95_latency_ms']:.1f}) ms"


LINE = {"Setting": "{setting}"}
CPU_MS = "{camera_cpu_ms_per_frame:.1f} + {node_cpu_ms_per_frame:.1f} ms"
SHOWN = shown.Shown(
    tables={
        "transport": shown.pivot(LINE, {"{}": _delivered}),
        "transport.cpu": shown.pivot(LINE, {"{}": CPU_MS}),
    }
)


if __name__ == "__main__":
    end_with(main)
