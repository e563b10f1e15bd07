"""The demo as a user runs it: in a process of its own, with the node in another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import linear_model, live, recorded

from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.clip import is_bag
from segmentation_node.evaluation.live import evaluate

pytestmark = pytest.mark.ros
assert live  # skips this file, loudly, where ROS is missing

ROOT = Path(__file__).resolve().parents[2]
SIZE = (240, 320)
COMMAND = [sys.executable, "-m", "segmentation_node.evaluation", "demo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return linear_model.write_model(tmp_path_factory.mktemp("model") / "linear", SIZE)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(7):
        image = linear_model.blocks(SIZE, index, block=16)
        assert cv2.imwrite(str(folder / ("street_%d.png" % index)), image[..., ::-1])
    return folder


def demo(*arguments):
    return subprocess.run(
        COMMAND + [str(argument) for argument in arguments],
        cwd=str(ROOT), capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def test_demo_leaves_its_results(ros_environment, model, images, tmp_path):
    out = tmp_path / "out"
    run = demo("--input", images, "--model", model, "--frames", 5, "--output", out)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 frames segmented, 0 lost, 0 headers changed" in run.stdout
    names = sorted(path.name for path in (out / "class_maps").iterdir())
    assert names == ["street_%d.png" % index for index in range(5)]
    for index, name in enumerate(names):
        class_map = cv2.imread(str(out / "class_maps" / name), cv2.IMREAD_UNCHANGED)
        expected = linear_model.classify(linear_model.blocks(SIZE, index, block=16))
        assert np.array_equal(class_map, expected)
    assert video_sizes(out / "overlay.webm") == [SIZE] * 5
    assert "not supported" not in run.stderr  # what OpenCV says of every WebM
    content = json.loads((out / "latency.json").read_text())
    assert (content["frames_sent"], content["frames_segmented"]) == (5, 5)
    assert content["header_mismatches"] == content["frames_lost"] == 0
    times = content["stages_ms"]["processing"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    text = (out / "diagnostics.txt").read_text()
    assert "segmentation_node: segmentation" in text and "processed: 5" in text


def test_a_bag_is_played_and_scored(ros_environment, model, tmp_path, monkeypatch):
    """Its last frame's truth has an id of no class: it is shown, and named as not scored."""
    truth_of, out = recorded.truth_of, tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            recorded,
            "truth_of",
            lambda i, s: np.full(s, 77, np.uint8) if i == 3 else truth_of(i, s),
        )
        bag = recorded.write_bag(tmp_path / "drive", SIZE, 6)
    run = demo("--input", bag, "--model", model, "--frames", 4, "--output", out)
    assert run.returncode == 0, run.stdout + run.stderr
    names = sorted(path.name for path in (out / "class_maps").iterdir())
    assert names == ["%05d.png" % index for index in range(4)]
    content = json.loads((out / "latency.json").read_text())
    counts = content["accuracy"]["confusion_matrix"]["pixels"]
    assert counts == recorded.confusion(range(3), SIZE).tolist()
    reason = "00003.png: truth holds id 77; expected 0-10 or 255"
    assert content["frames_not_scored"] == [{"name": "00003.png", "reason": reason}]
    assert content["frames_segmented"] == 4 and content["frames_left_out"] == []
    assert "warning: not scored: " + reason in run.stderr
    assert "4 frames segmented (1 not scored), 0 lost" in run.stdout
    assert cv2.VideoCapture(str(out / "overlay.webm")).get(cv2.CAP_PROP_FPS) == 20.0


# Where a disk is full, writes fail as they do beyond a file's largest size.
SMALL_FILES = """
import resource, sys
import numpy as np
from segmentation_node.evaluation.recorder import OverlayVideo, write_image

noise = np.random.default_rng(0).integers(0, 255, (20, 96, 128, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if sys.argv[1].endswith(".webm"):
    with OverlayVideo(sys.argv[1], 15.0) as video:
        for image_hwc in noise:
            video.add(image_hwc)
        video.encode(iter)
else:
    write_image(sys.argv[1], noise[0])
"""


@pytest.mark.parametrize("name", ["map.png", "overlay.webm"])
def test_a_file_that_the_disk_has_no_room_for_is_named(ros_environment, tmp_path, name):
    command = [sys.executable, "-c", SMALL_FILES, str(tmp_path / name)]
    run = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True, timeout=180)
    assert run.returncode == 1
    assert "OutputError: %s" % (tmp_path / name) in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def video_sizes(path):
    capture = cv2.VideoCapture(str(path))
    sizes = []
    while True:
        found, frame = capture.read()
        if not found:
            return sizes
        sizes.append(frame.shape[:2])


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--input", "/nowhere/at/all"], "/nowhere/at/all: neither an image folder nor a video"),
        (["--input", str(ROOT / "config")], "no images (.png"),
        (["--model", "nonsense"], "model 'nonsense' is neither a folder nor a model"),
        (["--output", str(ROOT / "config")], "config is not a demo's folder (it holds "),
        (["--input", str(ROOT / "docs"), "--output", str(ROOT / "docs")], "docs is read"),
        (["--input", str(ROOT / "docs"), "--output", str(ROOT)], "is read, or holds what is read"),
    ],
)
def test_what_cannot_be_played_is_one_line(tmp_path, arguments, fragment, capfd):
    assert main(["demo", "--output", str(tmp_path / "out"), *arguments]) == 1
    assert list(tmp_path.iterdir()) == []
    assert (ROOT / "config" / "cpu.yaml").exists() and (ROOT / "docs" / "replay.md").exists()
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
    assert any(line.startswith("error: ") and fragment in line for line in lines)


