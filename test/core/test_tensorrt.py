"""The TensorRT backend on stand-ins: results in every dialect, when auto takes it, what may fail.

The stand-ins compute with ONNX Runtime in memory that only the CUDA calls may touch.
"""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.core import fake_tensorrt, tiny
from support.core.tensorrt_engines import batch, build, engine_of, open_engine
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.choice import choose
from segmentation_node.backends.tensorrt import backend as tensorrt
from segmentation_node.backends.tensorrt import cuda, engine_files
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")
oldest_and_newest = pytest.mark.parametrize("dialect", ["8.2", "11"], indirect=True)


def assert_right(prediction, seed=0):
    np.testing.assert_array_equal(prediction.class_map_nhw[0], tiny.classify(batch(seed)[0]))


def assert_refused(card, options, *fragments):
    """Opening the engine is one line, and leaves nothing although the error is still held."""
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, *fragments)
    return caught


# Results


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_class_maps_and_confidence_are_those_of_onnxruntime(dialect, card, options, precision):
    options = replace(options, precision=precision)
    build(card, options)
    reference = open_backend("onnxruntime", card, BackendOptions(num_threads=1))
    # Half precision may decide otherwise between colours, but not on the colours themselves.
    is_half_graph = (dialect, precision) == ("11", "fp16")
    with reference, open_engine(card, options) as backend:
        for seed in range(4):
            image = tiny.random_image(seed)
            if is_half_graph:
                image = tiny.paint(np.random.RandomState(seed).randint(0, 11, tiny.SIZE))
            found = backend.run(image[None], with_confidence=True)
            expected = reference.run(image[None], with_confidence=True)
            assert found.class_map_nhw.dtype == found.confidence_nhw.dtype == np.uint8
            np.testing.assert_array_equal(found.class_map_nhw, expected.class_map_nhw)
            np.testing.assert_array_equal(found.class_map_nhw[0], tiny.classify(image))
            difference = found.confidence_nhw.astype(int) - expected.confidence_nhw
            assert np.abs(difference).max() <= (1 if is_half_graph else 0)


def test_each_dialect_is_spoken_in_its_own_names(built, dialect, card, options):
    fake_tensorrt.used_names.clear()
    with open_engine(card, options) as backend:
        backend.run(batch())
    by_index = {"ICudaEngine.num_bindings", "IExecutionContext.execute_async_v2"}
    by_name = {"ICudaEngine.num_io_tensors", "IExecutionContext.execute_async_v3"}
    expected, other = (by_index, by_name) if dialect == "8.2" else (by_name, by_index)
    assert expected <= fake_tensorrt.used_names
    assert not other & fake_tensorrt.used_names


def test_a_run_is_one_launch_of_a_graph_into_buffers_that_are_kept(
    built, dialect, gpu, card, options
):
    with open_engine(card, options) as backend:
        assert (backend.execution, backend.warnings) == ("graph", [])
        version = fake_tensorrt.VERSIONS[dialect]
        assert backend.device == "cuda:0 (Stand-in GPU, TensorRT %s)" % version
        assert gpu.calls("enqueue") == 2, "one to warm up, one to record"
        first = backend.run(batch(), True)
        for seed in range(3):
            copies = gpu.calls("cudaMemcpyAsync")
            prediction = backend.run(batch(seed), with_confidence=seed == 0)
            assert_right(prediction, seed)
            assert prediction.class_map_nhw is first.class_map_nhw
            assert (prediction.confidence_nhw is first.confidence_nhw) == (seed == 0)
            assert gpu.calls("cudaMemcpyAsync") - copies == (3 if seed == 0 else 2)
        assert gpu.calls("cudaGraphLaunch") == 4
        assert (gpu.calls("enqueue"), gpu.calls("cudaMalloc")) == (2, 3)


NO_CAPTURE = {"FAKE_CUDA_NO_CAPTURE": 1}


@oldest_and_newest
@pytest.mark.parametrize(
    "machine, said",
    [
        (NO_CAPTURE, "(1: [runner] enqueue failed)"),
        ({"FAKE_CUDA_FAIL": "cudaStreamEndCapture:1:901"}, "cudaStreamEndCapture: "),
        ({"FAKE_CUDA_FAIL": "cudaGraphInstantiate:1:901"}, "cudaGraphInstantiate: "),
    ],
)
def test_without_a_graph_it_runs_as_well_and_says_so(built, gpu, card, options, machine, said):
    gpu.set(**machine)
    gpu.reset()
    with open_engine(card, options) as backend:
        assert backend.execution == "eager"
        (line,) = backend.warnings
        assert "the CUDA graph cannot be recorded: " in line and said in line
        assert "\n" not in line
        for seed in range(3):
            assert_right(backend.run(batch(seed), True), seed)
        assert gpu.calls("cudaGraphLaunch") == 0


