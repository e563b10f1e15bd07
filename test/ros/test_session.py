"""What exists from configure to cleanup is there as a whole or not at all."""

import itertools
import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from support import linear_model
from support.core import tiny
from support.live import TIMEOUT_S, Header, Parameter, Time, error_lines

from segmentation_node.backends import choice
from segmentation_node.backends.onnxruntime import OnnxRuntimeBackend
from segmentation_node.errors import BackendError
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import AccuracyInfo
from segmentation_node.ros import main, session
from segmentation_node.ros.loaded_model import LoadedModel, ModelPlan

pytestmark = pytest.mark.ros

NUMBERS = itertools.count()


@pytest.fixture
def node(ros, tiny_folder):
    """A node that nobody spins, with a model that can be loaded."""
    from segmentation_node.ros.node import SegmentationNode

    overrides = [Parameter("model", value=tiny_folder), Parameter("num_threads", value=1)]
    # rclpy leaves a lifecycle node on the graph until it is collected: each gets a name of its own.
    name = "session_%d_under_test" % next(NUMBERS)
    found = SegmentationNode(name, parameter_overrides=overrides)
    yield found
    found.stop()
    found.destroy_node()


def remains(node):
    """Topics of its own beside those of every lifecycle node, and threads."""
    topics = [
        name
        for name, _ in node.get_publisher_names_and_types_by_node(node.get_name(), "/")
        if name.startswith("/%s/" % node.get_name()) and "transition_event" not in name
    ]
    return topics + [item.name for item in threading.enumerate() if "worker" in item.name]


def lifecycle_state(node):
    return node._state_machine.current_state[1]


def spoil_backend(monkeypatch, closed):
    """The run time loads the model and fails at its first run."""

    def run(*_):
        raise RuntimeError("spoilt by the test")

    monkeypatch.setattr(OnnxRuntimeBackend, "run", run)
    monkeypatch.setattr(OnnxRuntimeBackend, "close", lambda self: closed.append(self))


def spoil(method):
    def fail(*_, **__):
        raise RuntimeError("spoilt by the test")

    return lambda monkeypatch, _: monkeypatch.setattr("segmentation_node.ros." + method, fail)


@pytest.mark.parametrize(
    "patch",
    [
        spoil_backend,
        spoil("outputs.LabelOutputs.publish"),
        spoil("input.ImageInput.__init__"),
        spoil("processor.FrameProcessor.__init__"),
    ],
    ids=["first run", "labels", "input", "processor"],
)
def test_what_cannot_be_built_leaves_nothing(node, monkeypatch, patch):
    assert node.set_parameters([Parameter("backend", value="onnxruntime")])[0].successful
    closed = []
    with monkeypatch.context() as spoilt:
        patch(spoilt, closed)
        assert node.trigger_configure().name == "FAILURE"
        assert "spoilt by the test" in node.error
        assert len(closed) == (patch is spoil_backend)
    assert (node.state, node.session, remains(node)) == ("unconfigured", None, [])
    assert node.trigger_configure().name == "SUCCESS"
    assert "/%s/class_map" % node.get_name() in remains(node)
    assert node.trigger_cleanup().name == "SUCCESS"
    assert remains(node) == []


def test_a_node_that_is_destroyed_leaves_no_model(node):
    assert node.autostart()
    node.destroy_node()
    assert node.session is None
    assert [item for item in threading.enumerate() if "worker" in item.name] == []


def test_a_topic_that_cannot_be_made_takes_the_others_with_it(node, monkeypatch):
    make = node.create_lifecycle_publisher

    def all_but_latency(message_type, topic, qos):
        if topic == "~/latency":
            raise RuntimeError("spoilt by the test")
        return make(message_type, topic, qos)

    with monkeypatch.context() as spoilt:
        spoilt.setattr(node, "create_lifecycle_publisher", all_but_latency)
        assert node.trigger_configure().name == "FAILURE"
    assert remains(node) == []


def until_remains(node, expected):
    deadline_s = time.monotonic() + 30.0
    while sorted(remains(node)) != expected:
        assert time.monotonic() < deadline_s, remains(node)
        time.sleep(0.01)


