"""The launch files, run by launch itself; a stand-in for the node writes down its call."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.ros_sources import PROJECT, sources_root

PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
DISCOVERY = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY")
PROFILE = str(PROJECT / "config" / "fastdds_large_images.xml")

# Imports launch once, then runs each call that it reads in a fork: importing takes longest.
SERVER = """
import json, os, signal, sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_ros.actions


def run(folder, path, arguments, environment):
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    signal.alarm(60)
    # Only now that launch_ros is imported: rclpy refuses a middleware that isn't installed.
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    source = PythonLaunchDescriptionSource(path)
    arguments = [argument.split(":=", 1) for argument in arguments]
    included = IncludeLaunchDescription(source, launch_arguments=arguments)
    service = LaunchService(noninteractive=True)
    service.include_launch_description(LaunchDescription([included]))
    return service.run()


for line in sys.stdin:
    process = os.fork()
    if not process:
        sys.exit(run(*json.loads(line)))
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""

STAND_IN = """#!{python} -IS
import glob, json, os, sys, time

call = {{"argv": sys.argv[1:], "files": []}}
call["profiles"] = [os.environ.get(name, "") for name in {profiles}]
call["discovery"] = [os.environ.get(name, "") for name in {discovery}]
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag in ("--params-file", "-d"):
        call["files"].append([value, open(value).read()])
path = os.path.join({calls!r}, "%d" % os.getpid())
with open(path, "w") as stream:
    json.dump(call, stream)
os.rename(path, path + ".json")  # whoever looks meanwhile finds it whole
failing = os.environ.get("STAND_IN_FAILS", "")
if failing and failing in " ".join(sys.argv):
    sys.exit(1)
time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
# One that ends may end the launch: only once all have written down their calls.
deadline = time.monotonic() + 30
expected = int(os.environ.get("STAND_IN_WAITS_FOR", "0"))
while len(glob.glob({calls!r} + "/*.json")) < expected and time.monotonic() < deadline:
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def launch_environment(tmp_path_factory):
    """The environment in which launch_ros can be imported, with ROS sources where it can't."""
    folder = tmp_path_factory.mktemp("launch")
    extra = sources_root().glob("overlay/*/lib/python*/*-packages")
    path = os.environ.get("PYTHONPATH", "")
    for paths in ([path], [path, *map(str, extra)]):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))
        environment["ROS_LOG_DIR"] = str(folder)
        for name in (*PROFILES, *DISCOVERY, "RMW_IMPLEMENTATION", "ROS_DISTRO"):
            environment.pop(name, None)
        command = [sys.executable, "-c", "import launch.actions, launch_ros.actions"]
        found = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
        if found.returncode == 0:
            return environment
    pytest.skip(
        "LAUNCH FILES NOT RUN: launch_ros can't be imported; source a ROS distribution or build "
        f"it from sources with tools/ros_overlay (here into {sources_root()})"
    )


@pytest.fixture(scope="module")
def server(launch_environment):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=launch_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def stand_in(tmp_path, launch_environment, server):
    """A prefix with stand-ins for segmentation_node, its commands and rviz2."""
    calls = tmp_path / "calls"
    calls.mkdir()
    names = ("segmentation_node/segmentation_node", "segmentation_node/evaluation", "rviz2/rviz2")
    for name in names:
        index = tmp_path / "prefix/share/ament_index/resource_index/packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / name.split("/")[0]).touch()
        executable = tmp_path / "prefix/lib" / name
        executable.parent.mkdir(parents=True, exist_ok=True)
        text = STAND_IN.format(
            python=sys.executable, calls=str(calls), profiles=PROFILES, discovery=DISCOVERY
        )
        executable.write_text(text)
        executable.chmod(0o755)
    return Launcher(tmp_path, launch_environment, server)


