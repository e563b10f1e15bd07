"""A deadline on a live graph: the node steps to a smaller size under load, and back up after it."""

import threading
import time

import numpy as np
import pytest
from support import linear_model
from support.live import (
    LEVELS,
    DiagnosticArray,
    FrameLatency,
    Image,
    Parameter,
    Services,
    image_message,
    values_of,
)

from segmentation_msgs.srv import LoadModel
from segmentation_node import deadline
from segmentation_node.evaluation.live.pairing import pixels

pytestmark = pytest.mark.ros

SIZES, SCORES = [(48, 64), (24, 32)], [0.7, 0.6]
IMAGE = linear_model.blocks((96, 128), 3, block=16) // 2
BRIGHTER = IMAGE + 1  # of the same classes: a camera whose images stay the same counts as frozen
EXPECTED = linear_model.classify(IMAGE)
DEADLINE_MS, LOAD_S = 400.0, 0.5
NAME = "deadline_under_test"
COUNTS = ("processed", "dropped", "failed", "queued")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "two sizes": linear_model.write_sizes(folder / "two", SIZES, SCORES, (1, 2), "two"),
        "other": linear_model.write_sizes(folder / "other", SIZES[::-1], name="other"),
        "one size": linear_model.write_model(folder / "one", SIZES[0], name="one"),
    }


class Load:
    """Makes runs of the larger size slow while it is on."""

    is_on = False


@pytest.fixture
def load(monkeypatch):
    from segmentation_node.backends.onnxruntime import OnnxRuntimeBackend

    run, found = OnnxRuntimeBackend.run, Load()

    def slow(self, *image_and_what_is_asked_for):
        if found.is_on and self.card.input_size == SIZES[0]:
            time.sleep(LOAD_S)
        return run(self, *image_and_what_is_asked_for)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", slow)
    monkeypatch.setattr(deadline, "FIRST_WAIT_S", 1.0)
    return found


class SpunNode:
    """The node in this process, so that its backend can be slowed down, spun on a thread."""

    def __init__(self, peer, **parameters):
        from rclpy.executors import MultiThreadedExecutor

        from segmentation_node.ros.node import SegmentationNode

        parameters.update(backend="onnxruntime", num_threads=1, deadline_ms=DEADLINE_MS)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.peer = peer
        self.node = SegmentationNode(NAME, parameter_overrides=overrides)
        self._diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
        self._executor = MultiThreadedExecutor(num_threads=3)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def __enter__(self):
        assert self.node.autostart(), self.node.error
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.node.stop()
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self._diagnostics.close()

    def status(self, of="segmentation"):
        """Its newest."""
        found = [item for message in self._diagnostics.messages for item in message.status]
        found = [item for item in found if item.name == "%s: %s" % (NAME, of)]
        return found[-1] if found else None

    def ladder(self):
        """What the diagnostics say of it."""
        status = self.status()
        values = values_of(status) if status is not None else {}
        return (values.get("rung"), values.get("steps_down"), values.get("steps_up"))


class Stream:
    """Images one after the other, and what comes of them."""

    def __init__(self, spun, camera=""):
        prefix = "/%s%s" % (NAME, "/" + camera if camera else "")
        self.spun, self.peer = spun, spun.peer
        self.maps = self.peer.listen(Image, prefix + "/class_map")
        self.latencies = self.peer.listen(FrameLatency, prefix + "/latency")
        topic = camera + "/image" if camera else "image"
        self.camera = self.peer.node.create_publisher(Image, topic, 10)
        self.peer.until(self.camera.get_subscription_count, "the subscription to the camera")
        self.until(lambda: self.maps.messages and self.latencies.messages, "a first frame")

    def send(self):
        """An image, once the one before is through."""
        before = len(self.latencies.messages)
        image = BRIGHTER if before % 2 else IMAGE
        self.camera.publish(image_message(image.tobytes(), image.shape[:2], "rgb8"))
        deadline_s = time.monotonic() + 2.0
        while len(self.latencies.messages) == before and time.monotonic() < deadline_s:
            self.peer.spin_for(0.02)

    def until(self, condition, what):
        """Send images until then."""

        def met():
            self.send()
            return condition()

        self.peer.until(met, "%s; %s" % (what, self.spun.ladder()))

    def check(self):
        """Every map is whole and right whatever the size was, and the books add up."""
        for item in self.maps.messages:
            assert np.array_equal(pixels(item), EXPECTED)
        for item in self.latencies.messages:
            assert item.received == sum(getattr(item, name) for name in COUNTS)
        assert self.latencies.messages[-1].failed == 0

    def close(self):
        self.maps.close()
        self.latencies.close()
        self.peer.node.destroy_publisher(self.camera)


LARGE = "1 of 2: 48x64 (mean IoU 0.700)"
SMALL = "2 of 2: 24x32 (mean IoU 0.600)"


