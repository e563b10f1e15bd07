"""``ros2 run segmentation_node segmentation_node``: spin the node until it is told to stop."""

import signal
import sys
import threading
import time
from typing import Any, List, Optional

import rclpy
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterException,
)
from rclpy.executors import MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from segmentation_node.ros.node import SegmentationNode

# One for images, which ``every`` may block; one for timers; one for services and parameters.
THREADS = 3
# Time for a diagnostic ERROR to reach those who watch, before the process ends.
LAST_WORDS_S = 0.5


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the node; 1 when it cannot be made, or configured although ``autostart`` asks."""
    # rclpy's own handlers would take the graph away under the frame in hand.
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stopping = _stop_event()
    try:
        node = SegmentationNode()
    except (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterException,
    ) as error:
        print("error: %s" % " ".join(str(error).split()), file=sys.stderr)
        rclpy.shutdown()
        return 1
    try:
        return _run(node, stopping)
    finally:
        node.stop()
        node.destroy_node()
        rclpy.shutdown()


def _run(node: SegmentationNode, stopping: threading.Event) -> int:
    if node.parameters["autostart"] and not node.autostart():
        time.sleep(LAST_WORDS_S)
        node.report()
        return 1
    executor = MultiThreadedExecutor(num_threads=THREADS)
    executor.add_node(node)
    try:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.5)
    finally:
        node.stop()
        executor.shutdown(timeout_sec=1.0)
    return 0


def _stop_event() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set; a second one ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, _: Any) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopping


if __name__ == "__main__":
    sys.exit(main())
