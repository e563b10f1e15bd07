"""The TensorRT backend on stand-ins: every dialect's results, and what happens when things break.

The stand-ins compute with ONNX Runtime in memory that only the CUDA calls may touch.
"""

import json
import os
import shlex
import sys
import threading
from dataclasses import replace

import fake_tensorrt
import numpy as np
import pytest
import tiny
from tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import (
    BACKENDS,
    BackendOptions,
    choose_backend,
    cuda_runtime,
    engine_files,
    open_backend,
)
from segmentation_node.backends.tensorrt import TensorRtBackend
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")

OUT_OF_MEMORY = 2


@pytest.fixture
def options(tmp_path):
    return BackendOptions(engine_dir=str(tmp_path / "engines"))


@pytest.fixture
def card():
    return tiny.card()


def build(card, options):
    """Build the engine that the options ask for; its path."""
    engine.make_engine(engine.Job(card, options, workspace_mib=64, timing_cache=""))
    return engine_of(card, options)


def engine_of(card, options):
    machine = engine.look(engine.Job(card, options, 64, "")).machine
    return engine_files.engine_path(card, options, machine)


def open_engine(card, options):
    return open_backend("tensorrt", card, options)


@pytest.fixture
def built(dialect, card, options):
    """Path of the tiny model's engine in this dialect."""
    return build(card, options)


def batch(seed=0):
    return tiny.random_image(seed)[None]


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


# Engines that do not fit


def edit_manifest(path, **changes):
    manifest = engine_files.manifest_path(path)
    with open(manifest) as content:
        values = json.load(content)
    values.update(changes)
    with open(manifest, "w") as out:
        json.dump({key: value for key, value in values.items() if value is not None}, out)


def read(path):
    with open(path, "rb") as content:
        return content.read()


def write(path, content):
    with open(path, "wb") as out:
        out.write(content)


def no_engine(path):
    os.unlink(path)
    return ["no such engine"]


def truncated(path):
    plan = read(path)
    write(path, plan[:-100])
    return ["it has %d bytes, expected %d" % (len(plan) - 100, len(plan))]


def empty(path):
    write(path, b"")
    return ["it has 0 bytes"]


def changed(path):
    plan = bytearray(read(path))
    plan[-1] ^= 1
    write(path, bytes(plan))
    return ["its sha256 is " + engine_files.sha256(bytes(plan)), "expected"]


def of_another_tensorrt(path):
    edit_manifest(path, tensorrt="7.1.3.0")
    version = sys.modules["tensorrt"].__version__
    return ["it was built for TensorRT 7.1.3.0, expected " + version]


def of_another_gpu(path):
    edit_manifest(path, compute_capability="8.7")
    return ["it was built for compute capability 8.7, expected 5.3"]


def of_another_graph(path):
    edit_manifest(path, onnx_sha256="0" * 64)
    return ["sha256 of the ONNX file " + "0" * 64, "expected "]


def of_another_model(path):
    edit_manifest(path, model="other")
    return ["it was built for model other, expected tiny"]


def of_another_precision(path):
    edit_manifest(path, precision="fp16")
    return ["it was built for precision fp16, expected fp32"]


def of_an_unknown_kind(path):
    edit_manifest(path, onnx_kind="onnx_int4")
    return ["no artifact of kind onnx_int4"]


def without_manifest(path):
    os.unlink(engine_files.manifest_path(path))
    return ["the engine has no manifest"]


def with_a_manifest_that_is_no_json(path):
    write(engine_files.manifest_path(path), b"{\n")
    return ["is not valid JSON"]


def with_a_manifest_that_is_a_list(path):
    write(engine_files.manifest_path(path), b"[1]")
    return ["has keys list"]


def with_a_manifest_of_bytes(path):
    write(engine_files.manifest_path(path), b"\xff\x00")
    return ["is not valid JSON"]


def with_a_manifest_that_lacks_a_key(path):
    edit_manifest(path, engine_bytes=None)
    return ["has keys", "engine_bytes"]


def with_a_manifest_of_wrong_types(path):
    edit_manifest(path, engine_bytes="many")
    return ["has engine_bytes 'many', expected int"]


def of_another_format(path):
    edit_manifest(path, format=2)
    return ["has format 2, expected 1"]


def with_other_tensors(path):
    tensors = json.loads(read(engine_files.manifest_path(path)).decode())["tensors"]
    tensors[0]["shape"][1] += 2
    edit_manifest(path, tensors=tensors)
    return ["inputs and outputs are ", "image ", "(1, 8, 8, 3)", "the model card expects"]


def with_tensors_that_are_none(path):
    edit_manifest(path, tensors=["image", 3])
    return ["its manifest has tensors ['image', 3]", "expected name, direction, shape and dtype"]


def that_tensorrt_refuses(path):
    """Whole, by the manifest, but of other serialisation: deserialise gives None."""
    plan = read(path).replace(fake_tensorrt.MAGIC, b"OTHERTRT")
    write(path, plan)
    edit_manifest(path, engine_sha256=engine_files.sha256(plan))
    return ["cannot read it: ", "Magic tag does not match"]


