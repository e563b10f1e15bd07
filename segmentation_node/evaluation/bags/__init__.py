"""Recorded drives: rosbag2 bags are written and read here, without ROS (through rosbags).

Import this package lazily: rosbags needs Python 3.10, the rest of the package does not.
"""

from segmentation_node.evaluation.bags.reader import Bag, open_bag

__all__ = ["Bag", "open_bag"]
