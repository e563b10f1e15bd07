"""The node on TensorRT, played by stand-ins: results, and engines that do not fit."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
from support.core import tiny
from support.core.fake_gpu import environment
from support.live import Image, LiveNode, image_message, values_of

from segmentation_node.evaluation.live.pairing import pixels

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module", autouse=True)
def stand_ins():
    """What every process of these tests finds as TensorRT 8.2 and as libcudart."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment("8.2").items():
            patch.setenv(name, value)
        yield


def parameters(folder, **others):
    return {"model": tiny.FOLDER, "engine_dir": str(folder), **others}


def build(arguments):
    subprocess.run([sys.executable, "-m", "segmentation_node.engine", *arguments], check=True)


@pytest.fixture
def engines(tmp_path):
    """A folder with the tiny model's engine."""
    folder = tmp_path / "engines"
    build(["--model", tiny.FOLDER, "--engine-dir", str(folder)])
    return folder


def truncate(folder):
    (engine,) = folder.glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    return engine


def test_auto_takes_the_engine_and_its_class_maps_come_out(peer, engines, tmp_path):
    image = tiny.random_image(0)
    with LiveNode(peer, parameters(engines), tmp_path) as node:
        node.active()
        maps = node.listen(Image, "/class_map")
        node.camera().publish(image_message(image.tobytes(), tiny.SIZE, "rgb8"))
        found = node.until(lambda: maps.messages, "the class map")[0]
        np.testing.assert_array_equal(pixels(found), tiny.classify(image))
        values = values_of(node.until(lambda: node.statuses, "diagnostics")[-1])
        maps.close()
        assert values["backend"] == "tensorrt"
        assert values["backend_choice"] == "it can use this machine's accelerator"
        assert values["device"] == "cuda:0 (Stand-in GPU, TensorRT 8.2.1.8)"
        assert values["execution"] == "graph"
        assert node.process.stop() == 0, node.log


def test_an_engine_that_does_not_fit_ends_the_node_with_one_line(peer, engines, tmp_path):
    engine = truncate(engines)
    with LiveNode(peer, parameters(engines, backend="tensorrt"), tmp_path) as node:
        assert node.exit_code() == 1
        peer.spin_for(0.2)
        (line,) = [text for text in node.log.splitlines() if "[ERROR]" in text]
        assert "Traceback" not in node.log
        for said in [line] + [status.message for status in node.statuses[-1:]]:
            assert str(engine) in said and "truncated or replaced" in said
        assert all(status.level == b"\x02" for status in node.statuses[-1:])


def test_the_command_in_the_diagnostics_mends_it(peer, engines, tmp_path):
    """The node stays, unconfigured, and takes the engine once it was rebuilt."""
    truncate(engines)
    started = parameters(engines, backend="tensorrt", autostart=False)
    with LiveNode(peer, started, tmp_path) as node:
        node.until(lambda: node.state() == "unconfigured", "the node")
        assert not node.change("configure")
        message = node.status("ERROR", "rebuild it with: ").message
        assert not list(engines.glob("*.partial")) and len(list(engines.glob("*.engine"))) == 1
        command = shlex.split(message.split("rebuild it with: ")[1])
        assert command[:3] == ["python3", "-m", "segmentation_node.engine"]
        build(command[3:])
        assert node.change("configure")