class Launcher:
    def __init__(self, folder: Path, environment: dict, server: subprocess.Popen) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.server = server
        prefixes = [str(folder / "prefix"), environment.get("AMENT_PREFIX_PATH", "")]
        self.environment["AMENT_PREFIX_PATH"] = os.pathsep.join(filter(None, prefixes))

    def has_vision_msgs(self) -> None:
        package = self.folder / "stand_in/vision_msgs"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        paths = [str(package.parent), self.environment.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(paths)

    def start(self, name: str, *arguments: str, **variables: str) -> int:
        """The id of the process that launches; ``end`` waits for it."""
        path = str(PROJECT / "launch" / f"{name}.launch.py")
        environment = {**self.environment, **variables}
        call = [str(self.folder), path, arguments, environment]
        print(json.dumps(call), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def end(self):
        """Exit code and output of what was started."""
        code = os.waitstatus_to_exitcode(int(self.server.stdout.readline()))
        return code, (self.folder / "output").read_text()

    def interrupt(self, process: int, calls: int) -> None:
        """Ctrl-C, once so many stand-ins have written down their calls."""
        deadline = time.monotonic() + 30
        while len(self.calls()) < calls and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process, signal.SIGINT)

    def run(self, name: str, *arguments: str, **variables: str):
        self.start(name, *arguments, **variables)
        return self.end()

    def calls(self) -> list:
        return [json.loads(path.read_text()) for path in (self.folder / "calls").glob("*.json")]

    def call(self, name: str, *arguments: str, **variables: str) -> dict:
        code, output = self.run(name, *arguments, **variables)
        assert code == 0, output
        (call,) = self.calls()
        return call


def remappings(call: dict) -> list:
    pairs = zip(call["argv"], call["argv"][1:])
    return [value for flag, value in pairs if flag == "-r" and not value.startswith("__")]


@pytest.mark.parametrize("target", ["cpu", "desktop", "tx1"])
def test_a_target_starts_the_node_with_its_own_file(stand_in, target):
    call = stand_in.call(target)
    assert [path for path, _ in call["files"]] == [str(PROJECT / "config" / f"{target}.yaml")]
    assert "__node:=segmentation_node" in call["argv"]
    assert remappings(call) == []
    assert call["profiles"] == [PROFILE, PROFILE]


def test_no_argument_leaves_the_nodes_defaults(stand_in):
    call = stand_in.call("segmentation")
    assert call["files"] == []


def test_arguments_win_over_the_file_and_name_the_node_in_full(stand_in):
    arguments = ("model:=2024", "backend:=torch", "autostart:=False", "namespace:=front")
    call = stand_in.call("cpu", *arguments, "image:=/cam/image_raw")
    (_, shipped), (_, given) = call["files"]
    assert "model: fast_elu" in shipped
    assert given.startswith("/front/segmentation_node:")
    # A quoted model is a string for the node's YAML reader too.
    assert sorted(line.strip() for line in given.splitlines()[2:]) == [
        "autostart: false",
        "backend: torch",
        "model: '2024'",
    ]
    assert "__ns:=/front" in call["argv"]
    assert remappings(call) == ["image:=/cam/image_raw"]


@pytest.mark.parametrize("name", ["segmentation", "cpu", "cameras"])
def test_a_deadline_is_a_number_of_the_nodes_type(stand_in, name):
    *_, (_, given) = stand_in.call(name, "deadline_ms:=50")["files"]
    assert "deadline_ms: 50.0" in [line.strip() for line in given.splitlines()]


@pytest.mark.parametrize(
    "variables",
    [{name: "/mine.xml"} for name in PROFILES] + [{"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}],
    ids=lambda variables: next(iter(variables)),
)
def test_the_users_middleware_settings_stay(stand_in, variables):
    call = stand_in.call("cpu", **variables)
    assert call["profiles"] == [variables.get(name, "") for name in PROFILES]


@pytest.mark.parametrize(
    ("distribution", "profiles"),
    [("jazzy", [PROFILE, ""]), ("kilted", ["", PROFILE]), ("lyrical", ["", PROFILE])],
)
def test_the_middleware_gets_the_variable_that_it_knows(stand_in, distribution, profiles):
    assert stand_in.call("cpu", ROS_DISTRO=distribution)["profiles"] == profiles


@pytest.mark.parametrize(
    ("arguments", "variables", "profile"),
    [
        ([], {}, PROFILE),
        (["localhost_only:=true"], {}, ""),
        ([], {"ROS_LOCALHOST_ONLY": "1"}, ""),
    ],
    ids=["network", "argument", "variable"],
)
def test_no_profile_opens_what_is_to_stay_local_on_humble(stand_in, arguments, variables, profile):
    """Its rmw_fastrtps adds a local transport to those of a profile, of which UDP stays open."""
    call = stand_in.call("cpu", *arguments, ROS_DISTRO="humble", **variables)
    assert call["profiles"] == [profile, ""]


def test_a_node_that_fails_ends_the_launch_with_an_error(stand_in):
    code, output = stand_in.run("cpu", STAND_IN_FAILS="segmentation_node")
    assert code == 1
    assert "segmentation_node ended with exit code 1" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "arguments", "distribution", "set_to"),
    [
        ("cpu", [], "jazzy", ["LOCALHOST", ""]),
        ("cpu", [], "humble", ["", "1"]),
        ("tx1", [], "jazzy", ["LOCALHOST", ""]),
        ("desktop", [], "jazzy", ["LOCALHOST", ""]),
        ("segmentation", ["rviz:=true"], "humble", ["", "1"]),
        ("cameras", ["cameras:=front,left", "separate:=true"], "jazzy", ["LOCALHOST", ""]),
        ("replay", ["bag:=/data/drive"], "jazzy", ["LOCALHOST", ""]),
        ("replay", ["bag:=/data/drive"], "humble", ["", "1"]),
    ],
)
def test_this_machine_only_on_demand(stand_in, name, arguments, distribution, set_to):
    number = 2 if arguments else 1
    variables = {"ROS_DISTRO": distribution, "STAND_IN_WAITS_FOR": str(number)}
    code, output = stand_in.run(name, *arguments, "localhost_only:=true", **variables)
    assert code == 0, output
    assert [call["discovery"] for call in stand_in.calls()] == [set_to] * number


def test_the_whole_network_by_default_as_ros_does(stand_in):
    assert stand_in.call("cpu")["discovery"] == ["", ""]


def test_interrupting_the_launch_is_no_error(stand_in):
    stand_in.interrupt(stand_in.start("cpu", STAND_IN_SECONDS="30"), calls=1)
    code, output = stand_in.end()
    assert code == 0, output


@pytest.mark.parametrize(
    ("name", "argument", "words"),
    [
        ("cpu", "params_file:=/nowhere.yaml", "no file '/nowhere.yaml'"),
        ("cpu", "localhost_only:=1", "localhost_only: got '1', expected true or false"),
        ("cpu", "rviz:=maybe", "rviz: got 'maybe', expected true or false"),
        ("cameras", "cameras:=front,,left", "cameras: got 'front,,left'"),
        ("cameras", "cameras:=front,front", "cameras: got 'front,front'"),
        ("cameras", "target:=tx2", "tx2"),
        ("cameras", "cameras:=front,2nd", "cameras: got '2nd', expected names of letters"),
        ("segmentation", "cameras:=a/b", "cameras: got 'a/b', expected names of letters"),
        ("cameras", "separate:=maybe", "separate: got 'maybe', expected true or false"),
        ("cpu", "rotation:=left", "rotation: got 'left', expected a whole number"),
        ("cameras", "deadline_ms:=soon", "deadline_ms: got 'soon', expected a number"),
        ("segmentation", "roi:=1,2,x,4", "roi: got 'x', expected a whole number"),
        ("cameras", "image:=/image_raw", "image: got '/image_raw', expected a topic relative to"),
        ("cameras", "cameras:=a__b", "cameras: got 'a__b'; ROS remaps the image topic of no name"),
        ("nav2", "prefix:=/", "prefix: got nothing, expected a name such as /segmentation"),
        ("replay", "model:=mine", "bag: got nothing"),
        ("replay", "play:=false", "image: got nothing"),
    ],
)
def test_a_wrong_argument_starts_nothing(stand_in, name, argument, words):
    code, output = stand_in.run(name, argument)
    assert code == 1
    assert words in output
    assert stand_in.calls() == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("segmentation: {ros__parameters: {model: mine}}", "segmentation"),
        ("{a: {b: {ros__parameters: {}}}, c: {ros__parameters: {}}}", "b, c"),
        ("ros__parameters: {model: mine}", "no node"),
        ("", "no node"),
    ],
)
def test_a_file_without_parameters_for_the_node_starts_nothing(stand_in, tmp_path, text, names):
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    code, output = stand_in.run("cpu", f"params_file:={path}")
    assert code == 1 and stand_in.calls() == []
    assert f"robot.yaml' has parameters for {names}, expected some for segmentation_node" in output