def test_a_node_that_does_not_start_is_told(ros_environment, model, images, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    with open(str(damaged / "model.onnx"), "ab") as file:
        file.write(b"more")
    run = demo("--input", images, "--model", damaged, "--output", tmp_path / "out")
    assert run.returncode == 1
    assert "model.onnx: sha256 is " in run.stderr
    assert "error: the node ended with exit code 1" in run.stderr
    assert "Traceback" not in run.stderr


def test_ctrl_c_keeps_the_results_so_far(ros_environment, model, images, tmp_path):
    """A terminal's Ctrl-C goes to the whole group: to the demo and to its node."""
    for index in range(7, 300):
        os.link(str(images / "street_0.png"), str(tmp_path / ("street_%d.png" % index)))
    out = tmp_path / "out"
    arguments = ["--input", str(tmp_path), "--model", model, "--output", str(out)]
    process = subprocess.Popen(
        COMMAND + arguments, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while (
        not list(tmp_path.glob(".out.partial/out/class_maps/*")) and time.monotonic() < deadline_s
    ):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert "Traceback" not in text and process.returncode == 0, text
    assert "interrupted: the results so far are kept" in text
    frames = len(list(out.glob("class_maps/*")))
    assert 0 < frames < 293 and len(video_sizes(out / "overlay.webm")) == frames
    assert json.loads((out / "latency.json").read_text())["frames_segmented"] == frames


def test_a_broken_picture_is_left_out_by_name(ros_environment, model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = linear_model.blocks(SIZE, 3, block=16)[..., ::-1]
    for name in ("f2.png", "f10.png", "f10.jpg"):
        assert cv2.imwrite(str(folder / name), pixels)
    data = (folder / "f2.png").read_bytes()
    (folder / "f3.png").write_bytes(data[: len(data) // 2])
    (folder / "._f2.png").write_bytes(b"\0\5\x16\7")
    done = demo("--input", str(folder), "--model", model, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "3 frames segmented, 1 left out, 0 lost" in done.stdout
    assert "f3.png" in done.stderr and "cut off" in done.stderr
    maps = sorted(path.name for path in (tmp_path / "out" / "class_maps").iterdir())
    assert maps == ["f10.png", "f10.png.png", "f2.png"]
    (left_out,) = json.loads((tmp_path / "out" / "latency.json").read_text())["frames_left_out"]
    assert left_out["name"] == "f3.png"


def test_without_one_whole_picture_nothing_is_claimed(ros_environment, model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "f3.png").write_bytes(b"half")
    done = demo("--input", str(folder), "--model", model, "--output", tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "nothing to segment: " in done.stderr and "f3.png" in done.stderr


def test_ctrl_c_before_the_first_frame_leaves_nothing(tmp_path, images, capfd, monkeypatch):
    @contextmanager
    def interrupted(options):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(evaluate, "live_run", interrupted)
    words = ["demo", "--input", str(images), "--output", str(tmp_path / "out")]
    assert main(words) == 130
    assert capfd.readouterr().err == "interrupted: before the first frame\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["D.MCAP", "d_0.db3.zst", "d.mcap.zstd", "._d.mcap"])
def test_what_is_a_bag_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert is_bag(str(tmp_path / name)) and is_bag(str(tmp_path)) == (name[0] != ".")


def test_a_command_that_is_killed_leaves_no_node_behind(ros_environment, model):
    script = (
        "import time\n"
        "from segmentation_node.evaluation.live.target import NodeProcess\n"
        "print(NodeProcess({'model': %r, 'autostart': False}).pid, flush=True)\n"
        "time.sleep(600)\n" % model
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=str(ROOT), stdout=subprocess.PIPE
    ) as parent:
        node = Path("/proc", str(int(parent.stdout.readline())), "cmdline")
        assert b"segmentation_node.ros.main" in node.read_bytes()
        parent.kill()
    deadline_s = time.monotonic() + live.TIMEOUT_S
    while node.exists() and node.read_bytes():  # a process that has ended has no command any more
        assert time.monotonic() < deadline_s, "the node is still there"
        time.sleep(0.1)
