"""What the torch backend does on a GPU: buffers that stay, one stream, CUDA graphs. Never run.

A frame's way: the caller's array -> pinned host buffer -> device buffer -> network -> class map,
uint8, on the device -> pinned host buffer. Everything is queued on one stream, which is waited for
once.
"""

import threading
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

import numpy as np

from segmentation_node.errors import BackendError, reason

# cuDNN and cuBLAS choose kernels and allocate work space in the first runs; a capture forbids it.
WARM_UP_RUNS = 3
LONGEST_LINE = 400
LEAST_CAPABILITY = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (5, 3)}
"""Below these a GPU computes in fp32 all the same, or emulates."""
STAGES = ("staging", "upload", "network", "download")


def choose_gpu(wanted: str, precision: str) -> Any:
    """The torch device of ``cuda`` or ``cuda:N``. Raises BackendError where it cannot be used."""
    import torch

    if not torch.cuda.is_available():
        reason = "this PyTorch (%s) was built without CUDA" % torch.__version__
        if torch.version.cuda:
            reason = "PyTorch %s finds no CUDA GPU or driver" % torch.__version__
        raise BackendError("backend torch: device %r: %s; choose cpu" % (wanted, reason))
    found = torch.cuda.device_count()
    number = int(wanted.partition(":")[2] or torch.cuda.current_device())
    if number >= found:
        raise BackendError(
            "backend torch: device %r: there are %d GPUs here; choose cuda:0 to cuda:%d"
            % (wanted, found, found - 1)
        )
    capability = torch.cuda.get_device_capability(number)
    least = LEAST_CAPABILITY.get(precision, (0, 0))
    if tuple(capability) < least:
        raise BackendError(
            "backend torch: precision %r needs compute capability %d.%d, but cuda:%d (%s) has "
            "%d.%d; choose another precision"
            % ((precision,) + least + (number, torch.cuda.get_device_name(number)) + capability)
        )
    return torch.device("cuda", number)


def line_of(error: BaseException) -> str:
    """A torch error in one line; out of memory with what to do about it."""
    line = reason(error)
    if "out of memory" not in line.lower():
        return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " ..."
    return (
        "out of memory (%s); free some of it, or choose a smaller input, a smaller batch or fp16"
        % ". ".join(line.split(". ")[:2]).rstrip(".")
    )


class ProcessFlags:
    """Flags of the whole process for a while; threads may have them at once who want the same.

    A thread that wants others waits: a model may be loading beside one that runs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: List[bool] = []
        self._before: List[Tuple[Any, str, Any]] = []

    def take(self, is_tf32: bool) -> None:
        """Set them, or take part in what another thread has set."""
        with self._changed:
            self._changed.wait_for(lambda: not self._holders or self._holders[0] == is_tf32)
            if not self._holders:
                # Every shape is static, so the search for the fastest kernels is paid for once.
                wanted = _tf32_flags(is_tf32) + [(_cudnn(), "benchmark", True)]
                self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
                self._set(wanted)
            self._holders.append(is_tf32)

    def leave(self) -> None:
        """Set them back, once nobody has them any more."""
        with self._changed:
            self._holders.pop()
            if not self._holders:
                self._set(self._before)
                self._changed.notify_all()

    def _set(self, flags: List[Tuple[Any, str, Any]]) -> None:
        for owner, name, value in flags:
            setattr(owner, name, value)


PROCESS_FLAGS = ProcessFlags()


@contextmanager
def arithmetic(is_tf32: bool) -> Iterator[None]:
    """TF32 or not, and cuDNN's fastest kernels, for a while."""
    PROCESS_FLAGS.take(is_tf32)
    try:
        yield
    finally:
        PROCESS_FLAGS.leave()


def _cudnn() -> Any:
    import torch

    return torch.backends.cudnn