@oldest_and_newest
def test_what_tensorrt_says_of_a_second_engine_is_heard(built, gpu, card, options):
    """It may go on telling the first one's logger."""
    with open_engine(card, options):
        gpu.set(**NO_CAPTURE)
        with open_engine(card, options) as second:
            (line,) = second.warnings
            assert "(1: [runner] enqueue failed)" in line


def test_an_engine_that_needs_a_plugin_is_built_and_read(dialect, gpu, card, options):
    """In another process it is not the parser that has registered TensorRT's plugins."""
    gpu.set(FAKE_TENSORRT_NEEDS_PLUGINS=1)
    build(card, options)
    gpu.install(dialect)
    with open_engine(card, options) as backend:
        assert_right(backend.run(batch()))


@oldest_and_newest
def test_a_graph_is_no_option_where_it_was_asked_for_or_refused(built, gpu, card, options):
    with open_engine(card, replace(options, execution="eager")) as backend:
        assert_right(backend.run(batch()))
        assert (backend.execution, backend.warnings) == ("eager", [])
    assert gpu.calls("cudaStreamBeginCapture") == gpu.calls("cudaGraphLaunch") == 0
    gpu.set(**NO_CAPTURE)
    options = replace(options, execution="graph")
    assert_refused(card, options, "the CUDA graph cannot be recorded", "choose eager or auto")


@oldest_and_newest
def test_another_thread_may_run_and_close_it_and_the_result_holds(built, card, options):
    """A device belongs to a thread; the stand-in refuses threads that chose none."""
    backend, found = open_engine(card, options), []

    def work():
        image = batch()
        found.append(backend.run(image))
        image[...] = 0
        backend.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_right(found[0])


# auto


@pytest.fixture
def no_others(monkeypatch):
    """So that TensorRT and ONNX Runtime are the choice."""
    for name in ("torch", "openvino"):
        monkeypatch.setattr(BACKENDS[name], "unavailable", classmethod(lambda _: "not here"))


@oldest_and_newest
def test_auto_takes_tensorrt_once_the_engine_is_built(no_others, dialect, card, options):
    choice = choose(card, options=options)
    assert choice.name == "onnxruntime"
    assert "tensorrt: %s: no such engine" % engine_of(card, options) in choice.details
    assert engine_files.build_command(card, options) in choice.details
    path = build(card, options)
    assert choose(card, options=options).name == "tensorrt"
    with open(path, "ab") as out:
        out.write(b"more")
    assert choose(card, options=options).name == "tensorrt", "an engine that does not fit is said"
    assert_refused(card, options, "truncated or replaced")


@oldest_and_newest
def test_auto_leaves_out_what_was_not_built_or_not_asked_for(no_others, built, gpu, card, options):
    with pytest.raises(BackendError) as caught:
        choose(card, options=replace(options, precision="fp16"))
    expected = "no such engine (there is fp32 for", "onnxruntime: it offers no precision 'fp16'"
    assert_one_line(caught, *expected)
    choice = choose(card, options=replace(options, device="cpu"))
    assert choice.name == "onnxruntime"
    assert "tensorrt: it needs a GPU, but device is 'cpu'" in choice.details
    gpu.set(FAKE_CUDA_GPUS=0)
    choice = choose(card, options=options)
    assert choice.name == "onnxruntime"
    assert "tensorrt: cudaGetDeviceCount: no CUDA-capable device" in choice.details


# Machines that lack something


def refuse_import(monkeypatch, error):
    """``import tensorrt`` raises this, as it does where its libraries are missing."""

    class Finder(object):
        def find_spec(self, name, path=None, target=None):
            if name == "tensorrt":
                raise error

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()] + sys.meta_path)


LIBRARY = "libnvinfer.so.8: cannot open\nshared object file"


@pytest.mark.parametrize("error", [ImportError(LIBRARY), OSError(LIBRARY), RuntimeError(LIBRARY)])
def test_a_missing_libnvinfer_is_named(gpu, card, options, monkeypatch, error):
    refuse_import(monkeypatch, error)
    assert_refused(card, options, "backend tensorrt: TensorRT's libraries do not load (libnvinfer")


def test_a_missing_tensorrt_says_where_it_comes_from(gpu, card, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert_refused(card, options, "TensorRT is missing", "JetPack", "onnxruntime or torch")


@pytest.mark.parametrize("in_wheels, said", [([], "pip install"), (["libm.so.6"], "lacks a func")])
def test_a_missing_libcudart_is_named(gpu, card, options, monkeypatch, in_wheels, said):
    gpu.install("10")
    monkeypatch.setattr(cuda, "LIBRARY_NAMES", ("libcudart.so.none",))
    monkeypatch.setattr(cuda, "TOOLKIT_FOLDERS", ())
    monkeypatch.setattr(cuda, "_in_wheels", lambda: in_wheels)
    monkeypatch.setattr(cuda.ctypes.util, "find_library", lambda _: None)
    assert_refused(card, options, "libcudart is missing", "libcudart.so.none", said, *in_wheels)


def test_libcudart_is_found_in_nvidias_wheels(gpu, monkeypatch, tmp_path):
    library = tmp_path / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    monkeypatch.setattr(cuda, "LIBRARY_NAMES", ("libcudart.so.none",))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, name)
    assert str(library) in cuda._in_wheels()
    assert cuda.load_cuda_runtime().version() == "10.2"


