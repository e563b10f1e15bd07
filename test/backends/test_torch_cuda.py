"""The torch backend's GPU part on a fake GPU: choosing one, buffers, CUDA graphs, errors, flags.

Nothing here ran on a real one: test/core/test_backends.py and test_backend_parity.py do where there
is one.
"""

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import network_spy
from support.core import tiny
from support.core.real_data import PROJECT
from support.core.tiny import assert_one_line
from support.fake_cuda import OUT_OF_MEMORY, POISON, FakeCuda, FakeGpuBackend
from support.network_spy import batch

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.torch_cuda import STAGES, arithmetic, choose_gpu
from segmentation_node.errors import BackendError

FLAGS = ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"))
GPU = BackendOptions(device="cuda")


@pytest.fixture(autouse=True)
def spy(monkeypatch):
    return network_spy.install(monkeypatch)


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def open_gpu(**changes):
    return FakeGpuBackend(tiny.card(), replace(GPU, **changes))


def flags():
    return [getattr(owner, name) for owner, name in FLAGS]


def set_flags(values):
    for (owner, name), value in zip(FLAGS, values):
        setattr(owner, name, value)


# Which GPU


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch knows CUDA")
def test_cuda_in_a_pytorch_without_it():
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), GPU)
    assert_one_line(caught, "'cuda'", torch.__version__, "built without CUDA", "choose cpu")


def test_cuda_without_a_gpu(monkeypatch):
    FakeCuda(monkeypatch, gpus=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(GPU, device="cuda:1"))
    assert_one_line(caught, "'cuda:1'", "no CUDA GPU or driver")


def test_a_gpu_beyond_the_last(monkeypatch):
    FakeCuda(monkeypatch, gpus=2)
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(GPU, device="cuda:7"))
    assert_one_line(caught, "'cuda:7'", "2 GPUs", "cuda:0 to cuda:1")
    assert choose_gpu("cuda:1", "fp32") == torch.device("cuda:1")
    assert choose_gpu("cuda", "fp32") == torch.device("cuda:0")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_that_an_older_gpu_lacks(monkeypatch, precision):
    FakeCuda(monkeypatch, capability=(7, 5))
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(GPU, precision=precision))
    assert_one_line(caught, repr(precision), "compute capability 8.0", "cuda:0 (Fake GPU) has 7.5")
    assert choose_gpu("cuda", "fp16") == torch.device("cuda:0")


# On a fake GPU


@pytest.mark.parametrize("execution", ["auto", "graph", "eager"])
@pytest.mark.parametrize("size", [1, 3])
def test_every_execution_gives_the_classes_of_the_cpu(cuda, execution, size):
    with open_gpu(execution=execution, batch=size) as backend:
        assert backend.execution == ("eager" if execution == "eager" else "graph")
        assert backend.warnings == [] and "Fake GPU" in backend.device
        for seed in (0, 10, 20, 0):
            images = batch(*range(seed, seed + size))
            alone = backend.run(images).class_map_nhw.copy()
            found = backend.run(images, True)
            expected = np.stack([tiny.classify(image) for image in images])
            np.testing.assert_array_equal(alone, expected)
            np.testing.assert_array_equal(found.class_map_nhw, expected)
            exact = np.stack([tiny.confidence(image) for image in images])
            assert abs(found.confidence_nhw - exact).max() <= 1.0


def test_a_graph_is_recorded_after_warming_up_and_only_replayed_afterwards(cuda, spy):
    seen = spy(lambda: cuda.capturing is not None)
    with open_gpu() as backend:
        assert seen == [False] * 3 + [False] * 3 + [True, True]
        seen.clear()
        cuda.log.clear()
        for seed in range(3):
            backend.run(batch(seed))
        assert cuda.log == ["replay", "stream synchronised"] * 3
        assert seen == [], "a replay should not call the network's Python"


def test_both_forms_share_memory_and_leave_other_threads_alone(cuda):
    with open_gpu():
        first, second = cuda.graphs
    assert first.shared_pool is None and second.shared_pool == first.pool()
    assert first.mode == second.mode == "thread_local"


def test_maps_come_in_pinned_buffers_one_byte_a_pixel(cuda):
    with open_gpu() as backend:
        prediction = backend.run(batch(0), True)
        pinned = [item.numpy() for item in cuda.pinned_tensors]
        assert [item.shape for item in pinned] == [(1, 6, 8, 3), (1, 6, 8), (1, 6, 8)]
        assert np.shares_memory(prediction.class_map_nhw, pinned[1])
        assert np.shares_memory(prediction.confidence_nhw, pinned[2])
        backend.run(batch(1), True)
        np.testing.assert_array_equal(prediction.class_map_nhw[0], tiny.classify(batch(1)[0]))
    assert cuda.log.count("pinned") == 3


