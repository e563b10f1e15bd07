"""Listens as Nav2's semantic segmentation layer does, and prints what came as JSON; then it ends.

Names and QoS are those of kiwicampus/semantic_segmentation_layer.
"""

import json
import sys

import rclpy
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

SENSOR_DATA = QoSProfile(depth=50, reliability=QoSReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=5,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


def main(prefix):
    rclpy.init(args=[])
    node = rclpy.create_node("costmap")
    masks, confidences, labels = {}, {}, []
    for name, kept in (("mask", masks), ("confidence", confidences)):
        node.create_subscription(
            Image,
            "%s/%s" % (prefix, name),
            lambda message, kept=kept: kept.update({stamp_of(message): message}),
            SENSOR_DATA,
        )
    node.create_subscription(LabelInfo, prefix + "/label_info", labels.append, LATCHED)
    while not (labels and set(masks) & set(confidences)):
        rclpy.spin_once(node, timeout_sec=0.1)
    stamp = min(set(masks) & set(confidences))
    print(
        json.dumps(
            {
                "classes": {item.class_name: item.class_id for item in labels[-1].class_map},
                "mask": facts(masks[stamp]),
                "confidence": facts(confidences[stamp]),
            }
        )
    )


def stamp_of(message):
    return message.header.stamp.sec, message.header.stamp.nanosec


def facts(message):
    return {
        "encoding": message.encoding,
        "size": [message.height, message.width],
        "data": list(message.data),
    }


if __name__ == "__main__":
    main(sys.argv[1])