def _tf32_flags(is_tf32: bool) -> List[Tuple[Any, str, Any]]:
    """Owner, name and value, in the one of PyTorch's two ways that the process uses."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    flags: List[Tuple[Any, str, Any]] = [
        (matmul, "allow_tf32", is_tf32),
        (cudnn, "allow_tf32", is_tf32),
    ]
    try:
        for owner, name, _ in flags:
            getattr(owner, name)
    except RuntimeError:
        # Somebody set fp32_precision, of 2.9 and later; PyTorch refuses the flags from then on.
        precision = "tf32" if is_tf32 else "ieee"
        return [(matmul, "fp32_precision", precision), (cudnn.conv, "fp32_precision", precision)]
    return flags


def pinned(shape: Tuple[int, ...]) -> Any:
    """A page-locked uint8 tensor on the host: only from one can a copy be asynchronous."""
    import torch

    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class CudaRunner:
    """The deployed graphs on one GPU. ``execution``: auto is a CUDA graph.

    ``graphs`` are the ones without and with confidence. Under ``auto`` a capture that fails
    leaves a line in ``warnings`` and runs eagerly; where a graph was asked for it is an error.
    Raises BackendError, or RuntimeError as PyTorch does.
    """

    def __init__(
        self,
        graphs: List[Any],
        device: Any,
        input_shape: Tuple[int, ...],
        precision: str,
        execution: str,
    ) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._is_tf32 = precision == "tf32"
        self.device = "%s (%s)" % (device, torch.cuda.get_device_name(device))
        self.execution = "graph" if execution == "auto" else execution
        self.warnings: List[str] = []
        self._events: List[Any] = []
        self._staging_ms = 0.0
        self._stream = torch.cuda.Stream(device)
        self._host_image = pinned(input_shape)
        self._host_maps = [pinned(input_shape[:3]) for _ in graphs]
        self._host_image_nhwc = self._host_image.numpy()
        self._host_maps_nhw = [item.numpy() for item in self._host_maps]
        self._image: Any = torch.zeros(input_shape, dtype=torch.uint8, device=device)
        # Weights and this were sent on another stream.
        torch.cuda.synchronize(device)
        self._launches: List[Callable[[], Any]] = []
        try:
            self._launches = self._prepare(graphs, is_optional=execution == "auto")
        except RuntimeError:
            self.close()
            raise

    def run(self, image_nhwc: np.ndarray, with_confidence: bool) -> List[np.ndarray]:
        """Image uint8 (N, H, W, 3) -> class map and, if asked for, confidence, uint8 (N, H, W)."""
        start_s = time.perf_counter()
        np.copyto(self._host_image_nhwc, image_nhwc)
        self._staging_ms = (time.perf_counter() - start_s) * 1e3
        with self._on_stream():
            self._mark(0)
            self._image.copy_(self._host_image, non_blocking=True)
            self._mark(1)
            results = self._launches[int(with_confidence)]()
            self._mark(2)
            for kept, result in zip(self._host_maps, results):
                kept.copy_(result, non_blocking=True)
            self._mark(3)
            self._stream.synchronize()
        return self._host_maps_nhw

    def in_fp32(self) -> ContextManager[None]:
        """Around what runs beside the graphs: PyTorch's own choice for convolutions is TF32."""
        return arithmetic(is_tf32=False)

    def time_stages(self) -> None:
        """From now on record CUDA events between the parts of a run."""
        event = self._torch.cuda.Event
        self._events = [event(enable_timing=True) for _ in STAGES]

    def stages_ms(self) -> Dict[str, float]:
        """Duration of the last run's ``STAGES``; empty without ``time_stages``."""
        if not self._events:
            return {}
        pairs = zip(self._events, self._events[1:])
        spans_ms = [self._staging_ms] + [first.elapsed_time(last) for first, last in pairs]
        return dict(zip(STAGES, spans_ms))

    def close(self) -> None:
        """Free graphs, network and buffers, and give the memory back to the GPU."""
        self._launches, self._events = [], []
        self._image = self._host_image = self._host_image_nhwc = None
        self._host_maps, self._host_maps_nhw = [], []
        # A GPU that has failed fails every call again; the run said so.
        with suppress(RuntimeError):
            self._torch.cuda.empty_cache()

    def _prepare(self, graphs: List[Any], is_optional: bool) -> List[Callable[[], Any]]:
        with self._on_stream():
            for graph in graphs:
                for _ in range(WARM_UP_RUNS):
                    graph(self._image)
            self._stream.synchronize()
        if not self.execution.endswith("graph"):
            return [_bound(graph, self._image) for graph in graphs]
        try:
            return self._captured(graphs)
        except RuntimeError as error:
            line = "the CUDA graph could not be captured: %s" % line_of(_first_cause(error))
        if not is_optional:
            raise BackendError("backend torch: %s; choose execution eager" % line)
        return self._uncaptured(graphs, line)

    def _captured(self, graphs: List[Any]) -> List[Callable[[], Any]]:
        """Launches that replay what was recorded once; one pool of memory, since only one runs."""
        torch = self._torch
        launches: List[Callable[[], Any]] = []
        pool: Optional[Any] = None
        for graph in graphs:
            recorded = torch.cuda.CUDAGraph()
            with self._on_stream():
                # Under the default mode another thread's allocation would spoil the capture.
                with torch.cuda.graph(
                    recorded,
                    pool=pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    results = graph(self._image)
            pool = recorded.pool()
            launches.append(_replay(recorded, results))
        return launches

    def _uncaptured(self, graphs: List[Any], line: str) -> List[Callable[[], Any]]:
        """After a capture that failed: eager launches on a fresh stream, tried once."""
        self.execution = "eager"
        self.warnings.append("backend torch: %s; it runs eagerly, which is slower" % line)
        self._stream = self._torch.cuda.Stream(self._device)
        with self._on_stream():
            for graph in graphs:
                graph(self._image)
            self._stream.synchronize()
        return [_bound(graph, self._image) for graph in graphs]

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Stream and device are current in this thread, and the flags are this backend's."""
        torch = self._torch
        with torch.inference_mode(), torch.cuda.stream(self._stream), arithmetic(self._is_tf32):
            yield

    def _mark(self, index: int) -> None:
        if self._events:
            self._events[index].record(self._stream)


def _bound(graph: Any, image: Any) -> Callable[[], Any]:
    return lambda: graph(image)


def _replay(recorded: Any, results: Any) -> Callable[[], Any]:
    def launch() -> Any:
        recorded.replay()
        return results

    return launch


def _first_cause(error: BaseException) -> BaseException:
    """Ending a spoilt capture raises too, over the error that spoilt it."""
    while error.__context__ is not None:
        error = error.__context__
    return error