def test_copies_are_asynchronous(cuda, monkeypatch):
    """From pinned memory, on the backend's stream, waited for once."""
    copies = []
    copy = torch.Tensor.copy_

    def noted(self, source, non_blocking=False):
        copies.append((non_blocking, cuda.current is not None, source.dtype))
        return copy(self, source, non_blocking)

    with open_gpu(execution="eager") as backend:
        monkeypatch.setattr(torch.Tensor, "copy_", noted)
        backend.run(batch(0), True)
    assert copies == [(True, True, torch.uint8)] * 3


def test_stages_come_from_events_where_they_are_asked_for(cuda):
    with open_gpu() as backend:
        backend.run(batch(0))
        assert backend.stages_ms == {} and "event" not in cuda.log
        backend.time_stages()
        cuda.log.clear()
        backend.run(batch(0))
        assert cuda.log == ["event", "event", "replay", "event", "event", "stream synchronised"]
        stages_ms = backend.stages_ms
    assert tuple(stages_ms) == STAGES
    assert stages_ms.pop("staging") >= 0.0
    assert set(stages_ms.values()) == {1.0}


def test_a_failed_capture_is_reported_and_the_backend_goes_on_eagerly(cuda):
    cuda.fail["capture"] = RuntimeError("operation not permitted\nwhen stream is capturing")
    with open_gpu() as backend:
        (line,) = backend.warnings
        assert "could not be captured: operation not permitted when stream" in line
        assert "eagerly" in line and "\n" not in line
        assert backend.execution == "eager"
        for seed in range(2):
            found = backend.run(batch(seed), True)
            np.testing.assert_array_equal(found.class_map_nhw[0], tiny.classify(batch(seed)[0]))


def test_a_failed_capture_is_an_error_where_a_graph_was_asked_for(cuda):
    cuda.fail["capture"] = RuntimeError("operation not permitted")
    with pytest.raises(BackendError) as caught:
        open_gpu(execution="graph")
    assert_one_line(caught, "could not be captured", "operation not permitted", "execution eager")


def test_a_capture_spoilt_by_the_network_names_the_networks_error(cuda, spy, monkeypatch):
    """As torch does: ending such a capture raises an error of its own."""

    def spoil():
        if cuda.capturing is not None:
            raise RuntimeError("a synchronising operator")

    class Ending:
        def __init__(self, *arguments, **keywords):
            self.real = capture(*arguments, **keywords)

        def __enter__(self):
            return self.real.__enter__()

        def __exit__(self, *details):
            self.real.gen.close()
            raise RuntimeError("capture invalidated")

    capture = torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "graph", Ending)
    spy(spoil)
    with open_gpu() as backend:
        assert "a synchronising operator" in backend.warnings[0]
        np.testing.assert_array_equal(
            backend.run(batch(0)).class_map_nhw[0], tiny.classify(batch(0)[0])
        )


def test_a_gpu_that_cannot_be_had_is_one_line(cuda):
    cuda.fail["current device"] = RuntimeError("CUDA-capable device(s) is/are\nbusy or unavailable")
    with pytest.raises(BackendError) as caught:
        open_gpu()
    assert_one_line(caught, "cannot be loaded on cuda", "busy or unavailable")


def test_a_gpu_that_failed_can_be_closed(cuda):
    failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    with open_gpu() as backend:
        for occasion in ("replay", "stream synchronised", "cache emptied"):
            cuda.fail[occasion] = failure
        with pytest.raises(BackendError) as caught:
            backend.run(batch(0))
    assert_one_line(caught, "the run failed", "illegal memory access")


@pytest.mark.parametrize("occasion", ["pinned", "device synchronised", "stream synchronised"])
def test_out_of_memory_while_loading_is_one_line(cuda, occasion):
    cuda.fail[occasion] = torch.OutOfMemoryError(OUT_OF_MEMORY)
    with pytest.raises(BackendError) as caught:
        open_gpu()
    assert_one_line(caught, "weights.safetensors", "out of memory", "2.00 GiB", "smaller", "fp16")
    assert "PYTORCH_ALLOC_CONF" not in str(caught.value)


