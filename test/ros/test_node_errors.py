"""What cannot be configured: one line, exit code 1, a diagnostic ERROR; and how it is put right."""

import contextlib
import shutil
import time
from pathlib import Path

import pytest
import yaml
from support import linear_model, tensorrt_wheels
from support.live import TIMEOUT_S, LiveNode, error_lines, refusal, values_of

from segmentation_node.ros.main import main
from segmentation_node.ros.node import SegmentationNode

pytestmark = pytest.mark.ros

SIZE = (48, 64)


@pytest.fixture
def log_path(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def without_model(folder):
    return {"model": str(folder / "nowhere")}, ["nowhere", "neither a folder nor a model"]


def with_unknown_key(folder):
    edit_card(folder, lambda card: card.update(colour="blue"))
    return {"model": str(folder)}, ["model.yaml", "unknown keys", "colour"]


def with_wrong_hash(folder):
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\n")
    return {"model": str(folder)}, ["sha256 is", "the model card expects"]


def with_other_label_set(folder):
    edit_card(folder, lambda card: card.update(label_set="cityscapes19"))
    return {"model": str(folder)}, ["label set camvid11", "the model card says cityscapes19"]


def with_unknown_backend(folder):
    return {"model": str(folder), "backend": "abacus"}, ["backend is 'abacus'", "onnxruntime"]


def with_execution_that_the_backend_lacks(folder):
    parameters = {"model": str(folder), "backend": "onnxruntime", "execution": "graph"}
    return parameters, ["backend onnxruntime: execution 'graph'", "choose one of ['auto', 'eager'"]


def with_missing_tensorrt(folder):
    return {"model": str(folder), "backend": "tensorrt"}, ["backend tensorrt:"]


def with_threads_out_of_range(folder):
    return {"model": str(folder), "num_threads": -1}, ["num_threads", "-1", "from 0 to 256"]


def with_alpha_out_of_range(folder):
    return {"model": str(folder), "overlay.alpha": 2.0}, ["overlay.alpha", "from 0 to 1"]


def with_wrong_type(folder):
    return {"model": str(folder), "num_threads": "many"}, ["num_threads", "INTEGER"]


def with_threshold_without_confidence(folder):
    model = linear_model.write_model(folder.parent / "unsure", SIZE, with_confidence=False)
    parameters = {"model": model, "confidence.threshold": 0.5}
    return parameters, ["confidence.threshold is 0.5", "gives no confidence"]


FAILURES = [
    with_unknown_key,
    with_wrong_hash,
    with_other_label_set,
    with_unknown_backend,
    with_execution_that_the_backend_lacks,
    with_threads_out_of_range,
    with_alpha_out_of_range,
    with_threshold_without_confidence,
]
# Each of the ways in which the process ends with 1, and TensorRT, for which the folder
# test/tensorrt would be taken in this process.
ENDING = [without_model, with_wrong_type, with_missing_tensorrt]


def edit_card(folder, edit):
    card = yaml.safe_load((folder / "model.yaml").read_text())
    edit(card)
    linear_model.write_card(folder, card)


def spoil(case, tiny_folder, tmp_path):
    """Parameters that cannot work, and what the one line must say."""
    folder = Path(shutil.copytree(tiny_folder, str(tmp_path / "spoilt")))
    return case(folder)


@pytest.fixture(scope="module")
def failed(peer, tiny_folder, tmp_path_factory):
    """By case: exit code, log, diagnostics, and what has to be said; started all at once."""
    folder = tmp_path_factory.mktemp("failures")
    nodes, found = {}, {}
    with contextlib.ExitStack() as stack:
        for case in ENDING:
            (folder / case.__name__).mkdir()
            parameters, fragments = spoil(case, tiny_folder, folder / case.__name__)
            nodes[case] = stack.enter_context(LiveNode(peer, parameters, folder)), fragments
        for case, (node, fragments) in nodes.items():
            code = node.exit_code()
            peer.spin_for(0.2)
            found[case] = code, node.log, node.statuses, fragments
    return found


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.__name__)
def test_a_known_error_is_one_line(ros, tiny_folder, tmp_path, capfd, case):
    parameters, fragments = spoil(case, tiny_folder, tmp_path)
    line = refusal(parameters, capfd)
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize("case", ENDING, ids=lambda case: case.__name__)
def test_a_known_error_is_one_line_and_exit_code_1(failed, case):
    if case is with_missing_tensorrt and tensorrt_wheels.is_installed():
        pytest.skip("TensorRT is installed here")
    code, log, statuses, fragments = failed[case]
    assert code == 1
    (line,) = error_lines(log)
    for fragment in fragments:
        assert fragment in line
    for status in statuses[-1:]:  # none where the process ended before it was found
        assert status.level == b"\x02"
        assert all(fragment in status.message for fragment in fragments)


def test_a_wrong_ros_argument_is_one_line_and_exit_code_1(peer, log_path):
    with LiveNode(peer, {}, log_path, ["front__left/image:=image"]) as node:
        assert node.exit_code() == 1
        assert "Traceback" not in node.log
        (line,) = [line for line in node.log.splitlines() if line.startswith("error:")]
    assert line.startswith("error: ROS does not start: RCLError: ")
    assert "front__left/image:=image" in line


@pytest.mark.parametrize("given", [["-p", "model:=yard"], ["model:=yard"], ["--model", "yard"]])
def test_an_argument_that_is_not_ros_s_is_refused(given, capsys):
    """Without ``--ros-args`` ROS passes it over, and another model would run than was meant."""
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: %s" % given[0] in said and "--ros-args -p NAME:=VALUE" in said


def test_before_it_exits_the_error_is_in_the_diagnostics(peer, tmp_path, log_path):
    for _ in range(3):  # discovery takes its time, and the process does not live for ever
        with LiveNode(peer, without_model(tmp_path)[0], log_path) as node:
            assert node.exit_code() == 1
            if [status for status in node.statuses if status.level == b"\x02"]:
                return
    raise AssertionError("no diagnostic ERROR from three nodes that failed")


def test_its_last_words_wait_for_nobody_once_it_is_told_to_stop(ros):
    node = SegmentationNode("told_to_stop", told_to_stop=lambda: True)
    start_s = time.monotonic()
    node.report_last(TIMEOUT_S)
    assert time.monotonic() - start_s < TIMEOUT_S / 2
    node.stop()
    node.destroy_node()


def test_without_autostart_it_stays_and_says_why_until_it_is_put_right(
    peer, tiny_folder, tmp_path, log_path
):
    parameters, _ = spoil(with_threads_out_of_range, tiny_folder, tmp_path)
    parameters.update(autostart=False, backend="abacus")
    with LiveNode(peer, parameters, log_path) as node:
        node.status("OK", "unconfigured")
        assert not node.change("configure")
        assert node.state() == "unconfigured"
        node.status("ERROR", "num_threads", "; backend is 'abacus'")
        assert node.set("num_threads", 1).successful
        for case in (without_model, with_wrong_hash):
            folder = tmp_path / case.__name__
            shutil.copytree(tiny_folder, str(folder))
            parameters, fragments = case(folder)
            assert node.set("model", parameters["model"]).successful
            assert node.set("backend", "auto").successful
            assert not node.change("configure")
            node.status("ERROR", *fragments)
        assert node.set("model", tiny_folder).successful
        assert node.change("configure")
        status = node.status("OK", "inactive")
        assert values_of(status)["model"] == "linear"
        assert node.change("activate")
        node.status("OK", "idle, no subscriber")
        assert "Traceback" not in node.log