FAULTS = [
    no_engine,
    truncated,
    empty,
    changed,
    of_another_tensorrt,
    of_another_gpu,
    of_another_graph,
    of_another_model,
    of_another_precision,
    of_an_unknown_kind,
    without_manifest,
    with_a_manifest_that_is_no_json,
    with_a_manifest_that_is_a_list,
    with_a_manifest_of_bytes,
    with_a_manifest_that_lacks_a_key,
    with_a_manifest_of_wrong_types,
    of_another_format,
    with_other_tensors,
    with_tensors_that_are_none,
    that_tensorrt_refuses,
]


@pytest.mark.parametrize("dialect", ["8.2", "10"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_engine_that_does_not_fit_is_one_line_with_the_command_that_mends_it(
    built, gpu, card, options, fault, capsys
):
    fragments = fault(built)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, built, "build it with: python3 -m segmentation_node.engine", *fragments)
    assert gpu.leaks() == 0
    command = shlex.split(str(caught.value).split("build it with: ")[1])
    arguments = command[command.index("segmentation_node.engine") + 1 :]
    assert engine.main(arguments) == 0, capsys.readouterr().err
    with open_engine(card, options) as backend:
        backend.run(batch())


def test_an_engine_of_other_tensors_than_its_manifest_says(built, gpu, card, options):
    """The card and the manifest agree that there is a class map alone."""
    alone = replace(card, outputs=["class_map"])
    tensors = json.loads(read(engine_files.manifest_path(built)).decode())["tensors"]
    edit_manifest(built, tensors=tensors[:2])
    with pytest.raises(BackendError) as caught:
        open_engine(alone, options)
    assert_one_line(caught, built, "inputs and outputs are ", "confidence ", "--force")
    assert gpu.leaks() == 0


def test_an_unfit_engine_is_never_deserialised(built, gpu, card, options):
    changed(built)
    fake_tensorrt.used_names.clear()
    with pytest.raises(BackendError):
        open_engine(card, options)
    assert not [name for name in fake_tensorrt.used_names if name.startswith("Runtime")]
    assert gpu.calls("cudaMalloc") == 0


def test_engines_of_other_machines_are_named(gpu, card, options):
    gpu.install("8.2")
    build(card, options)
    gpu.install("10")
    gpu.set(FAKE_CUDA_CAPABILITY="8.7")
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(
        caught,
        "_trt10.3.0_sm87.engine: no such engine",
        "(there is fp32 for TensorRT 8.2.1.8 and compute capability 5.3)",
    )


def test_an_engine_that_was_renamed_for_another_machine_is_found_out(gpu, card, options):
    gpu.install("8.2")
    old = build(card, options)
    gpu.install("8.6")
    new = engine_of(card, options)
    os.rename(old, new)
    os.rename(engine_files.manifest_path(old), engine_files.manifest_path(new))
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "it was built for TensorRT 8.2.1.8, expected 8.6.1")


def test_the_command_names_what_differs_from_the_defaults(card, tmp_path):
    plain = engine_files.build_command(card, BackendOptions())
    assert plain == "python3 -m segmentation_node.engine --model %s --precision fp32" % tiny.FOLDER
    odd = BackendOptions("cuda:1", "fp16", engine_dir=str(tmp_path / "my engines"))
    arguments = shlex.split(engine_files.build_command(card, odd))
    parsed = engine.parse(arguments[3:])
    assert (parsed.device, parsed.precision) == ("cuda:1", "fp16")
    assert parsed.engine_dir == str(tmp_path / "my engines")


# Machines that lack something


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
    library.write_bytes(read(gpu.cudart_path))
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


# auto


@pytest.fixture
def no_torch(monkeypatch):
    """So that TensorRT and ONNX Runtime are the choice."""
    monkeypatch.setattr(BACKENDS["torch"], "unavailable", classmethod(lambda _: "not here"))


@pytest.mark.usefixtures("no_torch")
class TestAuto:
    def test_takes_tensorrt_once_the_engine_is_built(self, dialect, card, options):
        name, why = choose_backend(card, options)
        assert name == "onnxruntime"
        assert "tensorrt: %s: no such engine" % engine_of(card, options) in why
        assert engine_files.build_command(card, options) in why
        build(card, options)
        assert choose_backend(card, options)[0] == "tensorrt"

    def test_an_engine_of_another_precision_does_not_count(self, built, card, options):
        assert choose_backend(card, replace(options, precision="fp16"))[0] == "onnxruntime"

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
        truncated(built)
        assert choose_backend(card, options)[0] == "tensorrt"
        with pytest.raises(BackendError):
            open_engine(card, options)


def test_a_jetsons_release_is_read(monkeypatch, tmp_path):
    from segmentation_node.backends import tensorrt

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
