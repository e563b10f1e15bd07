"""``evaluation live`` as its users run it: a command, a node of its own, a real DDS graph."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import linear_model, recorded
from support.core.real_data import folder_of
from support.live import CompressedImage, FrameLatency, Image

from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.live import listening
from segmentation_node.evaluation.live.target import prepare_middleware

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
SIZE = (48, 64)
COMMAND = [sys.executable, "-m", "segmentation_node.evaluation"]
SHIPPED = ["--model", "fast_elu_squeezenet_camvid", "--backend", "onnxruntime"]
TIMEOUT_S = 280


def evaluate(*arguments):
    command = COMMAND + [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("distribution", "stays_local", "given"),
    [
        ("humble", True, set()),  # no profile opens what stays on this machine
        ("humble", False, {"FASTRTPS_DEFAULT_PROFILES_FILE"}),
        ("jazzy", True, {"FASTRTPS_DEFAULT_PROFILES_FILE"}),
        ("kilted", True, {"FASTDDS_DEFAULT_PROFILES_FILE"}),
        ("", True, {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}),
    ],
)
def test_the_middleware_gets_the_profile_by_the_variable_that_it_knows(
    monkeypatch, distribution, stays_local, given
):
    monkeypatch.setattr(os, "environ", {"ROS_DISTRO": distribution})
    prepare_middleware(stays_local)
    assert {name for name in os.environ if name.endswith("PROFILES_FILE")} == given


def error_line(run):
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in run.stderr, run.stderr
    return line


def read(path):
    return json.loads(Path(path).read_text())


def names(report):
    return [frame["name"].split(" @ ")[0] for frame in report["per_frame"]]


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """60 frames, one of them broken."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    return recorded.write_bag(path, SIZE, 60, broken={7})


def test_a_bag_played_live_gives_the_exact_counts(ros_environment, bag, tiny_folder, tmp_path):
    out = tmp_path / "live.json"
    arguments = ["--bag", bag, "--model", tiny_folder, "--num-threads", 1, "--json", out]
    run = evaluate("live", *arguments, "--sim-time", "--also", "all")
    assert run.returncode == 0, run.stderr
    report = read(out)
    good = [index for index in range(60) if index != 7]
    assert names(report) == ["%06d" % index for index in good]
    assert report["confusion_matrix"]["pixels"] == recorded.confusion(good, SIZE).tolist()
    assert [frame["stamp_ns"] for frame in report["per_frame"]] == list(
        map(recorded.stamp_ns, good)
    )
    # Across the broken frame nothing is compared.
    assert report["temporal_consistency"]["frame_pairs"] == 57
    assert [problem["name"][:12] for problem in report["skipped"]] == ["frame 000007"]
    assert (report["source"]["backend"], report["source"]["precision"]) == ("onnxruntime", "fp32")
    assert len(report["source"]["model_sha256"]) == 64
    assert report["lost"] == [] and report["partial"] is False
    counts = report["counters"]
    assert (counts["received"], counts["processed"], counts["failed"]) == (59, 59, 0)
    stages = report["stages_ms"]
    assert 0 < stages["inference"]["p50"] < stages["processing"]["p50"]
    assert stages["processing"]["p50"] < stages["end_to_end"]["p50"]
    offline = str(tmp_path / "offline.json")
    assert main(["bag", bag, "--model", tiny_folder, "--json", offline]) == 0
    same_figures(report, read(offline))


def same_figures(one, other):
    """All that does not depend on time."""
    for key in ("confusion_matrix", "temporal_consistency", "skipped", "frames", "class_iou"):
        assert one[key] == other[key], key
    keys = ("name", "stamp_ns", "mean_iou", "global_accuracy", "changed_share")
    for frame, twin in zip(one["per_frame"], other["per_frame"], strict=True):
        assert [frame.get(key) for key in keys] == [twin.get(key) for key in keys]


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """Three images of CamVid's, as options of the commands."""
    root, few = Path(folder_of("camvid")), tmp_path_factory.mktemp("camvid")
    for folder in ("val", "valannot"):
        (few / folder).mkdir()
        for path in sorted((root / folder).glob("*.png"))[:3]:
            (few / folder / path.name).symlink_to(path)
    return ["--dataset", "camvid", "--root", str(few), "--split", "val"]


def offline(camvid, folder):
    """The shipped network's figures on them, through the pipeline in this process."""
    out = str(folder / "offline.json")
    assert main(["dataset", *camvid, *SHIPPED, "--json", out]) == 0
    report = read(out)
    assert report["frames"] == 3 and report["mean_iou"] > 0.3
    return report


