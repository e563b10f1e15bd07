"""What is OpenVINO's own: threads, telemetry, and packages of its name that it is not."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.core import tiny
from support.core.real_data import PROJECT
from support.core.tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, cpu, open_backend, openvino
from segmentation_node.errors import BackendError

MODEL = os.path.join(PROJECT, "models", "fast_elu_squeezenet_camvid")
RUN = """
import sys
from support.core import tiny
from segmentation_node.backends import BackendOptions, open_backend
with open_backend("openvino", tiny.card(), BackendOptions(num_threads=1)) as backend:
    print(backend.run(tiny.random_image(0)[None]).class_map_nhw.shape)
"""
# Which threads compute, and on which cores they may, looked at from the main thread.
THREADS = """
import json, os, sys, threading, time
import numpy as np
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.model_card import read_card

def ticks(thread):
    with open("/proc/self/task/%s/stat" % thread) as content:
        return sum(map(int, content.read().rsplit(")", 1)[1].split()[11:13]))

def cores(thread):
    with open("/proc/self/task/%s/status" % thread) as content:
        return [line.split()[1] for line in content if line.startswith("Cpus_allowed_list")][0]

def run():
    while not done.is_set():
        backend.run(image)

wanted = int(sys.argv[2])
backend = open_backend("openvino", read_card(sys.argv[1]), BackendOptions(num_threads=wanted))
image, done, seen = np.zeros(backend.input_shape, np.uint8), threading.Event(), set()
main = str(os.getpid())
before = {thread: ticks(thread) for thread in os.listdir("/proc/self/task")}
runner = threading.Thread(target=run)
runner.start()
busy, deadline_s = set(), time.monotonic() + 30.0
# Some time of computing; with several threads until the second was seen.
while time.monotonic() < deadline_s:
    time.sleep(0.01)
    threads = set(os.listdir("/proc/self/task")) - {main}
    seen.update(cores(thread) for thread in threads)
    spent = {thread: ticks(thread) - before.get(thread, 0) for thread in threads}
    busy = {thread for thread in threads if spent[thread] > 0}
    if sum(spent.values()) >= 50 and len(busy) >= wanted:
        break
done.set()
runner.join()
print(json.dumps({"busy": len(busy), "cores": sorted(seen), "all": cores(main)}))
"""


@pytest.fixture(autouse=True)
def installed():
    missing = BACKENDS["openvino"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)


def python(program, *arguments, folders=()):
    """Output of a program in a Python of its own, which finds modules in ``folders`` first."""
    paths = [str(folder) for folder in folders] + [PROJECT, os.path.join(PROJECT, "test")]
    finished = subprocess.run(
        [sys.executable, "-c", program] + [str(item) for item in arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="NOT RUN: there is one core")
@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_or_more_compute_as_asked_and_none_is_pinned(threads):
    """Pinned, the threads of several nodes would meet on the first cores."""
    found = json.loads(python(THREADS, MODEL, threads))
    assert (found["busy"] > 1) == (threads > 1)
    assert found["cores"] == [found["all"]]


def test_more_threads_than_cores_are_warned_of():
    with open_backend("openvino", tiny.card(), BackendOptions(num_threads=4096)) as backend:
        (line,) = backend.warnings
    assert "num_threads is 4096, but it takes %d" % len(os.sched_getaffinity(0)) in line


def test_nothing_is_reported_to_the_vendor(tmp_path):
    """A stand-in for the telemetry that OpenVINO starts when it is imported."""
    told = tmp_path / "told"
    package = tmp_path / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text("open(%r, 'w').close()\n" % str(told))
    (package / "backend" / "__init__.py").write_text("backend_ga4 = None\n")
    assert "(1, 6, 8)" in python(RUN, folders=[tmp_path])
    assert not told.exists()
    python("try:\n    import openvino\nexcept Exception:\n    pass", folders=[tmp_path])
    assert told.exists(), "OpenVINO itself no longer starts it: the test shows nothing"


def test_telemetry_that_others_use_stays(tmp_path):
    (tmp_path / "openvino_telemetry.py").write_text("")
    program = "import openvino_telemetry\n%s\nprint(sys.modules['openvino_telemetry'])" % RUN
    assert str(tmp_path) in python(program, folders=[tmp_path])


def test_a_folder_of_its_name_is_not_taken_for_it(monkeypatch, tmp_path):
    """Python imports any folder on its path as a package."""
    (tmp_path / "openvino").mkdir()
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(BackendError) as caught:
        open_backend("openvino", tiny.card(), BackendOptions())
    sys.modules.pop("openvino", None)
    assert_one_line(caught, "backend openvino", "expected OpenVINO 2023.1 or later", "install")


@pytest.mark.parametrize("precision, hint", [("fp32", "f32"), ("bf16", "bf16"), ("int8", "bf16")])
def test_it_computes_in_what_is_asked_for_whatever_the_processor_has(precision, hint):
    """Left alone it takes bfloat16 where the processor has it, and the card says float32."""
    if hint == "bf16" and not cpu.multiplies_bf16():
        pytest.skip("NOT RUN: this CPU has no instructions for bf16")
    with open_backend("openvino", tiny.card(), BackendOptions(precision=precision)) as backend:
        compiled = backend._class_map_network._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == hint
        assert str(compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


@pytest.mark.parametrize(
    "flags, refused",
    [("avx512f avx512_vnni", True), ("avx512f avx512_bf16", False), ("amx_bf16 amx_tile", False)],
)
def test_bf16_is_refused_where_the_cpu_lacks_it(flags, refused, monkeypatch, tmp_path):
    """OpenVINO would compute in float32, or emulate it, without a word."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu %s\n" % flags)
    monkeypatch.setattr(cpu, "CPU_INFO", str(tmp_path / "cpuinfo"))
    options = BackendOptions(precision="bf16")
    why = BACKENDS["openvino"].unready(tiny.card(), options)
    assert bool(why) == refused
    assert not BACKENDS["openvino"].unready(tiny.card(), BackendOptions())
    if refused:
        with pytest.raises(BackendError) as caught:
            open_backend("openvino", tiny.card(), options)
        assert_one_line(caught, "no instructions for bf16", "choose precision fp32")