def test_out_of_memory_in_a_run_is_one_line_and_the_next_run_works(cuda):
    with open_gpu(execution="eager") as backend:
        cuda.fail["stream synchronised"] = torch.OutOfMemoryError(OUT_OF_MEMORY)
        with pytest.raises(BackendError) as caught:
            backend.run(batch(0))
        assert_one_line(caught, "the run failed", "out of memory", "2.00 GiB")
        cuda.fail.clear()
        found = backend.run(batch(0))
        np.testing.assert_array_equal(found.class_map_nhw[0], tiny.classify(batch(0)[0]))


@pytest.fixture(params=[(True, False), (False, True)], ids=str)
def process_flags(request):
    """What the process has set, whatever backends are open."""
    before = flags()
    set_flags(request.param)
    yield list(request.param)
    set_flags(before)


def test_threads_share_flags_that_are_the_same_and_wait_for_others(process_flags):
    before = [getattr(owner, name) for owner, name in FLAGS]
    entered, go_on = threading.Event(), threading.Event()

    def hold(is_tf32):
        with arithmetic(is_tf32):
            entered.set()
            go_on.wait(30.0)

    threads = [threading.Thread(target=hold, args=(flag,)) for flag in (True, False)]
    with arithmetic(True):
        threads[0].start()
        assert entered.wait(30.0), "the same flags"
        entered.clear()
    assert [getattr(owner, name) for owner, name in FLAGS] == [True, True], "still in use"
    threads[1].start()
    assert not entered.wait(0.1), "other flags"
    go_on.set()
    for thread in threads:
        thread.join()
    assert entered.is_set()
    assert [getattr(owner, name) for owner, name in FLAGS] == before


def test_tf32_is_this_backends_alone(cuda, spy, process_flags):
    benchmark = torch.backends.cudnn.benchmark
    seen = spy(lambda: (*flags(), torch.backends.cudnn.benchmark))
    with open_gpu(precision="tf32", execution="eager") as fast:
        with open_gpu(precision="fp32", execution="eager") as exact:
            assert set(seen[:6]) == {(True, True, True)}
            assert set(seen[6:]) == {(False, False, True)}
            seen.clear()
            for backend in (fast, exact, fast):
                backend.run(batch(0))
                assert flags() == process_flags
    assert seen == [(True, True, True), (False, False, True), (True, True, True)]
    assert torch.backends.cudnn.benchmark == benchmark


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_box_head_runs_in_fp32_beside_the_graphs(cuda, process_flags, precision):
    seen = []
    with open_gpu(precision=precision, execution="eager") as backend:
        backend._eagerly(lambda values: seen.append(flags()) or [values], batch(0))
    assert seen == [[False, False]]
    assert flags() == process_flags


def test_flags_are_restored_after_an_error():
    before = flags()
    with pytest.raises(KeyError):
        with arithmetic(is_tf32=not before[0]):
            raise KeyError
    assert flags() == before


NEWER_WAY = """
import torch
from segmentation_node.backends.torch_cuda import arithmetic
matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
matmul.fp32_precision, conv.fp32_precision = "tf32", "ieee"
for is_tf32 in (True, False):
    with arithmetic(is_tf32):
        assert matmul.fp32_precision == conv.fp32_precision == ("tf32" if is_tf32 else "ieee")
    assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "ieee")
"""


def test_a_process_that_sets_precision_in_pytorchs_newer_way():
    """In a process of its own: PyTorch has no way back to the older flags."""
    done = subprocess.run(
        [sys.executable, "-c", NEWER_WAY], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr


def test_closing_frees_the_buffers(cuda):
    backend = open_gpu()
    kept = backend.run(batch(0)).class_map_nhw
    before = kept.copy()
    cuda.log.clear()
    backend.close()
    assert cuda.log == ["cache emptied"]
    assert backend._runner._launches == [] and backend._runner._image is None
    np.testing.assert_array_equal(kept, before)


def test_the_fake_gpu_would_show_a_graph_without_its_buffers(cuda):
    """The fake itself: a capture computes nothing, and a replay reads the static image."""
    stream = torch.cuda.Stream()
    recorded = torch.cuda.CUDAGraph()
    image = torch.zeros(4)
    with torch.inference_mode(), torch.cuda.stream(stream):
        with torch.cuda.graph(recorded, stream=stream):
            result = image + 1
        assert set(result.tolist()) == {POISON}
        image.fill_(2)
        recorded.replay()
        assert set(result.tolist()) == {3}