def test_a_geometry_scores_live_as_offline(ros_environment, bag, tiny_folder, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :9] = 255
    cv2.imwrite(str(tmp_path / "hood.png"), mask)
    options = ["--model", tiny_folder, "--num-threads", 1, "--roi", 3, 5, 60, 40]
    options += ["--rotation", 270, "--ignore-mask", tmp_path / "hood.png", "--json"]
    live = evaluate("live", "--bag", bag, *options, tmp_path / "live.json")
    assert live.returncode == 0, live.stderr
    assert main(["bag", *map(str, (bag, *options, tmp_path / "bag.json"))]) == 0
    found, expected = read(tmp_path / "live.json"), read(tmp_path / "bag.json")
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    assert found["temporal_consistency"] == expected["temporal_consistency"]
    counted = np.array(found["confusion_matrix"]["pixels"])
    assert 0 < counted.sum() <= 59 * (60 - 6) * 40 and not counted[:, -1].any()
    assert found["source"]["rotation"] == expected["source"]["rotation"] == 270


def test_real_images_from_a_bag_score_live_as_offline(ros_environment, camvid, tmp_path):
    bag, out = str(tmp_path / "bag"), tmp_path / "live.json"
    assert main(["make-bag", *camvid, "--output", bag, "--image", "png"]) == 0
    run = evaluate("live", "--bag", bag, *SHIPPED, "--json", out)
    assert run.returncode == 0, run.stderr
    assert read(out)["confusion_matrix"] == offline(camvid, tmp_path)["confusion_matrix"]


@pytest.mark.slow
def test_real_images_of_a_data_set_score_live_as_offline(ros_environment, camvid, tmp_path):
    out = tmp_path / "live.json"
    run = evaluate("live", *camvid, *SHIPPED, "--json", out)
    assert run.returncode == 0, run.stderr
    one, other = read(out), offline(camvid, tmp_path)
    assert one["confusion_matrix"] == other["confusion_matrix"]
    assert names(one) == names(other)


def test_frames_that_the_node_drops_are_named_and_may_be_allowed(ros_environment, tmp_path):
    model = linear_model.write_model(tmp_path / "model", (360, 640), channels=16)
    drive = recorded.write_bag(tmp_path / "drive", SIZE, 12, with_truth=False)
    arguments = ["live", "--bag", drive, "--model", model, "--num-threads", 1]
    arguments += ["--policy", "latest", "--in-flight", 6, "--allow-loss"]
    run = evaluate(*arguments, "--json", tmp_path / "live.json")
    assert run.returncode == 0, run.stderr
    assert "warning: " in run.stderr and " of 12 frames lost: " in run.stderr
    report = read(tmp_path / "live.json")
    assert len(report["lost"]) + report["frames"] == 12 and report["frames"] >= 2
    # A newer image replaces one in the node, or in its subscription of depth 1 before that.
    counts = report["counters"]
    assert counts["processed"] == report["frames"] and counts["failed"] == 0
    assert 12 - counts["received"] + counts["dropped"] == len(report["lost"]) > 0
    assert "meanwhile the node counted " in report["lost"][0]["reason"]


def test_listening_counts_what_another_player_loses(ros_environment, bag, tiny_folder, tmp_path):
    skip = (3, 10)
    out = tmp_path / "heard.json"
    arguments = ["--bag", bag, "--model", tiny_folder, "--num-threads", "1"]
    arguments += ["--idle", "3", "--timeout", "6", "--json", str(out)]
    with open(tmp_path / "player.log", "wb") as log:
        player = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "test" / "support" / "bag_player.py"),
                bag,
                "--skip",
                *map(str, skip),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            run = evaluate("live", "--listen", *arguments)
        finally:
            player.kill()
            player.wait()
    report = read(out)
    # The broken image came, but nobody can convert it.
    good = [index for index in range(60) if index not in (7, *skip)]
    assert report["confusion_matrix"]["pixels"] == recorded.confusion(good, SIZE).tolist()
    assert [problem["name"].split(" @ ")[0] for problem in report["lost"]] == ["000003", "000010"]
    assert [problem["name"].split(" @ ")[0] for problem in report["skipped"]] == ["frame 000007"]
    assert names(report) == ["%06d" % index for index in good]
    # Nothing is compared across the three gaps.
    assert report["temporal_consistency"]["frame_pairs"] == 60 - 1 - 2 * 3
    assert run.returncode == 1 and "2 of 60 frames lost" in error_line(run)