@pytest.mark.parametrize(
    "text",
    [
        "segmentation_node: {ros__parameters: {model: mine}}",
        "/front/segmentation_node: {ros__parameters: {model: mine}}",
        "{nav: {ros__parameters: {}}, a: {segmentation_node: {ros__parameters: {model: mine}}}}",
        "/front/**: {ros__parameters: {model: mine}}",
        "a: [: ",  # which the node itself refuses
    ],
)
def test_a_file_with_parameters_for_the_node_is_given_to_it(stand_in, tmp_path, text):
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    call = stand_in.call("segmentation", f"params_file:={path}")
    assert call["files"] == [[str(path), text]]


def test_rviz_follows_the_namespace_and_the_image(stand_in):
    code, output = stand_in.run("cpu", "rviz:=true", "namespace:=front", "image:=image_raw")
    assert code == 0, output
    (rviz,) = [call for call in stand_in.calls() if "-d" in call["argv"]]
    assert str(PROJECT / "config" / "segmentation.rviz") in rviz["argv"]
    assert "__ns:=/front" in rviz["argv"]
    assert remappings(rviz) == [
        "/image:=image_raw",
        "/image/compressed:=image_raw/compressed",
        "/segmentation_node/overlay:=segmentation_node/overlay",
        "/segmentation_node/class_map:=segmentation_node/class_map",
    ]


