"""Machines that lack something, and runs that fail: one line, and nothing left behind."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny
from support.core.tensorrt_engines import batch, open_engine
from support.core.tiny import assert_one_line

from segmentation_node.backends.tensorrt import cuda as cuda_runtime
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")

OUT_OF_MEMORY = 2


def refuse_import(monkeypatch, error):
    """``import tensorrt`` raises this, as it does where its libraries are missing."""

    class Finder(object):
        def find_spec(self, name, path=None, target=None):
            if name == "tensorrt":
                raise error

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()] + sys.meta_path)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libnvinfer.so.8: cannot open shared object file"),
        OSError("libnvinfer.so.10: cannot open shared object file"),
        RuntimeError("TensorRT currently\nlacks libnvinfer.so.11"),
    ],
)
def test_a_missing_libnvinfer_is_named(gpu, card, options, monkeypatch, error):
    refuse_import(monkeypatch, error)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "backend tensorrt: TensorRT's libraries do not load", "libnvinfer.so.")


def test_a_missing_tensorrt_says_where_it_comes_from(gpu, card, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "TensorRT is missing", "JetPack", "onnxruntime or torch")


def no_libcudart(monkeypatch):
    monkeypatch.setattr(cuda_runtime, "LIBRARY_NAMES", ("libcudart.so.none",))
    monkeypatch.setattr(cuda_runtime, "TOOLKIT_FOLDERS", ())
    monkeypatch.setattr(cuda_runtime, "_in_wheels", lambda: [])
    monkeypatch.setattr(cuda_runtime.ctypes.util, "find_library", lambda _: None)


def test_a_missing_libcudart_is_named(dialect, card, options, monkeypatch):
    no_libcudart(monkeypatch)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(
        caught, "backend tensorrt: libcudart is missing", "libcudart.so.none", "pip install"
    )


def test_a_library_that_is_no_libcudart_is_named(dialect, card, options, monkeypatch):
    no_libcudart(monkeypatch)
    monkeypatch.setattr(cuda_runtime, "_in_wheels", lambda: ["libm.so.6"])
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "libcudart is missing", "libm.so.6 lacks a function")


def test_libcudart_is_found_in_nvidias_wheels(gpu, monkeypatch, tmp_path):
    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    library = folder / "libcudart.so.13"
    shutil.copy(gpu.cudart_path, str(library))
    monkeypatch.setattr(cuda_runtime, "LIBRARY_NAMES", ("libcudart.so.none",))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, name)
    assert str(library) in cuda_runtime._in_wheels()
    assert cuda_runtime.load_cuda_runtime().version() == "10.2"


def test_a_machine_without_gpu_says_so(dialect, gpu, card, options):
    gpu.set(FAKE_CUDA_GPUS=0)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "no CUDA-capable device", "there is no NVIDIA GPU here")


@pytest.mark.parametrize("device", ["cpu", "tpu9", "", "cuda:x", "cuda:1", "cuda:-1"])
def test_an_unknown_device_lists_those_offered(built, card, options, device):
    with pytest.raises(BackendError) as caught:
        open_engine(card, replace(options, device=device))
    assert_one_line(caught, "backend tensorrt", repr(device), "auto", "cuda:N", "GPUs here: 1")


def test_a_second_gpu_can_be_asked_for(built, gpu, card, options):
    gpu.set(FAKE_CUDA_GPUS=2)
    with open_engine(card, replace(options, device="cuda:1")) as backend:
        assert backend.device.startswith("cuda:1 (Stand-in GPU, TensorRT ")


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_out_of_memory_frees_what_was_allocated(built, gpu, card, options, nth):
    gpu.set(FAKE_CUDA_FAIL="cudaMalloc:%d:%d" % (nth, OUT_OF_MEMORY))
    gpu.reset()
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(
        caught,
        "backend tensorrt: cudaMalloc of ",
        "out of memory",
        "close other programs",
        "smaller model",
    )
    assert gpu.calls("cudaFree") == nth - 1
    assert gpu.leaks() == 0


def test_no_memory_for_an_execution_context(built, gpu, card, options):
    gpu.set(FAKE_TENSORRT_NO_CONTEXT=1)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "cannot make an execution context", "GPU memory", "smaller model")
    assert gpu.leaks() == 0


@pytest.mark.parametrize(
    "call", ["cudaStreamCreateWithFlags:1", "cudaStreamSynchronize:1", "fake_enqueue:1"]
)
def test_whatever_fails_while_opening_leaves_nothing(built, gpu, card, options, call):
    gpu.set(FAKE_CUDA_FAIL=call + ":700")
    gpu.reset()
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "failed" if "enqueue" in call else "CUDA error 700")
    assert gpu.leaks() == 0, "although the error, and with it its frames, is still held"


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failed_run_is_one_line_and_the_next_may_work(built, gpu, card, options, name):
    with open_engine(card, options) as backend:
        gpu.reset()
        gpu.set(FAKE_CUDA_FAIL=name + ":1:700")
        with pytest.raises(BackendError) as caught:
            backend.run(batch())
        assert_one_line(caught, "backend tensorrt: the run failed: " + name, "CUDA error 700")
        np.testing.assert_array_equal(
            backend.run(batch(1)).class_map_nhw[0], tiny.classify(batch(1)[0])
        )
    assert gpu.leaks() == 0


def test_a_gpu_that_is_lost_can_still_be_closed(built, gpu, card, options):
    backend = open_engine(card, options)
    gpu.reset()
    gpu.set(FAKE_CUDA_FAIL="cudaFree:1:700")
    backend.close()
    assert gpu.calls("cudaFree") == 3
    assert gpu.leaks() == 1
