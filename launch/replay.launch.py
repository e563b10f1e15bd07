"""Play a bag into the segmentation node and score what it publishes; ends when that is done.

The launch exits 1 when the node or the replay fails, and a lost frame fails the replay. With
play:=false another process plays (ros2 bag play), and the launch ends when the images do.
"""

import os

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.substitutions import ExecutableInPackage

LAUNCH = os.path.dirname(os.path.abspath(__file__))
# Time to write the report after Ctrl-C, in seconds.
REPORT_TIMEOUT_S = "20"

ARGUMENTS = (
    ("bag", "", "The bag: its folder, .mcap or .db3 file"),
    ("play", "true", "false: only listen, while ros2 bag play plays"),
    ("image", "", "Image topic of the bag; empty: its only camera. Needed with play:=false"),
    ("truth", "", "Ground truth topic; empty: /ground_truth where there is one"),
    ("labels", "", "Label set of the ground truth, if the bag does not name it"),
    ("rate", "", "1: as recorded, 2: twice as fast; empty: as fast as the node takes images"),
    ("in_flight", "", "Most images on their way at any time; empty: 2"),
    ("timeout", "", "Seconds without a result until images count as lost; empty: 30"),
    ("allow_loss", "false", "true: lost frames do not fail the run"),
    ("strict", "false", "true: a broken message ends the run"),
    ("json", "", "Write the figures to this file"),
    ("html", "", "Write the report page to this file"),
    ("model", "", "As in segmentation.launch.py"),
    ("backend", "", "As in segmentation.launch.py"),
    ("deadline_ms", "", "As in segmentation.launch.py"),
    ("namespace", "", "As in segmentation.launch.py"),
    ("params_file", "", "As in segmentation.launch.py"),
    (
        "frame_policy",
        "every",
        "every: all frames, up to 512 MiB wait; latest: the newest frame wins",
    ),
    ("transport", "raw", "raw or compressed, as the bag's image topic is"),
    ("use_sim_time", "false", "true: publish recorded time on /clock, for the node too"),
    ("roi", "", "x,y,width,height of the part to segment and score; empty: the whole image"),
    ("rotation", "", "0, 90, 180 or 270: degrees clockwise that make the image upright"),
    ("ignore_mask", "", "PNG of the image's size; where it is not black: not scored"),
    ("rviz", "false", "As in segmentation.launch.py"),
    ("localhost_only", "false", "As in segmentation.launch.py, for the replay too"),
)
PASSED_ON = (
    "model", "backend", "deadline_ms", "namespace", "params_file", "frame_policy", "transport",
    "use_sim_time", "roi", "rotation", "ignore_mask", "rviz", "localhost_only",
)  # fmt: skip
# Argument -> option of `evaluation live`; an empty value leaves the option out.
OPTIONS = (
    ("bag", "--bag"),
    ("image", "--image-topic"),
    ("truth", "--truth-topic"),
    ("labels", "--labels"),
    ("rate", "--rate"),
    ("in_flight", "--in-flight"),
    ("timeout", "--timeout"),
    ("json", "--json"),
    ("html", "--html"),
    ("rotation", "--rotation"),
    ("ignore_mask", "--ignore-mask"),
)
FLAGS = (("allow_loss", "--allow-loss"), ("strict", "--strict"), ("use_sim_time", "--sim-time"))


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription(declared + [OpaqueFunction(function=start)])


def start(context):
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    if is_true("play", given["play"]) and not given["bag"]:
        raise RuntimeError("bag: got nothing, expected the path of a bag")
    if not is_true("play", given["play"]) and not given["image"]:
        raise RuntimeError("image: got nothing, expected the image topic that will be played")
    # In this order: what localhost_only sets there, the replay reads too.
    return [segmentation_node(given), replay(given)]


def segmentation_node(given):
    arguments = [(name, given[name]) for name in PASSED_ON]
    # The replay sends images to wherever the node takes them; others play to their own topic.
    arguments.append(("image", "" if is_true("play", given["play"]) else base(given["image"])))
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(LAUNCH, "segmentation.launch.py")),
        launch_arguments=arguments,
    )


def replay(given):
    names = [name for name in (given["namespace"].strip("/"), "segmentation_node") if name]
    command = ["live", "--node", "/" + "/".join(names)]
    for name, option in OPTIONS:
        command += [option, given[name]] if given[name] else []
    command += ["--roi", *given["roi"].split(",")] if given["roi"] else []
    for name, option in FLAGS:
        command += [option] if is_true(name, given[name]) else []
    command += [] if is_true("play", given["play"]) else ["--listen"]
    return ExecuteProcess(
        cmd=[ExecutableInPackage("evaluation", "segmentation_node"), *command],
        name="replay",
        output="screen",
        sigterm_timeout=REPORT_TIMEOUT_S,
        on_exit=end,
    )


def end(event, context):
    if context.is_shutdown:
        return None
    if event.returncode:
        # Shutdown alone would let `ros2 launch` exit 0.
        raise RuntimeError(
            "the replay ended with exit code {}; its last lines say why".format(event.returncode)
        )
    return [Shutdown(reason="the replay is done")]


def base(topic):
    ending = "/compressed"
    return topic[: -len(ending)] if topic.endswith(ending) else topic


def is_true(name, text):
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise RuntimeError("{}: got '{}', expected true or false".format(name, text))
    return known[text.lower()]
