"""A GPU that is none: torch.cuda's streams, events and graphs, played on the CPU.

A captured graph is held to what a real one does: capturing computes nothing, and a replay runs the
recorded operators on the very tensors that they were recorded with.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segmentation_node.backends import torch as torch_backend
from segmentation_node.backends import torch_cuda
from segmentation_node.backends.torch_cuda import CudaRunner

POISON = 77
OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB of "
    "which 1.00 GiB is free.\nIf reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True."
)


class FakeCuda:
    """Counts what was asked for; ``fail`` maps an occasion to the error that it meets."""

    def __init__(self, monkeypatch, gpus=1, capability=(9, 0)):
        self.log = []
        self.fail = {}
        self.current = None
        self.capturing = None
        self.graphs = []
        self.pinned_tensors = []
        fake = self
        names = {
            "is_available": lambda: gpus > 0,
            "device_count": lambda: gpus,
            "current_device": lambda: fake.note("current device") or 0,
            "get_device_name": lambda device=None: "Fake GPU",
            "get_device_capability": lambda device=None: capability,
            "synchronize": lambda device=None: fake.note("device synchronised"),
            "empty_cache": lambda: fake.note("cache emptied"),
            "Stream": lambda device=None: FakeStream(fake),
            "stream": fake.use,
            "CUDAGraph": lambda: FakeGraph(fake),
            "graph": fake.capture,
            "Event": lambda enable_timing: FakeEvent(fake),
        }
        for name, value in names.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch_cuda, "pinned", self.pinned)
        monkeypatch.setattr(torch_backend, "choose_gpu", on_the_cpu)

    def note(self, occasion):
        """Log it, or meet the error that waits for it."""
        self.log.append(occasion)
        if occasion in self.fail:
            raise self.fail[occasion]

    def pinned(self, shape):
        self.note("pinned")
        self.pinned_tensors.append(torch.full(shape, POISON, dtype=torch.uint8))
        return self.pinned_tensors[-1]

    @contextlib.contextmanager
    def use(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, recorded, pool=None, stream=None, capture_error_mode="global"):
        assert stream is self.current and torch.is_inference_mode_enabled()
        recorded.mode = capture_error_mode
        recorded.shared_pool = pool
        self.note("capture")
        self.capturing = recorded
        try:
            with Recorder(recorded):
                yield
        finally:
            self.capturing = None
            recorded.poison()


class FakeStream:
    def __init__(self, cuda):
        self.cuda = cuda

    def synchronize(self):
        assert self.cuda.current is self and self.cuda.capturing is None
        self.cuda.note("stream synchronised")


class FakeEvent:
    """The n-th record happens n ms after the first."""

    def __init__(self, cuda):
        self.cuda = cuda

    def record(self, stream):
        assert stream is self.cuda.current
        self.cuda.note("event")
        self.at_ms = self.cuda.log.count("event")

    def elapsed_time(self, later):
        return float(later.at_ms - self.at_ms)


class FakeGraph:
    def __init__(self, cuda):
        self.cuda = cuda
        self.calls = []
        cuda.graphs.append(self)

    def pool(self):
        return self.shared_pool or ("pool of", id(self))

    def replay(self):
        self.cuda.note("replay")
        for function, arguments, keywords, results in self.calls:
            for kept, fresh in zip(results, tensors(function(*arguments, **keywords))):
                kept.copy_(fresh)

    def poison(self):
        """What capturing left in the outputs is not to be used."""
        for _, arguments, _, results in self.calls:
            given = {item.untyped_storage().data_ptr() for item in tensors(arguments)}
            for result in results:
                if result.untyped_storage().data_ptr() not in given:
                    result.fill_(POISON)


class Recorder(TorchDispatchMode):
    """Notes every operator, with the tensors that went in and came out."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self.graph.calls.append((function, args, kwargs or {}, tensors(results)))
        return results


class FakeGpuBackend(torch_backend.TorchBackend):
    """The torch backend whose GPU is the CPU; needs a FakeCuda."""

    def _make_runner(self, graphs, device):
        options = self.options
        return CudaRunner(graphs, device, self.input_shape, options.precision, options.execution)


def on_the_cpu(wanted, precision):
    """The checks of a GPU, and then the CPU."""
    torch_cuda.choose_gpu(wanted, precision)
    return torch.device("cpu")


def tensors(value):
    """All tensors in nested tuples and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for item in value for found in tensors(item)]
    return []
