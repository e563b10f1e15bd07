"""Play a bag into the segmentation node and score what it publishes; ends when that is done.

The launch exits 1 when the node or the replay fails, and a lost frame fails the replay. With
play:=false somebody else plays (ros2 bag play), and the launch ends when the images do.
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

# Passed on to segmentation.launch.py as they are.
NODE_ARGUMENTS = (
    ("model", "", "A model under share/segmentation_node/models, or the path of a model folder"),
    ("backend", "", "auto, onnxruntime, torch or tensorrt"),
    ("namespace", "", "Namespace of the node, such as front"),
    ("params_file", "", "Parameter file; empty: the node's own defaults"),
    ("frame_policy", "every", "every: no frame is dropped by the node; latest: the newest wins"),
    ("transport", "raw", "raw or compressed, as the bag's image topic is"),
    ("use_sim_time", "false", "true: the node runs on recorded time, from /clock"),
    ("rviz", "false", "true: show the image and the overlay in RViz"),
)
# Argument -> option of `evaluation live`; an empty value leaves the option out.
OPTIONS = (
    ("bag", "", "The bag: its folder, .mcap or .db3 file", "--bag"),
    ("image", "", "Image topic of the bag; empty: its only camera", "--image-topic"),
    ("truth", "", "Ground truth topic; empty: /ground_truth where there is one", "--truth-topic"),
    ("labels", "", "Label set of the ground truth where the bag lacks it", "--labels"),
    ("rate", "", "Of recorded time; empty: as fast as the node takes it", "--rate"),
    ("in_flight", "", "Images on their way at most", "--in-flight"),
    ("timeout", "", "Seconds without a result until images are lost", "--timeout"),
    ("json", "", "Write the figures to this file", "--json"),
    ("html", "", "Write the report page to this file", "--html"),
)
FLAGS = (
    ("allow_loss", "false", "true: lost frames do not fail the run", "--allow-loss"),
    ("strict", "false", "true: a broken message ends the run", "--strict"),
)
PLAY = ("play", "true", "false: play nothing and listen, while ros2 bag play does")


def generate_launch_description():
    arguments = [*NODE_ARGUMENTS, *(option[:3] for option in OPTIONS + FLAGS), PLAY]
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    given = dict(context.launch_configurations)
    if is_true("play", given["play"]) and not given["bag"]:
        raise RuntimeError("bag: got nothing, expected the path of a bag")
    if not is_true("play", given["play"]) and not given["image"]:
        raise RuntimeError("image: got nothing, expected the image topic that will be played")
    return [segmentation_node(given), replay(given)]


def segmentation_node(given):
    arguments = [(name, given[name]) for name, _, _ in NODE_ARGUMENTS]
    # The replay sends images to wherever the node takes them; others play to their own topic.
    arguments.append(("image", "" if is_true("play", given["play"]) else base(given["image"])))
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(LAUNCH, "segmentation.launch.py")),
        launch_arguments=arguments,
    )


def replay(given):
    names = [name for name in (given["namespace"].strip("/"), "segmentation_node") if name]
    command = ["live", "--node", "/" + "/".join(names)]
    for name, _, _, option in OPTIONS:
        command += [option, given[name]] if given[name] else []
    for name, _, _, option in FLAGS:
        command += [option] if is_true(name, given[name]) else []
    command += [] if is_true("play", given["play"]) else ["--listen"]
    command += ["--sim-time"] if is_true("use_sim_time", given["use_sim_time"]) else []
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
