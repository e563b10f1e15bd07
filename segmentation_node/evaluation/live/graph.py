"""What a replay has to do with the graph: join it, find a node's input, know message types."""

import importlib
import signal
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

import rclpy
from rclpy.node import NodeNameNonExistentError
from rclpy.signals import SignalHandlerOptions

from segmentation_node.errors import ReplayError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def image_inputs(graph: Any, target: str) -> List[Tuple[str, str]]:
    """Topic and type of the images that a node, named in full, subscribes to now.

    ``graph`` is any rclpy node. Empty while the node is not there or does not want images.
    """
    namespace, _, name = target.rpartition("/")
    try:
        topics = graph.get_subscriber_names_and_types_by_node(name, namespace or "/")
    except NodeNameNonExistentError:
        return []
    return [(topic, kind) for topic, kinds in topics for kind in kinds if kind in IMAGE_TYPES]


def message_class(type_name: str) -> Any:
    """The class of a message type such as ``sensor_msgs/msg/Image``.

    Raises ReplayError where its package is not installed.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(package + ".msg"), name)
    except (ImportError, AttributeError):
        raise ReplayError(
            "%s is not installed here, so its topic cannot be played; leave the topic out"
            % type_name
        ) from None


@contextmanager
def joined_graph() -> Iterator[None]:
    """Take part in the graph; Ctrl-C stays Python's, so that results can still be written.

    SIGTERM is taken as Ctrl-C is: the node that was started has to be ended too.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        rclpy.shutdown()