def test_it_steps_down_under_load_and_up_again_after_it(peer, models, load, capfd):
    with SpunNode(peer, model=models["two sizes"]) as spun:
        stream = Stream(spun)
        stream.until(lambda: spun.ladder() == (LARGE, "0", "0"), "the best size")
        model = spun.node.session.model
        load.is_on, before = True, len(stream.latencies.messages)
        stream.until(lambda: model.ladder.rung == 1, "a step down")
        assert len(stream.latencies.messages) - before <= 10
        stream.until(lambda: spun.ladder()[0] == SMALL, "the step in the diagnostics")
        values = values_of(spun.status())
        assert values["input_size"] == "24x32" and values["deadline_ms"] == "400"
        # Counted by the latency messages, which do not come from the ladder.
        missed = [item.processing_ms > DEADLINE_MS for item in stream.latencies.messages]
        assert model.ladder.missed == sum(missed) > 0
        load.is_on = False
        stream.until(lambda: spun.ladder()[0] == LARGE, "a step up")
        _, down, up = spun.ladder()
        assert down == up != "0"
        stream.check()
        stream.close()
    log = capfd.readouterr().err
    assert log.count("deadline: down to rung 2 of 2, 24x32 (mean IoU 0.600); p95 was") == int(down)
    assert log.count("deadline: up to rung 1 of 2, 48x64 (mean IoU 0.700); p95 was") == int(up)


def test_several_cameras_share_a_ladder_and_another_model_brings_its_own(peer, models, load):
    cameras = ["front", "left"]
    with SpunNode(peer, model=models["two sizes"], cameras=cameras) as spun:
        streams = [Stream(spun, name) for name in cameras]
        load.is_on = True
        for stream in streams * 10:
            stream.send()
        streams[0].until(lambda: spun.ladder() == (SMALL, "1", "0"), "a step down")
        peer.until(lambda: spun.status("front") is not None, "the camera's status")
        status = spun.status("front")
        assert LEVELS[status.level] == "WARN" and "deadline missed: p95 is" in status.message
        request = LoadModel.Request(model=models["other"])
        assert Services(peer, NAME).call(LoadModel, "load_model", request).success
        # Of its sizes no figures are known; the larger is the better then.
        streams[1].until(lambda: spun.ladder()[0] == "2 of 2: 24x32", "the new model's step")
        assert spun.ladder()[1:] == ("1", "0")
        for stream in streams:
            stream.check()
            stream.close()


def configured(node, **parameters):
    for name, value in parameters.items():
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
    return node.trigger_configure().name == "SUCCESS"


@pytest.fixture
def node(ros):
    """A node that nobody spins."""
    from segmentation_node.ros.node import SegmentationNode

    found = SegmentationNode(NAME, parameter_overrides=[Parameter("num_threads", value=1)])
    yield found
    found.stop()
    found.destroy_node()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_all_sizes_are_loaded_and_a_batch_is_that_of_the_cameras(node, models, backend):
    about = {"model": models["two sizes"], "backend": backend, "deadline_ms": 100.0}
    assert configured(node, **about)
    model = node.session.model
    assert [model.most_frames, model.card.input_size] == [1, (48, 64)]
    model.ladder.rung = 1
    assert [model.most_frames, model.card.input_size] == [1, (24, 32)]
    assert node.trigger_cleanup().name == "SUCCESS"
    assert configured(node, cameras=["front", "left"], batch_window_ms=5.0)
    model = node.session.model
    for model.ladder.rung, size in enumerate(SIZES):
        assert model.backend.input_shape == (2, *size, 3)


def test_without_a_deadline_the_cards_own_size_runs(node, models):
    assert configured(node, model=models["other"], backend="onnxruntime")
    assert (node.session.model.card.input_size, node.session.model.ladder) == ((24, 32), None)
    assert "rung" not in dict(node.session.identity())


def test_one_size_alone_is_a_warning(node, models, capfd):
    assert configured(node, model=models["one size"], backend="onnxruntime", deadline_ms=50.0)
    assert dict(node.session.identity())["rung"] == "1 of 1: 48x64"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert "model one has one size to run, 48x64: misses are counted" in line
    assert "--variant uint8 --size 24x32" in line


def test_a_deadline_and_outputs_of_the_networks_size_contradict_each_other(node, models):
    about = {"model": models["two sizes"], "backend": "onnxruntime", "deadline_ms": 50.0}
    assert not configured(node, output_resolution="network", **about)
    assert node.error.startswith("deadline_ms is 50, which changes the network's size")
    assert configured(node, output_resolution="input")
    refused = node.set_parameters([Parameter("deadline_ms", value=10.0)])[0]
    assert "changes only while the node is unconfigured" in refused.reason


@pytest.mark.parametrize("value", [-1.0, float("nan"), 2e6])
def test_what_is_no_deadline_is_refused(node, value):
    refused = node.set_parameters([Parameter("deadline_ms", value=value)])[0]
    assert not refused.successful and "\n" not in refused.reason


def test_a_size_whose_file_is_damaged_is_told_before_it_is_needed(node, tmp_path):
    model = linear_model.write_sizes(tmp_path / "model", SIZES)
    (tmp_path / "model" / "model_24x32_1.onnx").write_bytes(b"damaged")
    assert not configured(node, model=model, backend="onnxruntime", deadline_ms=50.0)
    assert "model_24x32_1.onnx: sha256 is" in node.error and "\n" not in node.error