@pytest.mark.parametrize(
    ("transport", "image"),
    [("", "/image"), ("raw", "/image"), ("compressed", "/image/compressed")],
)
def test_rviz_shows_the_image_that_the_node_takes(stand_in, transport, image):
    code, output = stand_in.run("cpu", "rviz:=true", f"transport:={transport}")
    assert code == 0, output
    (rviz,) = [call for call in stand_in.calls() if "-d" in call["argv"]]
    ((_, text),) = rviz["files"]
    displays = yaml.safe_load(text)["Visualization Manager"]["Displays"]
    topics = [display["Topic"]["Value"] for display in displays]
    private = ["/segmentation_node/overlay", "/segmentation_node/class_map"]
    assert topics == [image, *private]


def test_one_node_serves_the_cameras(stand_in):
    code, output = stand_in.run("cameras", "cameras:=front, left", "target:=tx1", "backend:=auto")
    assert code == 0, output
    (call,) = stand_in.calls()
    assert remappings(call) == ["front/image:=front/image_raw", "left/image:=left/image_raw"]
    (path, _), (_, given) = call["files"]
    assert path == str(PROJECT / "config" / "tx1.yaml")
    lines = [line.strip() for line in given.splitlines()]
    assert "backend: auto" in lines
    assert [line for line in lines if line.startswith("- ")] == ["- front", "- left"]


@pytest.mark.parametrize("namespace", ["", "robot1", "/robot1/"])
def test_separate_cameras_have_a_node_each(stand_in, namespace):
    arguments = ("cameras:=front, left", "separate:=true", "target:=tx1", "backend:=auto")
    code, output = stand_in.run("cameras", *arguments, f"namespace:={namespace}")
    assert code == 0, output
    calls = stand_in.calls()
    namespaces = [word for call in calls for word in call["argv"] if word.startswith("__ns")]
    robot = "/robot1" if namespace else ""
    assert sorted(namespaces) == [f"__ns:={robot}/front", f"__ns:={robot}/left"]
    for call in calls:
        (path, _), (_, given) = call["files"]
        assert path == str(PROJECT / "config" / "tx1.yaml")
        assert "backend: auto" in given and "cameras" not in given
        assert remappings(call) == ["image:=image_raw"]


@pytest.mark.parametrize(
    ("arguments", "failing", "calls", "expected"),
    [
        (["separate:=true"], "front", 2, 0),
        (["separate:=true"], "segmentation_node", 2, 1),
        ([], "segmentation_node", 1, 1),
    ],
)
def test_separate_cameras_fail_only_together(stand_in, arguments, failing, calls, expected):
    variables = {"STAND_IN_FAILS": failing}
    code, output = stand_in.run("cameras", "cameras:=front,left", *arguments, **variables)
    assert code == expected, output
    assert len(stand_in.calls()) == calls


def replay_and_node(stand_in):
    """The calls of the two, whichever came first."""
    calls = stand_in.calls()
    (replay,) = [call for call in calls if call["argv"][0] == "live"]
    (node,) = [call for call in calls if call["argv"][0] != "live"]
    return replay, node


