"""TensorRT, 8.2 (Jetson TX1) to 11: runs an engine that ``segmentation_node.engine`` built.

Never run on a GPU yet: tests run it on stand-ins for TensorRT and libcudart.
"""

import os
import re
from contextlib import ExitStack, suppress
from typing import Any, Dict, Optional

import numpy as np

from segmentation_node.backends.base import Backend, BackendOptions, Prediction
from segmentation_node.backends.tensorrt import engine_files
from segmentation_node.backends.tensorrt.cuda import (
    CudaRuntime,
    choose_device,
    load_cuda_runtime,
    parse_device,
)
from segmentation_node.backends.tensorrt.versions import (
    DIALECTS,
    deserialize,
    dialect_of,
    import_tensorrt,
    shared_logger,
    take_reason,
)
from segmentation_node.errors import BackendError
from segmentation_node.model_card import ModelCard

L4T_FILE = "/etc/nv_tegra_release"


class TensorRtBackend(Backend):
    """Runs the engine of a card on a GPU, as a CUDA graph unless that is not wanted or possible.

    Images go up from the caller's own array, or, where the engine takes float32 (before 8.5), from
    one buffer that is kept. Host memory is not pinned: a TX1's CPU could not cache it.
    """

    name = "tensorrt"
    artifact_kind = "onnx"
    precisions = ("fp32", "fp16")
    executions = ("auto", "eager", "graph")

    @classmethod
    def unavailable(cls) -> str:
        try:
            import_tensorrt()
            load_cuda_runtime().device_count()
        except BackendError as error:
            return str(error)
        return ""

    @classmethod
    def accelerated(cls) -> bool:
        return True  # unavailable() has seen a GPU

    @classmethod
    def unready(cls, card: ModelCard, options: BackendOptions) -> str:
        if parse_device(options.device) is None:
            return "it needs a GPU, but device is %r" % options.device
        try:
            trt, cuda = import_tensorrt(), load_cuda_runtime()
            index = choose_device(cuda, options.device)
            machine = read_machine(str(trt.__version__), cuda, index)
        except BackendError as error:
            return str(error)
        return engine_files.missing_engine(card, options, machine)

    def _load(self, artifact_path: str) -> None:
        self._cuda = load_cuda_runtime()
        self._index = choose_device(self._cuda, self.options.device)
        self._cuda.use_device(self._index)
        self._resources = ExitStack()
        try:
            self._open()
        except BackendError as error:
            self._close()
            raise BackendError("backend tensorrt: %s" % error) from error
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        trt = import_tensorrt()
        machine = read_machine(str(trt.__version__), self._cuda, self._index)
        plan = engine_files.read_plan(self.card, self.options, machine)
        # The run time and its logger have to live as long as the engine.
        self._logger = shared_logger(trt)
        self._engine: Any = None
        self._resources.callback(self._forget)
        try:
            self._runtime, self._native = deserialize(trt, plan, self._logger)
            self._engine = DIALECTS[dialect_of(self._native)](trt, self._native)
            tensors = self._engine.tensors()
            self.input_shape = engine_files.check_tensors(tensors, self.card)
        except BackendError as error:
            # The manifest agrees with it: without --force nothing would be built.
            path = engine_files.engine_path(self.card, self.options, machine)
            command = engine_files.build_command(self.card, self.options, force=True)
            raise BackendError("%s: %s; rebuild it with: %s" % (path, error, command)) from error
        self._make_buffers({tensor.name: tensor.dtype for tensor in tensors})
        self._stream = self._cuda.create_stream()
        self._resources.callback(self._cuda.destroy_stream, self._stream)
        self._resources.callback(self._engine.unbind)
        self._engine.bind(self._addresses)
        self._prepare()
        self.device = "cuda:%d (%s, TensorRT %s)" % (self._index, machine.gpu, machine.tensorrt)

    def _make_buffers(self, dtypes: Dict[str, str]) -> None:
        """Device memory of every tensor, and the host arrays that are used again each run."""
        self._addresses: Dict[str, int] = {}
        self._received: Dict[str, np.ndarray] = {}
        self._maps: Dict[str, np.ndarray] = {}
        self._image: Optional[np.ndarray] = None
        if dtypes["image"] != "uint8":
            self._image = np.empty(self.input_shape, dtypes["image"])
        for name, dtype in dtypes.items():
            shape = self.input_shape if name == "image" else self.input_shape[:3]
            pointer = self._cuda.allocate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self._resources.callback(self._cuda.free, pointer)
            self._addresses[name] = pointer
            if name != "image":
                self._received[name] = np.empty(shape, dtype)
                self._maps[name] = self._received[name]
                if dtype != "uint8":
                    self._maps[name] = np.empty(shape, np.uint8)

    def _prepare(self) -> None:
        """Run once, and record a run as a CUDA graph where ``execution`` allows it."""
        cuda, stream = self._cuda, self._stream
        self._graph = 0
        # Lazy set-up inside TensorRT must not happen while recording.
        try:
            self._enqueue()
            cuda.synchronize(stream)
        except BackendError as error:
            line = "the first run failed: %s%s" % (error, take_reason(self._logger))
            raise BackendError(line) from error
        if self.options.execution == "eager":
            return
        try:
            self._graph = cuda.capture(stream, self._enqueue)
        except BackendError as error:
            line = "the CUDA graph cannot be recorded: %s%s" % (error, take_reason(self._logger))
            if self.options.execution == "graph":
                raise BackendError("%s; choose eager or auto" % line) from error
            self.warnings.append("backend tensorrt: %s; it runs without, which is slower" % line)
            return
        self._resources.callback(cuda.destroy_graph, self._graph)
        self.execution = "graph"

    def _enqueue(self) -> None:
        self._engine.enqueue(self._stream)

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        cuda, stream = self._cuda, self._stream
        names = ["class_map", "confidence"] if with_confidence else ["class_map"]
        if self._image is not None:
            np.copyto(self._image, image_nhwc)
            image_nhwc = self._image
        try:
            cuda.use_device(self._index)
            cuda.to_device(self._addresses["image"], image_nhwc, stream)
            if self._graph:
                cuda.launch(self._graph, stream)
            else:
                self._enqueue()
            for name in names:
                cuda.to_host(self._received[name], self._addresses[name], stream)
            cuda.synchronize(stream)
        except BackendError as error:
            raise BackendError(
                "backend tensorrt: the run failed: %s%s" % (error, take_reason(self._logger))
            ) from error
        maps = [self._map(name) for name in names]
        return Prediction(maps[0], maps[1] if with_confidence else None)

    def _map(self, name: str) -> np.ndarray:
        received, map_nhw = self._received[name], self._maps[name]
        if received is not map_nhw:
            np.copyto(map_nhw, received, casting="unsafe")
        return map_nhw

    def _forget(self) -> None:
        if self._engine is not None:
            self._engine.release()
        self._engine = self._native = None
        self._runtime = None  # goes last

    def _close(self) -> None:
        self._resources.callback(self._cuda.use_device, self._index)
        # A GPU that has failed fails every call again; the run said so. All are tried.
        with suppress(BackendError):
            self._resources.close()


def read_machine(tensorrt_version: str, cuda: CudaRuntime, index: int) -> engine_files.Machine:
    """What engines are bound to on this machine."""
    return engine_files.Machine(
        tensorrt=tensorrt_version,
        compute_capability=cuda.compute_capability(index),
        gpu=cuda.device_name(index),
        cuda=cuda.version(),
        l4t=_l4t_release(),
    )


def _l4t_release() -> str:
    """For example 32.7.1, from ``# R32 (release), REVISION: 7.1, ...``; empty elsewhere."""
    if not os.path.isfile(L4T_FILE):
        return ""
    with open(L4T_FILE) as content:
        found = re.search(r"R(\d+).*?REVISION: ([\d.]+)", content.readline())
    return ".".join(found.groups()) if found else ""