def load(node, model):
    from segmentation_msgs.srv import LoadModel

    return node._on_load_model(LoadModel.Request(model=model), LoadModel.Response())


@pytest.mark.parametrize("spoilt_part", ["outputs.ImageOutput.__init__", "session.Session.take"])
def test_a_swap_that_fails_midway_changes_nothing(
    node, monkeypatch, tmp_path, tiny_folder, spoilt_part
):
    plain = linear_model.write_model(tmp_path / "plain", (48, 64), "camvid11", False, "plain")
    for name, value in (("model", plain), ("cameras", ["front", "left"])):
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
    assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
    before = sorted(remains(node))
    with monkeypatch.context() as spoilt:
        spoil(spoilt_part)(spoilt, None)
        found = load(node, tiny_folder)
    assert not found.success and found.message == "RuntimeError: spoilt by the test"
    assert node.session.model.card.name == node.parameters["model"].rpartition("/")[2] == "plain"
    until_remains(node, before)  # the thread of the model that is closed again ends by itself
    assert load(node, tiny_folder).success
    assert "/%s/left/confidence" % node.get_name() in remains(node)
    node.stop()
    until_remains(node, [])


def test_a_model_that_is_replaced_leaves_no_latencies(node, tiny_folder):
    assert node.trigger_configure().name == "SUCCESS"
    latencies = node.session.cameras[0].accounts.latencies
    latencies.add({"inference": 1000.0})
    assert load(node, tiny_folder).success
    assert latencies.percentiles() == {}


def test_a_finalized_node_loads_no_model(node, tiny_folder):
    assert node.trigger_shutdown().name == "SUCCESS"
    found = load(node, tiny_folder)
    assert found.message.endswith("this one is finalized: start it anew")


@pytest.fixture
def slow_model(monkeypatch):
    """Models load until this is set."""
    go_on = threading.Event()

    class Slow(session.LoadedModel):
        def __init__(self, *given):
            assert go_on.wait(TIMEOUT_S)
            super().__init__(*given)

    monkeypatch.setattr(session, "LoadedModel", Slow)
    yield go_on
    go_on.set()


def test_who_is_told_to_stop_waits_for_no_model(node, slow_model, capfd):
    stopping = threading.Event()
    node._told_to_stop = stopping.is_set
    timer = threading.Timer(0.1, stopping.set)
    timer.start()
    assert main._run(node, stopping) == 0
    assert (node.state, node.session) == ("unconfigured", None)
    assert error_lines(capfd.readouterr().err) == []
    slow_model.set()
    until_remains(node, [])


def fails(*_):
    raise RuntimeError("spoilt by the test")


def test_a_pause_that_fails_ends_the_session(node):
    """An inactive node takes no image, and an error of before is not told of one that runs."""
    assert node.autostart()
    node.session.pause = fails
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert lifecycle_state(node) == node.state == "unconfigured"
    assert "spoilt" in node.error and remains(node) == []
    assert node.autostart() and node.error == ""


@pytest.mark.parametrize("transition", ["deactivate", "cleanup", "shutdown"])
def test_a_session_that_does_not_close_finalizes_and_leaves_nothing(node, transition):
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    if transition == "deactivate":
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    for name in ("pause", "_stop_input"):
        setattr(node.session, name, fails)
    assert getattr(node, "trigger_" + transition)() == TransitionCallbackReturn.ERROR
    expected = "finalized" if transition == "deactivate" else "unconfigured"
    assert lifecycle_state(node) == node.state == expected
    assert "spoilt" in node.error and remains(node) == []


def test_configuring_again_and_again_leaves_no_entity_behind(node):
    counts = []
    for _ in range(3):
        assert node.trigger_configure().name == node.trigger_cleanup().name == "SUCCESS"
        counts.append(len(node.default_callback_group.entities))
    assert counts == counts[:1] * 3


def test_missed_frames_are_those_since_activation(node):
    assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
    (camera,) = node.session.cameras
    assert camera.missed is None
    camera.accounts.counters.replace(3)
    camera.follow()
    assert camera.missed == 3
    assert node.trigger_deactivate().name == node.trigger_activate().name == "SUCCESS"
    assert camera.missed is None


