"""Imports go one way, and heavy packages stay where they belong. Found by reading the sources."""

import ast
import importlib
import os
import subprocess
import sys

import pytest
from support.core.real_data import PROJECT

PACKAGE = "segmentation_node"
ROS = {
    "action_msgs", "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs",
    "diagnostic_updater", "geometry_msgs", "image_transport", "launch", "launch_ros",
    "lifecycle_msgs", "message_filters", "rcl_interfaces", "rclpy", "rosbag2_py",
    "rosgraph_msgs", "rosidl_runtime_py", "segmentation_msgs", "sensor_msgs", "std_msgs",
    "std_srvs", "tf2_ros", "vision_msgs",
}  # fmt: skip
RUN_TIMES = {"torch", "tensorrt", "onnxruntime", "openvino", "onnx", "pycuda", "safetensors"}
BAGS = {"rosbags", "apsw", "lz4", "zstd", "backports"}
WORKBENCH = ("evaluation", "importing")
# The robot's part, below the package -> what of it may be imported where a module is loaded.
BASE = {"errors", "files", "labels", "model_card", "plain_values", "yaml_and_json"}
CORE = BASE | {"images", "networks", "backends", "pipeline", "timing", "accounting"}
CORE |= {"interrupts", "pictures", "tiff", "geometry", "boxes", "deadline"}
MAY_IMPORT = {
    "": set(),
    "boxes": set(),
    "proposals": set(),
    "fast_rcnn": {"backends", "boxes", "proposals"},
    "errors": set(),
    "interrupts": set(),
    "files": {"errors"},
    "labels": {"errors", "yaml_and_json"},
    "plain_values": {"errors"},
    "yaml_and_json": {"errors"},
    "timing": set(),
    "accounting": {"camera_health", "model_health", "timing"},
    "camera_health": {"timing"},
    "model_health": {"labels", "model_card", "timing"},
    "model_card": {"errors", "labels", "plain_values", "yaml_and_json"},
    "deadline": {"model_card"},
    "images": BASE,
    "pictures": {"errors", "tiff"},
    "tiff": {"errors"},
    "geometry": {"errors", "images", "labels", "pictures"},
    "networks": BASE | {"networks"},
    "backends": BASE | {"backends"},
    "command_line": set(),
    "engine": BASE | {"backends", "command_line"},
    "pipeline": BASE
    | {
        "boxes",
        "fast_rcnn",
        "images",
        "pictures",
        "geometry",
        "model_health",
        "backends",
        "timing",
    },
    "ros": CORE | {"command_line", "ros"},
}


def modules():
    """Every module of the package that this Python can read: name -> syntax tree."""
    trees = {}
    for folder, _, files in os.walk(os.path.join(PROJECT, PACKAGE)):
        for file_name in files:
            path = os.path.join(folder, file_name)
            name = os.path.relpath(path, PROJECT)[: -len(".py")].replace(os.sep, ".")
            name = name[: -len(".__init__")] if name.endswith(".__init__") else name
            if file_name.endswith(".py") and not (sys.version_info < (3, 10) and is_newer(name)):
                with open(path, "rb") as source:
                    trees[name] = ast.parse(source.read(), path)
    return trees


def is_newer(name):
    """Whether a module, or a package around it, may need a newer Python than the TX1's."""
    newer = (
        "segmentation_node.evaluation.bags",
        "segmentation_node.evaluation.report",
        "segmentation_node.importing",
    )
    return any(name == other or name.startswith(other + ".") for other in newer)


def part(name):
    """The first part of a name below the package."""
    return (name.split(".") + [""])[1]


MODULES = modules()
ROBOT = [name for name in MODULES if part(name) not in WORKBENCH]


def imported(name, when_loaded=False):
    """Names that a module imports; ``when_loaded``: only those that importing it runs."""
    found, to_visit = set(), list(MODULES[name].body)
    while to_visit:
        node = to_visit.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "%s has a relative import" % name
            found.update([node.module] + [node.module + "." + item.name for item in node.names])
        elif not (when_loaded and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            to_visit.extend(ast.iter_child_nodes(node))
    return found


def packages(name, when_loaded=False):
    return {found.split(".")[0] for found in imported(name, when_loaded)}


def parts(name, when_loaded=False):
    """The parts of this package that a module imports."""
    own = {found for found in imported(name, when_loaded) if found in MODULES}
    return {part(found) for found in own} - {""}


def test_the_robots_part_knows_nothing_of_the_workbench():
    assert {part(name) for name in ROBOT} == set(MAY_IMPORT)
    assert [name for name in ROBOT if parts(name) & set(WORKBENCH)] == []
    assert [n for n in MODULES if packages(n) & {"training", "benchmarks"}] == []


def test_ros_is_imported_by_the_node_and_by_live_evaluation_only():
    importing = {name for name in MODULES if packages(name) & ROS}
    allowed = ("segmentation_node.ros.", "segmentation_node.evaluation.live.")
    assert [name for name in importing if not name.startswith(allowed)] == []


def test_the_robots_imports_go_one_way():
    wrong = {name: parts(name, True) - MAY_IMPORT[part(name)] for name in ROBOT}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_run_times_are_imported_where_they_are_used():
    users = {name for name in MODULES if packages(name) & RUN_TIMES}
    assert {part(name) for name in users} <= {"networks", "backends", "engine", "importing"}
    eager = {name for name in users if packages(name, True) & RUN_TIMES}
    assert {part(name) for name in eager} <= {"networks", "importing"}
    assert set().union(*(packages(n) & RUN_TIMES for n in users if part(n) == "networks")) <= {
        "torch"
    }


def test_bags_and_their_library_are_imported_lazily():
    """They need a newer Python than the rest of the evaluation."""
    others = [name for name in MODULES if not is_newer(name)]
    lazy = "segmentation_node.evaluation.bags"
    eager = [name for name in others if any(i.startswith(lazy) for i in imported(name, True))]
    assert eager == []
    assert [name for name in others if packages(name) & BAGS] == []


def test_launch_files_and_setup_parse():
    folder = os.path.join(PROJECT, "launch")
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".py")]
    assert os.path.join(folder, "tx1.launch.py") in paths
    for path in paths + [os.path.join(PROJECT, "setup.py")]:
        with open(path, "rb") as source:
            ast.parse(source.read(), path)


def test_the_networks_import_where_there_is_torch():
    pytest.importorskip("torch", reason="NOT RUN: networks/ needs PyTorch, which is not here")
    for name in MODULES:
        if part(name) == "networks":
            importlib.import_module(name)


def test_all_but_networks_and_ros_imports_without_run_times_or_ros():
    ros = tuple(name for name in MODULES if packages(name, True) & ROS)
    needing = {name for name in MODULES if imported(name, True) & set(ros)} | set(ros)
    # The command of importing brings the rest of it, and so onnx, when it runs.
    needing |= {name for name in MODULES if part(name) == "importing" and "__main__" not in name}
    core = [n for n in sorted(MODULES) if part(n) not in ("networks", "ros") and n not in needing]
    program = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(%r))\n"
        "for name in %r: importlib.import_module(name)\n" % (sorted(ROS | RUN_TIMES), core)
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert finished.returncode == 0, finished.stderr
