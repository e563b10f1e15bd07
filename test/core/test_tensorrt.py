"""The TensorRT backend on stand-ins: every dialect's results, CUDA graphs, and when auto takes it.

The stand-ins compute with ONNX Runtime in memory that only the CUDA calls may touch.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
from support.core import fake_tensorrt, tiny
from support.core.tensorrt_engines import batch, build, engine_of, open_engine
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BACKENDS, BackendOptions, choose_backend, open_backend
from segmentation_node.backends.tensorrt import cuda as cuda_runtime
from segmentation_node.backends.tensorrt import engine_files
from segmentation_node.backends.tensorrt.backend import TensorRtBackend
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")

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
    used = fake_tensorrt.used_names.copy()
    by_index = {"ICudaEngine.num_bindings", "IExecutionContext.execute_async_v2"}
    by_name = {"ICudaEngine.num_io_tensors", "IExecutionContext.execute_async_v3"}
    expected, other = (by_index, by_name) if dialect == "8.2" else (by_name, by_index)
    assert expected <= used
    assert not other & used


def test_the_stand_in_refuses_other_dialects_names():
    """What the tests above rest on."""
    old, new = fake_tensorrt.module("8.2"), fake_tensorrt.module("11")
    for module, name in ((old, "TensorIOMode"), (old, "IProgressMonitor"), (new, "nptype")):
        with pytest.raises(AttributeError):
            getattr(module, name)
    with pytest.raises(AttributeError):
        old.DataType.UINT8  # noqa: B018
    config = new.Builder(None).create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1


def test_a_run_is_one_launch_of_a_graph(built, dialect, gpu, card, options):
    with open_engine(card, options) as backend:
        assert (backend.execution, backend.warnings) == ("graph", [])
        version = fake_tensorrt.VERSIONS[dialect]
        assert backend.device == "cuda:0 (Stand-in GPU, TensorRT %s)" % version
        assert gpu.calls("fake_enqueue") == 2, "one to warm up, one to record"
        for seed in range(3):
            prediction = backend.run(batch(seed))
            np.testing.assert_array_equal(
                prediction.class_map_nhw[0], tiny.classify(batch(seed)[0])
            )
        assert gpu.calls("cudaGraphLaunch") == 3
        assert gpu.calls("fake_enqueue") == 2


def test_an_engine_that_cannot_be_recorded_runs_without_and_says_so(built, gpu, card, options):
    gpu.set(FAKE_CUDA_NO_CAPTURE=1)
    with open_engine(card, options) as backend:
        assert backend.execution == "eager"
        (line,) = backend.warnings
        assert "the CUDA graph cannot be recorded: " in line and "\n" not in line
        assert "([runner] enqueue failed)" in line.replace("1: ", "")
        for seed in range(60):
            prediction = backend.run(batch(seed), True)
            np.testing.assert_array_equal(
                prediction.class_map_nhw[0], tiny.classify(batch(seed)[0])
            )
        assert gpu.calls("cudaGraphLaunch") == 0


@pytest.mark.parametrize("name", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_graph_that_cannot_be_made_is_said_as_well(built, gpu, card, options, name):
    gpu.set(FAKE_CUDA_FAIL="%s:1:901" % name)
    gpu.reset()
    with open_engine(card, options) as backend:
        (line,) = backend.warnings
        assert "the CUDA graph cannot be recorded: %s: " % name in line
        np.testing.assert_array_equal(
            backend.run(batch()).class_map_nhw[0], tiny.classify(batch()[0])
        )
    assert gpu.leaks() == 0


def test_a_graph_that_was_asked_for_is_no_option(built, gpu, card, options):
    gpu.set(FAKE_CUDA_NO_CAPTURE=1)
    with pytest.raises(BackendError) as caught:
        open_engine(card, replace(options, execution="graph"))
    assert_one_line(caught, "the CUDA graph cannot be recorded", "choose eager or auto")
    assert gpu.leaks() == 0


def test_eager_records_no_graph(built, gpu, card, options):
    with open_engine(card, replace(options, execution="eager")) as backend:
        backend.run(batch())
        assert (backend.execution, backend.warnings) == ("eager", [])
    assert gpu.calls("cudaStreamBeginCapture") == gpu.calls("cudaGraphLaunch") == 0


def test_confidence_is_copied_back_only_when_asked_for(built, gpu, card, options):
    with open_engine(card, options) as backend:
        for with_confidence, copies in ((False, 2), (True, 3)):
            gpu_calls = gpu.calls("cudaMemcpyAsync")
            prediction = backend.run(batch(), with_confidence)
            assert gpu.calls("cudaMemcpyAsync") - gpu_calls == copies
            assert (prediction.confidence_nhw is not None) == with_confidence


def test_buffers_are_made_once(built, gpu, card, options):
    with open_engine(card, options) as backend:
        first = backend.run(batch(), True)
        allocations = gpu.calls("cudaMalloc")
        second = backend.run(batch(1), True)
        assert second.class_map_nhw is first.class_map_nhw
        assert second.confidence_nhw is first.confidence_nhw
        assert gpu.calls("cudaMalloc") == allocations == 3


def test_a_result_holds_after_the_image_and_the_backend_are_gone(built, card, options):
    image = batch()
    with open_engine(card, options) as backend:
        prediction = backend.run(image, True)
        image[...] = 0
    np.testing.assert_array_equal(prediction.class_map_nhw[0], tiny.classify(batch()[0]))


def test_another_thread_may_run_and_close_it(built, card, options):
    """A device belongs to a thread; the stand-in refuses threads that chose none."""
    backend, found = open_engine(card, options), []

    def work():
        found.append(backend.run(batch()).class_map_nhw[0].copy())
        backend.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], tiny.classify(batch()[0]))


# auto


@pytest.fixture
def no_others(monkeypatch):
    """So that TensorRT and ONNX Runtime are the choice."""
    for name in ("torch", "openvino"):
        monkeypatch.setattr(BACKENDS[name], "unavailable", classmethod(lambda _: "not here"))


@pytest.mark.usefixtures("no_others")
class TestAuto:
    def test_takes_tensorrt_once_the_engine_is_built(self, dialect, card, options):
        name, why = choose_backend(card, options)
        assert name == "onnxruntime"
        assert "tensorrt: %s: no such engine" % engine_of(card, options) in why
        assert engine_files.build_command(card, options) in why
        build(card, options)
        assert choose_backend(card, options)[0] == "tensorrt"

    def test_an_engine_of_another_precision_does_not_count(self, built, card, options):
        with pytest.raises(BackendError) as caught:
            choose_backend(card, replace(options, precision="fp16"))
        expected = "no such engine (there is fp32 for", "onnxruntime: it offers no precision 'fp16'"
        assert_one_line(caught, *expected)

    def test_leaves_the_gpu_alone_where_the_cpu_is_asked_for(self, built, card, options):
        name, why = choose_backend(card, replace(options, device="cpu"))
        assert name == "onnxruntime"
        assert "tensorrt: it needs a GPU, but device is 'cpu'" in why

    def test_needs_a_gpu(self, built, gpu, card, options):
        gpu.set(FAKE_CUDA_GPUS=0)
        name, why = choose_backend(card, options)
        assert name == "onnxruntime"
        assert "tensorrt: cudaGetDeviceCount: no CUDA-capable device" in why

    def test_does_not_fall_back_from_an_engine_that_does_not_fit(self, built, card, options):
        with open(built, "ab") as out:
            out.write(b"more")
        assert choose_backend(card, options)[0] == "tensorrt"
        with pytest.raises(BackendError):
            open_engine(card, options)


def test_a_jetsons_release_is_read(monkeypatch, tmp_path):
    from segmentation_node.backends.tensorrt import backend as tensorrt

    release = tmp_path / "nv_tegra_release"
    release.write_text("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: a\n")
    monkeypatch.setattr(tensorrt, "L4T_FILE", str(release))
    assert tensorrt._l4t_release() == "32.7.1"


def test_the_backend_offers_what_the_builder_takes():
    for precision in TensorRtBackend.precisions:
        assert engine.parse(["--model", "m", "--precision", precision]).precision == precision


def test_a_real_libcudart_has_every_function():
    """Without a GPU it loads all the same, and tells its version."""
    try:
        runtime = cuda_runtime.load_cuda_runtime()
    except BackendError as error:
        pytest.skip("NOT RUN: %s" % error)
    assert float(runtime.version()) >= 10.2