def test_a_real_libcudart_has_every_function():
    """Without a GPU it loads all the same, and tells its version."""
    try:
        runtime = cuda.load_cuda_runtime()
    except BackendError as error:
        pytest.skip("NOT RUN: %s" % error)
    assert float(runtime.version()) >= 10.2


def test_a_machine_without_gpu_says_so(gpu, card, options):
    gpu.install("10")
    gpu.set(FAKE_CUDA_GPUS=0)
    assert_refused(card, options, "no CUDA-capable device", "there is no NVIDIA GPU here")


@oldest_and_newest
def test_a_device_is_one_of_those_that_are_there(built, gpu, card, options):
    for device in ("cpu", "tpu9", "", "cuda:x", "cuda:1", "cuda:-1"):
        said = "backend tensorrt", repr(device), "auto", "cuda:N", "GPUs here: 1"
        assert_refused(card, replace(options, device=device), *said)
    gpu.set(FAKE_CUDA_GPUS=2)
    with open_engine(card, replace(options, device="cuda:1")) as backend:
        assert backend.device.startswith("cuda:1 (Stand-in GPU, TensorRT ")


def test_a_jetsons_release_is_read(monkeypatch, tmp_path):
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: a\n")
    monkeypatch.setattr(tensorrt, "L4T_FILE", str(release))
    assert tensorrt._l4t_release() == "32.7.1"


def test_the_backend_offers_what_the_builder_takes():
    for precision in tensorrt.TensorRtBackend.precisions:
        assert engine.parse(["--model", "m", "--precision", precision]).precision == precision


# Calls that fail

NO_MEMORY = ("cudaMalloc of ", "out of memory", "close other programs", "smaller model")


@oldest_and_newest
@pytest.mark.parametrize(
    "machine, said",
    [
        ({"FAKE_CUDA_FAIL": "cudaMalloc:1:2"}, NO_MEMORY),
        ({"FAKE_CUDA_FAIL": "cudaMalloc:3:2"}, NO_MEMORY),
        ({"FAKE_TENSORRT_NO_CONTEXT": 1}, ["cannot make an execution context", "GPU memory"]),
        ({"FAKE_CUDA_FAIL": "cudaStreamCreateWithFlags:1:700"}, ["CUDA error 700"]),
        ({"FAKE_CUDA_FAIL": "cudaStreamSynchronize:1:700"}, ["CUDA error 700"]),
        ({"FAKE_CUDA_FAIL": "enqueue:1:700"}, ["first run", "execute_async_v", "(1: [runner] enq"]),
    ],
)
def test_what_fails_while_opening_is_one_line_and_leaves_nothing(
    built, gpu, card, options, machine, said
):
    gpu.set(**machine)
    gpu.reset()
    caught = assert_refused(card, options, "backend tensorrt: ", *said)
    assert gpu.leaks() == 0, "although the error, and with it its frames, is still held"
    del caught


def test_an_address_that_tensorrt_refuses_is_said_of_which_tensor(gpu, card, options, monkeypatch):
    gpu.install("10")
    build(card, options)
    context = sys.modules["tensorrt"].IExecutionContext
    monkeypatch.setattr(context, "set_tensor_address", lambda self, name, memory: False)
    assert_refused(card, options, "TensorRT refuses the address of tensor image")


def test_a_run_time_that_cannot_start_says_what_was_logged(gpu, card, options, monkeypatch):
    gpu.install("10")
    build(card, options)
    trt = sys.modules["tensorrt"]

    def refuse(logger):
        logger.log(trt.ILogger.Severity.ERROR, "CUDA: no driver")
        raise TypeError("factory function returned nullptr")  # what pybind11 makes of NULL

    monkeypatch.setattr(trt, "Runtime", refuse)
    assert_refused(card, options, "TensorRT " + trt.__version__, "cannot start", "CUDA: no driver")


@oldest_and_newest
@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failed_run_is_one_line_and_the_next_may_work(built, gpu, card, options, name):
    with open_engine(card, options) as backend:
        gpu.reset()
        gpu.set(FAKE_CUDA_FAIL=name + ":1:700")
        with pytest.raises(BackendError) as caught:
            backend.run(batch())
        assert_one_line(caught, "backend tensorrt: the run failed: " + name, "CUDA error 700")
        assert_right(backend.run(batch(1)), 1)


@oldest_and_newest
def test_a_gpu_that_is_lost_can_still_be_closed(built, gpu, card, options):
    backend = open_engine(card, options)
    gpu.reset()
    gpu.set(FAKE_CUDA_FAIL="cudaFree:1:700")
    backend.close()
    assert gpu.calls("cudaFree") == 3
    assert gpu.leaks() == 1
