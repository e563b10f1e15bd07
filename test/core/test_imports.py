"""Imports go one way, and heavy packages stay where they belong. Found by reading the sources."""

import ast
import importlib
import os
import subprocess
import sys

import pytest
from real_data import PROJECT

PACKAGE = "segmentation_node"
ROS = {
    "action_msgs", "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs",
    "diagnostic_updater", "geometry_msgs", "image_transport", "launch", "launch_ros",
    "lifecycle_msgs", "message_filters", "rcl_interfaces", "rclpy", "rosbag2_py",
    "rosgraph_msgs", "rosidl_runtime_py", "segmentation_msgs", "sensor_msgs", "std_msgs",
    "std_srvs", "tf2_ros", "vision_msgs",
}  # fmt: skip
RUN_TIMES = {"torch", "tensorrt", "onnxruntime", "openvino", "onnx", "pycuda", "safetensors"}
# The first part of a module's name below the package -> what it may import at module level.
BASE = {"errors", "files", "labels", "model_card"}
CORE = BASE | {"images", "networks", "backends", "pipeline", "timing", "accounting", "models"}
MAY_IMPORT = {
    "": set(),
    "errors": set(),
    "files": {"errors"},
    "labels": set(),
    "timing": set(),
    "models": set(),
    "accounting": {"timing"},
    "model_card": {"errors", "labels"},
    "images": BASE,
    "networks": BASE | {"networks"},
    "backends": BASE | {"backends"},
    "engine": BASE | {"backends", "models"},
    "pipeline": BASE | {"images", "backends", "timing"},
    "evaluation": CORE | {"evaluation"},
    # The demo scores what it replays; evaluation's live mode imports ros lazily.
    "ros": CORE | {"ros", "evaluation"},
}
NEWER_PYTHON = {"segmentation_node.evaluation.bags", "segmentation_node.evaluation.report"}
BAGS = {"rosbags", "apsw", "lz4", "zstd", "backports"}


def modules():
    """Every module of the package: name -> syntax tree."""
    trees = {}
    for folder, _, files in os.walk(os.path.join(PROJECT, PACKAGE)):
        for file_name in sorted(files):
            if not file_name.endswith(".py"):
                continue
            path = os.path.join(folder, file_name)
            name = os.path.relpath(path, PROJECT)[: -len(".py")].replace(os.sep, ".")
            name = name[: -len(".__init__")] if name.endswith(".__init__") else name
            if is_newer(name) and sys.version_info < (3, 10):
                continue
            with open(path, "rb") as source:
                trees[name] = ast.parse(source.read(), path)
    return trees


def is_newer(name):
    """Whether a module, or a package around it, may need a newer Python than the TX1's."""
    return any(name == newer or name.startswith(newer + ".") for newer in NEWER_PYTHON)


MODULES = modules()


def imported(name, at_module_level):
    """Names that a module imports; ``at_module_level``: only those that importing it runs."""
    found, to_visit = set(), list(MODULES[name].body)
    while to_visit:
        node = to_visit.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "%s has a relative import" % name
            found.update([node.module] + [node.module + "." + item.name for item in node.names])
        elif not (at_module_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            to_visit.extend(ast.iter_child_nodes(node))
    return found


def tops(names):
    return {name.split(".")[0] for name in names}


def part(name):
    """The first part of a name below the package."""
    return (name.split(".") + [""])[1]


def test_every_part_of_the_package_has_its_place():
    assert {part(name) for name in MODULES} <= set(MAY_IMPORT)
    assert {part(name) for name in MODULES} >= CORE | {"ros", "evaluation"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_ros_imports_ros(name):
    if part(name) != "ros":
        assert not tops(imported(name, at_module_level=False)) & ROS


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_training(name):
    assert "training" not in tops(imported(name, at_module_level=False))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_run_times_are_imported_only_where_they_are_used(name):
    anywhere = tops(imported(name, at_module_level=False)) & RUN_TIMES
    if part(name) == "networks":
        assert anywhere <= {"torch"}
        return
    assert not tops(imported(name, at_module_level=True)) & RUN_TIMES
    if part(name) not in ("backends", "engine"):
        assert not anywhere


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_needs_a_newer_python_is_imported_lazily(name):
    """Bags and their library, by anything but the bags themselves."""
    own = {n for n in imported(name, at_module_level=True) if is_newer(n) and "bags" in n}
    if not name.startswith("segmentation_node.evaluation.bags"):
        assert not own
        assert not tops(imported(name, at_module_level=False)) & BAGS


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    own = {n for n in imported(name, at_module_level=True) if n.split(".")[0] == PACKAGE}
    assert {part(n) for n in own if n in MODULES} - {""} <= MAY_IMPORT[part(name)]


def scripts():
    """Python files that no module of the package imports: the launch files and setup.py."""
    folder = os.path.join(PROJECT, "launch")
    found = [os.path.join("launch", name) for name in sorted(os.listdir(folder))]
    return [path for path in found if path.endswith(".py")] + ["setup.py"]


@pytest.mark.parametrize("path", scripts())
def test_launch_files_and_setup_parse(path):
    with open(os.path.join(PROJECT, path), "rb") as source:
        ast.parse(source.read(), path)


def test_there_are_launch_files():
    assert "launch%stx1.launch.py" % os.sep in scripts()


def test_the_networks_import_where_there_is_torch():
    pytest.importorskip("torch", reason="NOT RUN: networks/ needs PyTorch, which is not here")
    for name in MODULES:
        if part(name) == "networks":
            importlib.import_module(name)


def test_the_core_imports_without_run_times_or_ros():
    """Every module outside networks/ and ros/, in a Python that has none of those packages."""
    core = [name for name in sorted(MODULES) if part(name) not in ("networks", "ros")]
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
