"""``ros2 run segmentation_node segmentation_node``: spin the node until it is told to stop."""

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, List, Optional

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import reason
from segmentation_node.interrupts import ending_at_once

if TYPE_CHECKING:
    from rclpy.executors import MultiThreadedExecutor

    from segmentation_node.ros.node import SegmentationNode

# For timers, for services and parameters, and one to spare: a transition may take its time.
THREADS = 3
# Those who watch /diagnostics have to be found first; Fast DDS announces itself every 3 s.
LAST_WORDS_S = 3.5
# A terminal's Ctrl-C reaches the node and its parent, which may pass it on: one request.
SAME_REQUEST_S = 1.0


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the node; 1 when it cannot be made, or configured although ``autostart`` asks.

    2 after arguments that are neither ROS's nor ``--help``, which argparse tells: ROS would pass
    them over, or take ``model:=NAME`` for a topic's remapping.
    """
    _parser().parse_args(_not_for_ros(sys.argv[1:] if arguments is None else arguments))
    with ending_at_once(0):
        import rclpy
        from rclpy.exceptions import (
            InvalidParameterTypeException,
            InvalidParameterValueException,
            ParameterException,
        )
        from rclpy.signals import SignalHandlerOptions

        from segmentation_node.ros.node import SegmentationNode

    stopping = _stop_event()
    try:
        # rclpy's own handlers would take the graph away under the frame in hand.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rclpy's RCLError and UnknownROSArgsError
        kind = type(error).__name__
        print("error: ROS does not start: %s: %s" % (kind, reason(error)), file=sys.stderr)
        return 1
    try:
        node = SegmentationNode(told_to_stop=stopping.is_set)
    except (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterException,
    ) as error:
        print("error: %s" % reason(error), file=sys.stderr)
        rclpy.shutdown()
        return 1
    try:
        code = _run(node, stopping)
    finally:
        node.destroy_node()
        rclpy.shutdown()
        # From here on the interpreter would give the signals their defaults back.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if threading.active_count() > 1:
        # A model still loads that nobody waits for: the interpreter's end would abort under it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _not_for_ros(arguments: List[str]) -> List[str]:
    """What is not between ``--ros-args`` and ``--``."""
    found, is_ros = [], False
    for argument in arguments:
        if argument == "--ros-args" or (is_ros and argument == "--"):
            is_ros = argument == "--ros-args"
        elif not is_ros:
            found.append(argument)
    return found


def _parser() -> CommandParser:
    """What is there beside ROS's own arguments: ``--help``."""
    return CommandParser(
        prog="ros2 run segmentation_node segmentation_node",
        usage="%(prog)s [-h] [--ros-args -p NAME:=VALUE -r FROM:=TO ...]",
        description="""
Segment camera images: subscribes to image, publishes ~/class_map, ~/overlay and more. docs/node.md
has the parameters and the topics.""",
        examples="""
%(prog)s --ros-args -r image:=/camera/image_raw
%(prog)s --ros-args -p model:=elu_squeezenet_camvid --params-file cpu.yaml
""",
    )


def _run(node: "SegmentationNode", stopping: threading.Event) -> int:
    from rclpy.executors import MultiThreadedExecutor

    if node.parameters["autostart"] and not node.autostart():
        if stopping.is_set():
            return 0
        node.report_last(LAST_WORDS_S)
        return 1
    executor = MultiThreadedExecutor(num_threads=THREADS)
    executor.add_node(node)
    try:
        while not stopping.is_set():
            _spin_once(executor)
    finally:
        node.stop()
        # rclpy's shutdown waits for no callback, and those that still run would fail without it.
        executor._executor.shutdown(wait=True)
        executor.shutdown(timeout_sec=1.0)
    return 0


def _spin_once(executor: "MultiThreadedExecutor") -> None:
    from rclpy.exceptions import InvalidHandle

    try:
        executor.spin_once(timeout_sec=0.5)
    except InvalidHandle:  # Humble: the subscription was dropped while its message waited
        pass


def _stop_event() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set; asked again later, the process ends at once."""
    stopping = threading.Event()
    asked_s: List[float] = []

    def stop(number: int, _: Any) -> None:
        stopping.set()
        asked_s.append(time.monotonic())
        if asked_s[-1] - asked_s[0] > SAME_REQUEST_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopping


if __name__ == "__main__":
    sys.exit(main())
