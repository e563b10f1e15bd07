"""Start one segmentation node for several cameras, or with ``separate`` a node for each."""

import os

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = os.path.dirname(os.path.abspath(__file__))
CONFIG = os.path.join(os.path.dirname(LAUNCH), "config")
PASSED_ON = ("model", "backend", "deadline_ms", "image", "namespace", "log_level", "localhost_only")

ARGUMENTS = (
    ("cameras", "front,left,right", "Names of the cameras, separated by commas"),
    ("separate", "false", "true: a node for each camera, in a namespace of that name"),
    ("namespace", "", "Namespace of the node, or with separate of the cameras' namespaces"),
    ("target", "cpu", "cpu, desktop or tx1: which config file is used"),
    ("image", "image_raw", "Image topic, relative to each camera's name"),
    ("model", "", "As in segmentation.launch.py"),
    ("backend", "", "As in segmentation.launch.py"),
    ("deadline_ms", "", "As in segmentation.launch.py; one size for all cameras of a node"),
    ("params_file", "", "Parameter file; empty: that of target"),
    ("log_level", "info", "As in segmentation.launch.py"),
    ("localhost_only", "false", "As in segmentation.launch.py"),
)


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=["cpu", "desktop", "tx1"] if name == "target" else None,
        )
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription(declared + [OpaqueFunction(function=start)])


def start(context):
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    cameras = camera_names(given["cameras"])
    if not is_true("separate", given["separate"]):
        return [node(given, cameras=",".join(cameras))]
    watch = RegisterEventHandler(OnProcessExit(on_exit=fail_after(len(cameras))))
    # One camera that fails must not blind the others, hence required is false.
    own = {"cameras": "", "required": "false"}
    base = given["namespace"].rstrip("/")
    base = base + "/" if base else ""
    return [watch] + [node(given, namespace=base + camera, **own) for camera in cameras]


def camera_names(text):
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise RuntimeError(
            "cameras: got '{}', expected different names separated by commas".format(text)
        )
    return names


def is_true(name, text):
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise RuntimeError("{}: got '{}', expected true or false".format(name, text))
    return known[text.lower()]


def node(given, **own):
    """The node of segmentation.launch.py with the given arguments and its own ones."""
    arguments = dict({name: given[name] for name in PASSED_ON}, **own)
    arguments["params_file"] = given["params_file"] or os.path.join(
        CONFIG, given["target"] + ".yaml"
    )
    source = PythonLaunchDescriptionSource(os.path.join(LAUNCH, "segmentation.launch.py"))
    # Scoped: a camera's arguments must not become the defaults of the next one.
    return GroupAction([IncludeLaunchDescription(source, launch_arguments=arguments.items())])


def fail_after(number):
    """Handler that ends the launch with exit code 1 once so many nodes have failed."""
    failed = []

    def on_exit(event, context):
        if event.returncode and not context.is_shutdown:
            failed.append(event.process_name)
        if len(failed) == number:
            raise RuntimeError("every camera node has failed: " + ", ".join(failed))

    return on_exit
