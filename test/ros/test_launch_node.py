"""``ros2 launch`` with the installed package, as its users type it: the real node, a real frame."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import linear_model, recorded, tensorrt_wheels
from support.live import FrameLatency, Image, LabelInfo, image_message
from support.ros_sources import PROJECT, sources_root

from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.ros.outputs import latched_qos

pytestmark = pytest.mark.ros

SIZE = (48, 64)
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def ros2(ros_environment):
    """``ros2``, from the ROS distribution or from its sources, as the start of a command."""
    require_current_install()
    for command in (["ros2"], [str(sources_root() / "run"), "ros2"]):
        if shutil.which(command[0]) and knows_launch(command):
            return command
    pytest.skip(
        "ROS2 LAUNCH NOT RUN: there is no ros2 with its launch command; source a ROS distribution "
        f"or build it from sources with tools/ros_overlay (here into {sources_root()})"
    )


def require_current_install():
    """Skip where what would be launched is not what is in the source tree."""
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":")]
    package = "share/segmentation_node/package.xml"
    prefix = next((prefix for prefix in prefixes if (prefix / package).is_file()), None)
    if prefix is None:
        pytest.skip("ROS2 LAUNCH NOT RUN: segmentation_node is not installed; run make setup")
    for path in sources():
        copies = prefix.glob(f"lib/python*/site-packages/{path}")
        if path.parts[0] != "segmentation_node":
            copies = [prefix / "share/segmentation_node" / path]
        if not any(same(PROJECT / path, copy) for copy in copies):
            pytest.skip(f"ROS2 LAUNCH NOT RUN: {path} is newer than {prefix}; run make setup")


def sources():
    patterns = ("segmentation_node/**/*.py", "launch/*.py", "config/*")
    return [path.relative_to(PROJECT) for pattern in patterns for path in PROJECT.glob(pattern)]


def same(one, other):
    return other.is_file() and one.read_bytes() == other.read_bytes()


def environment():
    """Of a child process; the sources' own script sets up the checkout that PROJECT names."""
    return {**os.environ, "PROJECT": str(PROJECT)}


def knows_launch(command):
    listed = subprocess.run(
        [*command, "launch", "--help"], env=environment(), capture_output=True, timeout=TIMEOUT_S
    )
    return listed.returncode == 0


class Launch:
    """``ros2 launch segmentation_node ...`` in a process group of its own, as in a terminal."""

    def __init__(self, ros2, folder, *arguments):
        self._log_path = folder / "launch.log"
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*ros2, "launch", "segmentation_node", *arguments],
                cwd=folder,  # not the source tree: the installed package has to be found
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self):
        return self._log_path.read_text(errors="replace")

    def end(self):
        """Exit code and everything printed, once it has ended."""
        return self.process.wait(TIMEOUT_S), self.log


def test_it_segments_until_ctrl_c(ros2, peer, tiny_folder, tmp_path):
    image = linear_model.blocks(SIZE, 1)
    labels = peer.listen(LabelInfo, "/segmentation_node/label_info", latched_qos())
    maps = peer.listen(Image, "/segmentation_node/class_map")
    latencies = peer.listen(FrameLatency, "/segmentation_node/latency")
    camera = peer.node.create_publisher(Image, "/front/image_raw", 10)
    arguments = ("model:=" + tiny_folder, "image:=/front/image_raw")
    with Launch(ros2, tmp_path, "cpu.launch.py", *arguments) as launch, labels, maps, latencies:

        def answered():
            assert launch.process.poll() is None, launch.log
            camera.publish(image_message(image.tobytes(), SIZE, "rgb8"))
            peer.spin_for(0.1)
            return labels.messages and maps.messages and latencies.messages

        peer.until(answered, "labels, class map and latency", TIMEOUT_S)
        assert labels.messages[0].model == "linear"
        assert np.array_equal(pixels(maps.messages[0]), linear_model.classify(image))
        os.killpg(launch.process.pid, signal.SIGINT)
        code, log = launch.end()
    assert code == 0, log
    assert "process has finished cleanly" in log
    for word in ("[ERROR]", "Traceback", "exit code", "SIGTERM", "SIGKILL"):
        assert word not in log, log
    peer.node.destroy_publisher(camera)


@pytest.mark.skipif(tensorrt_wheels.is_installed(), reason="TensorRT is here")
def test_a_missing_tensorrt_is_one_line_and_exit_code_1(ros2, tiny_folder, tmp_path):
    with Launch(ros2, tmp_path, "tx1.launch.py", "model:=" + tiny_folder) as launch:
        code, log = launch.end()
    assert code == 1, log
    (line,) = [
        line for line in log.splitlines() if line.startswith("[segmentation_node-1] [ERROR]")
    ]
    assert "backend tensorrt: TensorRT is missing" in line
    assert log.count("TensorRT is missing") == 1
    assert "choose backend onnxruntime or torch" in line
    assert "Traceback" not in log


def test_a_replay_scores_a_bag_and_ends(ros2, tiny_folder, tmp_path):
    bag = recorded.write_bag(tmp_path / "drive", SIZE, 20)
    out = tmp_path / "scores.json"
    arguments = ("bag:=" + bag, "model:=" + tiny_folder, f"json:={out}")
    with Launch(ros2, tmp_path, "replay.launch.py", *arguments) as launch:
        code, log = launch.end()
    assert code == 0, log
    report = json.loads(out.read_text())
    assert report["confusion_matrix"]["pixels"] == recorded.confusion(range(20), SIZE).tolist()
    assert report["counters"]["processed"] == 20 and report["lost"] == []
    for word in ("[ERROR]", "Traceback", "exit code"):
        assert word not in log, log


def test_one_node_serves_several_cameras(ros2, peer, tiny_folder, tmp_path):
    images = {name: linear_model.blocks(SIZE, seed) for seed, name in enumerate(("front", "left"))}
    maps = {name: peer.listen(Image, f"/segmentation_node/{name}/class_map") for name in images}
    cameras = {name: peer.node.create_publisher(Image, f"/{name}/image_raw", 10) for name in images}
    arguments = ("cameras:=front,left", "model:=" + tiny_folder)
    with Launch(ros2, tmp_path, "cameras.launch.py", *arguments) as launch:

        def answered():
            assert launch.process.poll() is None, launch.log
            for name, image in images.items():
                cameras[name].publish(image_message(image.tobytes(), SIZE, "rgb8"))
            peer.spin_for(0.1)
            return all(listener.messages for listener in maps.values())

        peer.until(answered, "a class map of each camera", TIMEOUT_S)
        for name, image in images.items():
            expected = linear_model.classify(image)
            assert np.array_equal(pixels(maps[name].messages[0]), expected)
            maps[name].close()
        os.killpg(launch.process.pid, signal.SIGINT)
        code, log = launch.end()
    assert code == 0, log
    assert log.count("process has finished cleanly") == 1
    for camera in cameras.values():
        peer.node.destroy_publisher(camera)


def test_a_model_without_the_batch_ends_the_launch(ros2, tiny_folder, tmp_path):
    parameters = tmp_path / "window.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    batch_window_ms: 5.0\n")
    arguments = ("cameras:=front,left", "model:=" + tiny_folder, f"params_file:={parameters}")
    with Launch(ros2, tmp_path, "cameras.launch.py", *arguments) as launch:
        code, log = launch.end()
    assert code == 1, log
    (line,) = [line for line in log.splitlines() if "[segmentation_node]: batch_window_ms" in line]
    assert "a run of model linear on" in line and "export the model with --batch 2" in line