def test_int8_leaves_the_rest_in_float32_where_the_cpu_lacks_bf16(monkeypatch):
    monkeypatch.setattr(openvino, "multiplies_bf16", lambda: False)
    with open_backend("openvino", tiny.card(), BackendOptions(precision="int8")) as backend:
        compiled = backend._class_map_network._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def largest_of_enlarged():
    """A graph as networks end in: scores (1, 3, 4, 5), twice as large, the largest's index."""
    core = openvino.import_openvino()
    operators = importlib.import_module("openvino.opset13")
    scores = operators.parameter([1, 3, 4, 5], np.float32, name="scores")
    sizes, axes = np.array([8, 10], np.int64), np.array([2, 3], np.int64)
    enlarged = operators.interpolate(scores, sizes, "linear_onnx", "sizes", axes=axes)
    largest = operators.topk(enlarged, np.int64(1), 1, "max", "none", "i32")
    ids = operators.squeeze(largest.output(1), np.array([1], np.int64))
    ids.output(0).set_names({"ids"})
    return core.Model([ids.output(0)], [scores], "largest")


def test_the_argmax_over_planes_gives_the_same():
    """Where scores are equal, too."""
    core = openvino.import_openvino().Core()
    usual, changed = largest_of_enlarged(), largest_of_enlarged()
    openvino.argmax_over_planes(changed)
    (argmax,) = [node for node in changed.get_ordered_ops() if node.get_type_name() == "TopK"]
    assert list(argmax.input(0).get_shape()) == [1, 3, 80]
    assert [(port.any_name, list(port.shape)) for port in changed.outputs] == [("ids", [1, 8, 10])]
    runs = [core.compile_model(model, "CPU") for model in (usual, changed)]
    random = np.random.RandomState(0)
    seen = set()
    for _ in range(20):
        scores = random.randint(0, 3, (1, 3, 4, 5)).astype(np.float32)
        first, second = (run(scores)["ids"] for run in runs)
        np.testing.assert_array_equal(first, second)
        seen.update(np.unique(first))
    assert seen == {0, 1, 2}


def test_an_argmax_of_another_axis_or_size_is_left_alone():
    model = openvino.import_openvino().Core().read_model(tiny.card().artifact_path("onnx"))
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    openvino.argmax_over_planes(model)  # of classes side by side, as the tiny model has them
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before
