"""What a replay has to know of the graph: where a node takes its images, and message types."""

import importlib
from typing import Any, List, Tuple

from rclpy.node import NodeNameNonExistentError

from segmentation_node.ros.node_process import ReplayError

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
