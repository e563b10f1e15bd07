"""Start the segmentation node. An empty argument leaves the value of the parameter file."""

import os
import re
import tempfile

import yaml
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "config")
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# Argument, the parameter that it sets, and its type.
PARAMETER_ARGUMENTS = (
    ("model", "model", str),
    ("backend", "backend", str),
    ("deadline_ms", "deadline_ms", float),
    ("autostart", "autostart", bool),
    ("frame_policy", "frame_policy", str),
    ("transport", "input.transport", str),
    ("rotation", "input.rotation", int),
    ("ignore_mask", "input.ignore_mask", str),
    ("use_sim_time", "use_sim_time", bool),
)

ARGUMENTS = (
    ("model", "", "Name of a shipped model, or path of a model folder"),
    ("backend", "", "auto, onnxruntime, openvino, torch or tensorrt"),
    (
        "deadline_ms",
        "",
        "Run the model's best size that keeps p95 of processing below this; 0: the card's own size",
    ),
    ("cameras", "", "Names of cameras, separated by commas; empty: one camera, on image"),
    ("namespace", "", "Namespace of the node, for example front"),
    (
        "image",
        "",
        "Image topic, without /compressed (transport adds that); empty: image. With cameras: "
        "relative to each camera's name",
    ),
    ("params_file", "", "Parameter file; empty: the node's defaults"),
    ("autostart", "", "true or false: whether the node configures and activates itself"),
    ("frame_policy", "", "latest: the newest frame wins; every: all frames, up to 512 MiB wait"),
    ("transport", "", "raw or compressed: which image topic is read"),
    ("roi", "", "x,y,width,height of the part of the image to segment; empty: all of it"),
    ("rotation", "", "0, 90, 180 or 270: degrees clockwise that make the image upright"),
    ("ignore_mask", "", "PNG of the image's size; where it is not black: unlabelled"),
    ("use_sim_time", "", "true or false: whether the node takes its time from /clock"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    ("rviz", "false", "true: show image and overlay in RViz"),
    ("localhost_only", "false", "true: visible on this machine only, not on the whole network"),
    ("required", "true", "true: a node that fails ends the launch with exit code 1"),
)


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription(declared + [OpaqueFunction(function=start)])


def start(context):
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    actions = this_machine_only() if is_true("localhost_only", given["localhost_only"]) else []
    actions.append(segmentation_node(given))
    if is_true("rviz", given["rviz"]):
        if given["cameras"]:
            raise RuntimeError("rviz: shows a node of one camera; leave it out with cameras")
        actions.append(rviz_node(given))
    return actions


def this_machine_only():
    """Set what every process that is launched from now on reads."""
    variables = [("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")]
    # Later distributions warn of this one.
    if os.environ.get("ROS_DISTRO") == "humble":
        variables = [("ROS_LOCALHOST_ONLY", "1")]
    return [SetEnvironmentVariable(name, value) for name, value in variables]


def segmentation_node(given):
    cameras = camera_names(given["cameras"])
    required = is_true("required", given["required"])
    return Node(
        package="segmentation_node",
        executable="segmentation_node",
        name="segmentation_node",
        # Even an empty namespace names the node in full, without which a user's file that names
        # the node would win over the arguments.
        namespace=given["namespace"],
        parameters=parameter_sources(given),
        remappings=remappings(cameras, given["image"]) if given["image"] else [],
        ros_arguments=["--log-level", given["log_level"]],
        additional_env=big_image_profile(is_true("localhost_only", given["localhost_only"])),
        output="both",
        on_exit=stop_on_failure if required else None,
    )


def camera_names(text):
    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        # Of another one ROS would not even take the remapping.
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", name):
            raise RuntimeError(
                "cameras: got '{}', expected names of letters, digits and underscores, no digit "
                "first, separated by commas".format(name)
            )
    return names


def remappings(cameras, image):
    if not cameras:
        return [("image", image)]
    if image[0] in "/~":
        raise RuntimeError(
            "image: got '{}', expected a topic relative to each camera's name, such as "
            "image_raw".format(image)
        )
    for camera in cameras:
        if "__" in camera:
            raise RuntimeError(
                "cameras: got '{}'; ROS remaps the image topic of no name with two underscores in "
                "a row; choose another name".format(camera)
            )
    return [(camera + "/image", camera + "/" + image) for camera in cameras]


def parameter_sources(given):
    sources = []
    if given["params_file"]:
        sources.append(parameter_file(given["params_file"]))
    overrides = {
        parameter: ParameterValue(parse(name, given[name], kind), value_type=kind)
        for name, parameter, kind in PARAMETER_ARGUMENTS
        if given[name]
    }
    if given["cameras"]:
        overrides["cameras"] = camera_names(given["cameras"])
    if given["roi"]:
        overrides["input.roi"] = [whole("roi", text) for text in given["roi"].split(",")]
    return sources + ([overrides] if overrides else [])


def parameter_file(path):
    # ROS itself only warns, or says nothing, and the node would run on defaults.
    found = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(found):
        raise RuntimeError("params_file: no file '{}'; give the path of a YAML file".format(found))
    try:
        with open(found, "rb") as stream:
            names = sorted(nodes_of(yaml.safe_load(stream)))
    except yaml.YAMLError:
        return found  # the node says where
    if not any(name.split("/")[-1] in ("segmentation_node", "*", "**") for name in names):
        raise RuntimeError(
            "params_file: '{}' has parameters for {}, expected some for segmentation_node "
            "or /**".format(found, ", ".join(names) or "no node")
        )
    return found


def nodes_of(content, name=""):
    """The names that a parameter file has parameters for; namespaces may be levels of it."""
    found = set()
    for key, value in content.items() if isinstance(content, dict) else ():
        found |= {name} if key == "ros__parameters" else nodes_of(value, str(key))
    return found


def parse(name, text, kind):
    parsers = {bool: is_true, int: whole, float: number}
    return parsers.get(kind, lambda name, text: text)(name, text)


def whole(name, text):
    try:
        return int(text)
    except ValueError:
        raise RuntimeError("{}: got '{}', expected a whole number".format(name, text)) from None


def number(name, text):
    try:
        return float(text)
    except ValueError:
        raise RuntimeError("{}: got '{}', expected a number".format(name, text)) from None


def is_true(name, text):
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise RuntimeError("{}: got '{}', expected true or false".format(name, text))
    return known[text.lower()]


def big_image_profile(localhost_only):
    """Variables that let the node send big images; the user's own choice stays."""
    chosen = any(os.environ.get(variable) for variable in PROFILE_VARIABLES)
    middleware = os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"
    if chosen or not middleware.startswith("rmw_fastrtps"):
        return {}
    local = localhost_only or os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    if local and os.environ.get("ROS_DISTRO") == "humble":
        return {}  # it only adds a local transport to those of a profile, which stay open
    known = PROFILE_VARIABLES
    if os.environ.get("ROS_DISTRO"):
        # From Kilted on Fast DDS warns of the first one, which those before it need.
        is_older = os.environ["ROS_DISTRO"] in ("humble", "iron", "jazzy")
        known = PROFILE_VARIABLES[:1] if is_older else PROFILE_VARIABLES[1:]
    return dict.fromkeys(known, os.path.join(CONFIG, "fastdds_large_images.xml"))


def stop_on_failure(event, context):
    # Shutdown alone would let `ros2 launch` exit 0, and whoever supervises it see a clean end.
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(
            "segmentation_node ended with exit code {}; its last lines say why".format(
                event.returncode
            )
        )


def rviz_node(given):
    # Relative targets follow the namespace, the names in the RViz file are the ones without it.
    image = given["image"] or "image"
    topics = [("/image", image), ("/image/compressed", image + "/compressed")]
    topics += [
        ("/segmentation_node/" + output, "segmentation_node/" + output)
        for output in ("overlay", "class_map")
    ]
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        namespace=given["namespace"],
        arguments=["-d", rviz_config(given["transport"])],
        remappings=topics,
        output="log",
    )


def rviz_config(transport):
    shipped = os.path.join(CONFIG, "segmentation.rviz")
    if transport != "compressed":
        return shipped
    # RViz reads the transport from a display's topic before any remapping.
    with open(shipped) as stream:
        text = stream.read().replace("Value: /image\n", "Value: /image/compressed\n")
    with tempfile.NamedTemporaryFile("w", suffix=".rviz", delete=False) as stream:
        stream.write(text)
    return stream.name