def test_a_listener_says_why_it_hears_nothing(ros_environment, ros, monkeypatch, capsys):
    from rclpy.signals import SignalHandlerOptions

    monkeypatch.setattr(listening, "REMIND_S", 0.2)
    other = ros.Context()  # one participant cannot have two types on a topic
    ros.init(args=[], context=other, signal_handler_options=SignalHandlerOptions.NO)
    driver = ros.create_node("driver", context=other)

    class Waiting:
        def __init__(self, line):
            self.line, self.until_s = line, time.monotonic() + 30

        def check(self):
            assert time.monotonic() < self.until_s, self.line
            if self.line in capsys.readouterr().err:
                raise StopIteration

    def hears(line):
        with pytest.raises(StopIteration):
            listener.listen(Waiting("listening: no image yet: %s\n" % line), 1.0)

    with listening.Listening("/nobody", "/cam") as listener:
        hears("nobody publishes /cam")
        silent = driver.create_publisher(Image, "/cam", 1)
        hears("/cam has publishers, which are silent")
        driver.destroy_publisher(silent)
        driver.create_publisher(CompressedImage, "/cam", 1)
        hears("/cam is published as sensor_msgs/msg/CompressedImage")
    driver.destroy_node()
    other.shutdown()


@pytest.mark.parametrize(
    "stop",
    [
        # A terminal's Ctrl-C goes to the whole group: to the replay and to its node.
        lambda pid: os.killpg(pid, signal.SIGINT),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_a_run_that_is_stopped_leaves_a_partial_report(peer, bag, tiny_folder, tmp_path, stop):
    out, log_path = tmp_path / "live.json", tmp_path / "log"
    arguments = ["live", "--bag", bag, "--model", tiny_folder, "--rate", "0.1", "--json", str(out)]
    latencies = peer.listen(FrameLatency, "/segmentation_node/latency")
    with open(log_path, "wb") as log, latencies:
        process = subprocess.Popen(
            COMMAND + arguments, cwd=str(ROOT), stdout=log, stderr=log, start_new_session=True
        )
        peer.until(lambda: len(latencies.messages) > 2, "some frames", timeout_s=120)
        stop(process.pid)
        assert process.wait(60) == 130, log_path.read_text()
    topic = "/segmentation_node/latency"
    peer.until(lambda: not peer.node.count_publishers(topic), "the end of the node")
    text = log_path.read_text()
    assert "Traceback" not in text and "interrupted" in text
    report = read(out)
    assert report["partial"] is True and 0 < report["frames"] < 59
    done = [int(name) for name in names(report)]
    assert report["confusion_matrix"]["pixels"] == recorded.confusion(done, SIZE).tolist()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--bag", "B"], "give --model to start a node, or --node"),
        (["--listen", "--model", "M"], "--listen needs --image-topic"),
        (
            ["--node", "/n", "--num-threads", "1", "--policy", "latest"],
            "--policy, --num-threads: no",
        ),
        (["--model", "M"], "nothing to play"),
        (["--model", "M", "--bag", "B", "--dataset", "camvid"], "either --bag or --dataset"),
        (
            ["--model", "M", "--dataset", "street", "--rate", "1", "--also", "a", "--labels", "L"],
            "--labels, --also, --rate: no effect on a data set",
        ),
        (["--model", "M", "--bag", "B", "--root", "R", "--split", "test"], "--root, --split: no"),
        (["--model", "M", "--bag", "B", "--idle", "1"], "--idle: no effect without --listen"),
        (
            ["--model", "M", "--bag", "B", "--listen", "--hz", "5", "--in-flight", "1"],
            "--hz, --in-flight: no effect with --listen",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_line(capsys, arguments, fragment):
    assert main(["live", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and fragment in error and error.count("\n") == 1


def test_a_model_that_is_none_is_one_line(ros_environment, bag):
    run = evaluate("live", "--bag", bag, "--model", "nonsense")
    assert run.returncode == 1
    assert "model 'nonsense' is neither a folder nor" in error_line(run)


@pytest.mark.parametrize("frames", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_frames_of_640x360_come_back_without_loss_in_flat_memory(ros_environment, tmp_path, frames):
    size = (360, 640)
    model = linear_model.write_model(tmp_path / "model", size)
    drive = recorded.write_bag(tmp_path / "drive", size, frames, with_truth=False)
    out = tmp_path / "live.json"
    run = evaluate("live", "--bag", drive, "--model", model, "--num-threads", 1, "--json", out)
    shutil.rmtree(drive)  # pytest keeps the folders of its last runs
    assert run.returncode == 0, run.stderr
    report = read(out)
    assert (report["frames"], report["lost"], report["skipped"]) == (frames, [], [])
    counts = report["counters"]
    assert (counts["received"], counts["processed"], counts["lost"]) == (frames, frames, 0)
    for name in ("node", "replay"):
        memory_mb = report["source"][name + "_memory_mb"]
        # The images between the two would take 55 MB, or 550.
        assert memory_mb["most"] - memory_mb["settled"] < 40, memory_mb
