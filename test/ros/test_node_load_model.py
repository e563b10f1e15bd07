"""Another model in flight: no frame is lost, one model answers each; on failure the old stays."""

import contextlib
import threading

import numpy as np
import pytest
from support import linear_model
from support.live import FrameLatency, Image, LiveNode, image_message, values_of

from segmentation_msgs.srv import LoadModel
from segmentation_node.evaluation.live.pairing import pixels
from segmentation_node.evaluation.live.target import resident_mb
from segmentation_node.model_card import sha256_of

pytestmark = pytest.mark.ros

SIZE = (48, 64)
IMAGE = linear_model.blocks(SIZE, 3)
LABEL_SETS = {"one": "camvid11", "two": "cityscapes19"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: linear_model.write_model(folder / name, SIZE, labels, name == "one", name)
        for name, labels in LABEL_SETS.items()
    }


@pytest.fixture
def node(peer, models, tmp_path):
    parameters = {"model": models["one"], "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, dict(parameters, frame_policy="every"), tmp_path) as found:
        yield found.active()


def load(node, model="", backend="", precision=""):
    request = LoadModel.Request(model=model, backend=backend, precision=precision)
    return node.call(LoadModel, "load_model", request)


def model_of(class_map):
    found = pixels(class_map)
    return next(
        name
        for name, labels in LABEL_SETS.items()
        if np.array_equal(found, linear_model.classify(IMAGE, labels))
    )


class Stream:
    """Images in flight, and what comes of them."""

    def __init__(self, node):
        self.node = node
        self.maps = node.listen(Image, "/class_map")
        self.latencies = node.listen(FrameLatency, "/latency")
        self.camera = node.camera()
        self.sent = 0
        node.until(self._answered, "a first frame")

    def _answered(self):
        self.send()
        self.node.peer.spin_for(0.1)
        return self.maps.messages and self.latencies.messages

    def send(self):
        self.camera.publish(image_message(IMAGE.tobytes(), SIZE, "rgb8"))
        self.sent += 1

    def all_answered(self):
        self.node.until(lambda: len(self.latencies.messages) >= self.sent, "all latencies")
        self.node.until(lambda: len(self.maps.messages) >= self.sent, "all class maps")
        stamps = [item.header.stamp.sec for item in self.maps.messages]
        assert len(stamps) == self.sent and len(set(stamps)) == self.sent
        last = self.latencies.messages[-1]
        assert (last.received, last.dropped, last.failed) == (self.sent, 0, 0)


@contextlib.contextmanager
def sending(stream, period_s=0.01):
    """Images all the time, from a thread of its own."""
    stop = threading.Event()

    def send():
        while not stop.wait(period_s):
            stream.send()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def change(stream, models, name):
    node = stream.node
    found = load(node, models[name])
    assert found.success and found.message.startswith("model %s, backend onnx" % name)
    node.until(lambda: node.label_info.model == name, "the labels of " + name)
    assert node.label_info.label_set == LABEL_SETS[name]
    before = len(stream.maps.messages)
    node.until(lambda: len(stream.maps.messages) > before + 5, "frames of " + name)


def test_models_change_under_load_and_each_frame_is_answered_by_one(node, models):
    node.listen(Image, "/confidence")  # which "two" does not give
    stream = Stream(node)
    with sending(stream):
        for name in ("two", "one") * 3:
            change(stream, models, name)
    stream.all_answered()
    assert changes(stream.maps.messages) == 6


def changes(class_maps):
    """How often another model answers than before; both have to."""
    answered = [model_of(item) for item in class_maps]
    assert set(answered) == set(LABEL_SETS)
    return sum(one != other for one, other in zip(answered, answered[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["every", "latest"])
def test_200_model_changes_lose_no_frame_and_no_memory(peer, models, tmp_path, policy):
    parameters = {"model": models["one"], "backend": "onnxruntime", "num_threads": 1}
    with LiveNode(peer, dict(parameters, frame_policy=policy), tmp_path) as node:
        stream, memory_mb = Stream(node.active()), []
        with sending(stream, 0.02):
            for name in ("two", "one") * 100:
                assert load(node, models[name]).success
                memory_mb.append(resident_mb(node.process.pid))
        if policy == "every":
            stream.all_answered()
        peer.spin_for(1.0)
        assert 150 < changes(stream.maps.messages) <= 200  # a model may go before it got a frame
        last = stream.latencies.messages[-1]
        assert last.failed == 0
        assert last.received == last.processed + last.dropped + last.queued
        assert node.log.count("[ERROR]") == 0
    fifths = np.array_split(memory_mb, 5)
    medians_mb = [float(np.median(fifth)) for fifth in fifths]
    print("median memory of each fifth, MiB:", medians_mb)
    assert medians_mb[4] <= 1.02 * medians_mb[1], medians_mb


def test_parameters_diagnostics_and_topics_tell_what_runs(node, models):
    listener = node.listen(Image, "/confidence")
    count = node.peer.node.count_publishers
    stream = Stream(node)
    assert count(node.name + "/confidence") == 1
    assert load(node, models["two"], "onnxruntime", "fp32").success
    values = [item.string_value for item in node.get(["model", "backend", "precision"])]
    assert values == [models["two"], "onnxruntime", "fp32"]
    node.until(
        lambda: [values_of(item)["model"] for item in node.statuses[-1:]] == ["two"],
        "its diagnostics",
    )
    node.until(lambda: count(node.name + "/confidence") == 0, "no topic of a confidence")
    assert "gives no confidence" not in node.log
    refused = node.set("confidence.threshold", 0.5)
    assert not refused.successful and "needs a model that gives a confidence" in refused.reason
    refused = node.set("model", models["one"])
    assert not refused.successful and "unconfigured" in refused.reason
    assert load(node, models["one"]).success
    before = len(listener.messages)

    def confident():
        stream.send()
        node.peer.spin_for(0.1)
        return len(listener.messages) > before

    node.until(confident, "a confidence again")
    assert np.array_equal(pixels(listener.messages[-1]), linear_model.confidence(IMAGE))
    stream.all_answered()
    assert node.change("deactivate") and node.change("cleanup")
    assert node.change("configure")
    assert node.label_info.model == "one"


def spoilt(folder, content):
    """A model that its card describes well, and that no run time can load."""
    path = linear_model.write_model(folder, SIZE, name="spoilt")
    (folder / "model.onnx").write_bytes(content)
    card = linear_model.card(folder, SIZE, name="spoilt")
    assert card["artifacts"][0]["sha256"] == sha256_of(str(folder / "model.onnx"))
    linear_model.write_card(folder, card)
    return path


def test_the_old_model_stays_where_the_new_one_cannot_run(node, models, tmp_path):
    stream = Stream(node)
    for request, line in [
        ({"model": "nowhere"}, "model 'nowhere' is neither a folder nor"),
        ({"backend": "magic"}, "backend is 'magic'; expected one of auto"),
        ({"precision": "fp64"}, "precision is 'fp64'; expected one of"),
        ({"precision": "int8"}, "no artifact of kind 'onnx_int8'"),
        ({"model": spoilt(tmp_path / "s", b"junk")}, "model.onnx: ONNX Runtime cannot load it"),
    ]:
        found = load(node, **request)
        assert not found.success and line in found.message and "\n" not in found.message
        assert "load_model: " + found.message in node.log
        for _ in range(5):
            stream.send()
        stream.all_answered()
        assert [item.string_value for item in node.get(["model"])] == [models["one"]]
        assert node.label_info.model == "one"
    assert {model_of(item) for item in stream.maps.messages} == {"one"}


def test_it_needs_a_configured_node(peer, models, tmp_path):
    with LiveNode(peer, {"model": models["one"], "autostart": False}, tmp_path) as node:
        found = load(node, models["two"])
        assert not found.success
        assert "this one is unconfigured: set the parameters" in found.message
        assert node.change("configure")
        assert load(node, models["two"]).success  # an inactive one does
        assert node.label_info.model == "two"
        assert node.change("activate")
        stream = Stream(node)
        assert {model_of(item) for item in stream.maps.messages} == {"two"}
