"""What is OpenVINO's own: threads, telemetry, and packages of its name that it is not."""

import json
import os
import subprocess
import sys

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
