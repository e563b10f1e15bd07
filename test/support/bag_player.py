"""Stands for ``ros2 bag play``: another process with rosbag2's QoS, which waits for nobody.

``python bag_player.py BAG [--skip N ...]``; frames in ``--skip`` are not played, as if lost.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

import rclpy
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rosbags.highlevel import AnyReader

IMAGE = "/camera/image_raw"


def play(node, reader, skip):
    publishers = {}
    for connection in reader.connections:
        package, _, name = connection.msgtype.split("/")
        kind = getattr(importlib.import_module(package + ".msg"), name)
        qos = QoSProfile(depth=10)
        if connection.topic.endswith("label_info"):
            qos.durability = QoSDurabilityPolicy.TRANSIENT_LOCAL
        publishers[connection.topic] = node.create_publisher(kind, connection.topic, qos)
    wait_for_node_and_listener(publishers)
    start_s, first_ns, images = time.monotonic(), None, 0
    for connection, recorded_ns, data in reader.messages():
        first_ns = recorded_ns if first_ns is None else first_ns
        time.sleep(max(0.0, start_s + (recorded_ns - first_ns) * 1e-9 - time.monotonic()))
        images += connection.topic == IMAGE
        if connection.topic == IMAGE and images - 1 in skip:
            continue
        publishers[connection.topic].publish(bytes(data))
    time.sleep(2.0)  # what is on its way still needs its writer


def wait_for_node_and_listener(publishers):
    deadline_s = time.monotonic() + 60.0
    while publishers[IMAGE].get_subscription_count() < 2:
        if time.monotonic() > deadline_s:
            sys.exit("no node and listener on %s" % IMAGE)
        time.sleep(0.1)
    time.sleep(1.0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bag", type=Path)
    parser.add_argument("--skip", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    rclpy.init(args=[])
    node = rclpy.create_node("bag_player")
    with AnyReader([arguments.bag]) as reader:
        play(node, reader, set(arguments.skip))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