def test_a_missing_vision_msgs_is_said_once_and_in_the_diagnostics(node, monkeypatch, capfd):
    monkeypatch.setattr("segmentation_node.ros.outputs.VisionLabelInfo", None)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert node.trigger_configure().name == "SUCCESS"
    missing = "vision_msgs is not installed; install ros-jazzy-vision-msgs"
    assert dict(node.session.identity())["vision_label_info"] == missing
    assert capfd.readouterr().err.count("no ~/vision_label_info: " + missing) == 1


def test_vision_label_info_is_published_where_it_can_be(node, monkeypatch):
    from segmentation_msgs.msg import ClassInfo, LabelInfo
    from segmentation_node.ros import outputs

    published = []
    monkeypatch.setattr(outputs, "VisionLabelInfo", LabelInfo)  # stands in: any message type does
    monkeypatch.setattr(outputs, "VisionClass", ClassInfo)
    monkeypatch.setattr(
        outputs,
        "vision_label_info",
        lambda labels, threshold, _: published.append((labels.name, threshold)) or LabelInfo(),
    )
    assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
    assert published == [("camvid11", 0.0)]
    for threshold in (0.5, 0.5, 0.25):
        node.set_parameters([Parameter("confidence.threshold", value=threshold)])
        node.session.follow()
        node.session.follow()
    assert published == [("camvid11", 0.0), ("camvid11", 0.5), ("camvid11", 0.25)]
    assert "/%s/vision_label_info" % node.get_name() in remains(node)
    assert dict(node.session.identity())["vision_label_info"] == "published"


@pytest.mark.parametrize("messages", ["vision_msgs", "stand-ins"])
def test_vision_label_info_says_ids_names_and_threshold(monkeypatch, messages):
    from segmentation_node.ros import outputs

    if messages == "stand-ins":
        monkeypatch.setattr(outputs, "VisionLabelInfo", partial(SimpleNamespace, header=Header()))
        monkeypatch.setattr(outputs, "VisionClass", SimpleNamespace)
    elif outputs.VisionLabelInfo is None:
        pytest.skip("VISION_MSGS NOT TRIED: it isn't installed here")
    message = outputs.vision_label_info(CAMVID_11, 0.5, Time(sec=3))
    classes = [(item.class_id, item.class_name) for item in message.class_map]
    assert classes == list(enumerate(CAMVID_11.names))
    assert (message.header.stamp.sec, message.threshold) == (3, 0.5)


def test_a_remembered_precision_that_no_longer_loads_is_left_out_and_said(
    node, monkeypatch, tmp_path
):
    monkeypatch.setattr(choice, "adds_int8_exactly", lambda: True)
    times_ms = {"fp32": 1.0, "int8": 2.0}
    monkeypatch.setattr(
        choice,
        "measure",
        lambda _, found, __: ({one: times_ms[one.precision] for one in found}, {}),
    )
    settings = node.parameters.settings()
    options = replace(settings.options, precision="auto", engine_dir=str(tmp_path))
    settings = replace(settings, backend="onnxruntime", options=options)
    fp32 = AccuracyInfo("camvid", "val", 101, 0.684, 0.93)
    accuracy = [fp32, replace(fp32, artifact="onnx_int8")]
    plan = ModelPlan(settings, replace(tiny.card(), accuracy=accuracy), None)
    first, load = LoadedModel(plan, 1), OnnxRuntimeBackend._load
    first.close()

    def load_another(self, artifact_path):
        if self.options.precision == "fp32":
            raise BackendError("backend onnxruntime: spoilt by the test")
        load(self, artifact_path)

    monkeypatch.setattr(OnnxRuntimeBackend, "_load", load_another)
    second = LoadedModel(plan, 1)
    assert (first.choice.precision, second.choice.precision) == ("fp32", "int8")
    assert second.backend.options.precision == "int8"
    (line,) = [line for line in second.warnings if line.startswith("auto: ")]
    assert "left out onnxruntime fp32, which failed: backend onnxruntime: spoilt" in line
    second.close()