def test_node_and_replay_get_one_geometry(stand_in):
    arguments = ("bag:=/b", "roi:=1,2,30,40", "rotation:=180", "ignore_mask:=/hood.png")
    code, output = stand_in.run("replay", *arguments, STAND_IN_WAITS_FOR="2")
    assert code == 0, output
    replay, node = replay_and_node(stand_in)
    options = "--rotation 180 --ignore-mask /hood.png --roi 1 2 30 40"
    assert options in " ".join(replay["argv"])
    ((_, given),) = node["files"]
    lines = [line.strip() for line in given.splitlines()]
    assert "input.rotation: 180" in lines and "input.ignore_mask: /hood.png" in lines
    assert [line for line in lines if line.startswith("- ")] == ["- 1", "- 2", "- 30", "- 40"]


NAV2_TOPICS = {  # relative: two robots have their own, each in its namespace
    "~/class_map:=segmentation/mask",
    "~/confidence:=segmentation/confidence",
    "~/vision_label_info:=segmentation/label_info",
}


def test_nav2_remaps_to_the_layers_names(stand_in):
    stand_in.has_vision_msgs()
    call = stand_in.call("nav2", "image:=/cam/image_raw", "namespace:=robot1")
    assert set(remappings(call)) == NAV2_TOPICS | {"image:=/cam/image_raw"}
    assert "__ns:=/robot1" in call["argv"]
    assert [path for path, _ in call["files"]] == [str(PROJECT / "config" / "cpu.yaml")]


def test_nav2_gives_each_camera_its_mask(stand_in):
    stand_in.has_vision_msgs()
    call = stand_in.call("nav2", "cameras:=front,left", "prefix:=seg")
    found = set(remappings(call))
    assert "~/front/class_map:=seg/front/mask" in found
    assert "~/left/confidence:=seg/left/confidence" in found
    assert "~/vision_label_info:=seg/label_info" in found


@pytest.mark.parametrize(
    ("distribution", "package"), [("jazzy", "ros-jazzy-vision-msgs"), ("", "that ROS package")]
)
def test_nav2_without_vision_msgs_is_one_line(stand_in, distribution, package):
    code, output = stand_in.run("nav2", ROS_DISTRO=distribution)
    assert code == 1 and not stand_in.calls()
    assert "vision_msgs is not installed" in output
    assert "install " + package in output
    assert "Traceback" not in output


def test_replay_plays_the_bag_into_a_node_that_drops_nothing(stand_in):
    arguments = ("bag:=/data/drive", "model:=mine", "namespace:=front", "json:=out.json")
    code, output = stand_in.run(
        "replay", *arguments, "use_sim_time:=true", "allow_loss:=true", STAND_IN_WAITS_FOR="2"
    )
    assert code == 0, output
    replay, node = replay_and_node(stand_in)
    expected = "live --node /front/segmentation_node --bag /data/drive --json out.json"
    assert replay["argv"] == [*expected.split(), "--allow-loss", "--sim-time"]
    ((_, given),) = node["files"]
    assert sorted(line.strip() for line in given.splitlines()[2:]) == [
        "frame_policy: every",
        "input.transport: raw",
        "model: mine",
        "use_sim_time: true",
    ]
    assert "__ns:=/front" in node["argv"] and remappings(node) == []


def test_replay_listens_where_somebody_else_plays(stand_in):
    code, output = stand_in.run(
        "replay", "play:=false", "image:=/cam/image_raw", "bag:=/b", STAND_IN_WAITS_FOR="2"
    )
    assert code == 0, output
    replay, node = replay_and_node(stand_in)
    assert replay["argv"][-1] == "--listen" and "/cam/image_raw" in replay["argv"]
    assert remappings(node) == ["image:=/cam/image_raw"]


@pytest.mark.parametrize("failing", ["live", "__node:="])
def test_a_replay_or_node_that_fails_ends_the_launch_with_an_error(stand_in, failing):
    variables = {"STAND_IN_FAILS": failing, "STAND_IN_SECONDS": "30"}
    code, output = stand_in.run("replay", "bag:=/data/drive", **variables)
    assert code == 1
    assert "ended with exit code 1; its last lines say why" in output


def test_interrupting_a_replay_is_no_error(stand_in):
    process = stand_in.start("replay", "bag:=/data/drive", STAND_IN_SECONDS="30")
    stand_in.interrupt(process, calls=2)
    code, output = stand_in.end()
    assert code == 0, output
