"""Start the node on the topics of Nav2's semantic segmentation layer: mask, confidence, labels.

`evaluation nav2-config` writes the layer's parameters for a model; docs/nav2.md has all steps.
"""

import importlib.util
import os

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import SetRemap

LAUNCH = os.path.dirname(os.path.abspath(__file__))
CONFIG = os.path.join(os.path.dirname(LAUNCH), "config")
# Topic of the node -> below the prefix, as the layer's own example names it.
TOPICS = (("class_map", "mask"), ("confidence", "confidence"))
LABELS = ("~/vision_label_info", "label_info")

ARGUMENTS = (
    ("prefix", "segmentation", "Where mask, confidence and label_info go, in the node's namespace"),
    ("target", "cpu", "cpu, desktop or tx1: which config file is used"),
    ("model", "", "As in segmentation.launch.py"),
    ("backend", "", "As in segmentation.launch.py"),
    ("deadline_ms", "", "As in segmentation.launch.py"),
    ("cameras", "", "As in segmentation.launch.py; a camera's mask goes to PREFIX/NAME/mask"),
    ("namespace", "", "As in segmentation.launch.py"),
    ("image", "", "As in segmentation.launch.py"),
    ("transport", "", "As in segmentation.launch.py"),
    ("params_file", "", "Parameter file; empty: that of target"),
    ("use_sim_time", "", "As in segmentation.launch.py"),
    ("log_level", "info", "As in segmentation.launch.py"),
    ("localhost_only", "false", "As in segmentation.launch.py"),
)
PASSED_ON = (
    "model", "backend", "deadline_ms", "cameras", "namespace", "image", "transport",
    "use_sim_time", "log_level", "localhost_only",
)  # fmt: skip


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription(declared + [OpaqueFunction(function=start)])


def start(context):
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    remaps = [SetRemap(src=src, dst=dst) for src, dst in remappings(given)]
    if importlib.util.find_spec("vision_msgs") is None:
        raise RuntimeError(
            "vision_msgs is not installed, and the layer does nothing without its LabelInfo; "
            "install " + vision_msgs_package()
        )
    arguments = [(name, given[name]) for name in PASSED_ON]
    file = given["params_file"] or os.path.join(CONFIG, given["target"] + ".yaml")
    arguments.append(("params_file", file))
    source = PythonLaunchDescriptionSource(os.path.join(LAUNCH, "segmentation.launch.py"))
    # Scoped: what is remapped here must not be for others.
    return [GroupAction(remaps + [IncludeLaunchDescription(source, launch_arguments=arguments)])]


def vision_msgs_package():
    distribution = os.environ.get("ROS_DISTRO")
    return "ros-{}-vision-msgs".format(distribution) if distribution else "that ROS package"


def remappings(given):
    prefix = given["prefix"].rstrip("/")
    if not prefix.strip("/"):
        raise RuntimeError("prefix: got nothing, expected a name such as /segmentation")
    cameras = [name.strip() + "/" for name in given["cameras"].split(",") if name.strip()]
    found = [
        ("~/" + camera + topic, "{}/{}{}".format(prefix, camera, name))
        for camera in cameras or [""]
        for topic, name in TOPICS
    ]
    return found + [(LABELS[0], prefix + "/" + LABELS[1])]
