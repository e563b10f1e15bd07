"""libcudart by ctypes: devices, memory, copies, one stream, graphs.

That is all of CUDA that running an engine needs. It works from CUDA 10.2 (JetPack 4.6, where
neither pycuda nor cuda-python can be installed from a package) to 13.
"""

import ctypes
import ctypes.util
import glob
import importlib.util
import os
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from segmentation_node.backends.base import gpu_index
from segmentation_node.errors import BackendError

# The oldest first: a driver runs every older run time, but no newer one.
LIBRARY_NAMES = (
    "libcudart.so.10.2",
    "libcudart.so.11.0",
    "libcudart.so.12",
    "libcudart.so.13",
    "libcudart.so",
)
TOOLKIT_FOLDERS = ("/usr/local/cuda/lib64",)
MIB = 1 << 20

_ADVICE = {
    2: "close other programs that use the GPU, or choose a smaller model or input",
    35: "there is no NVIDIA driver here, or it is older than this libcudart: update the driver",
    100: "there is no NVIDIA GPU here, or a container was not given it",
}
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, -Minor
_INTEGRATED = 18  # cudaDevAttrIntegrated
_NON_BLOCKING = 1
_THREAD_LOCAL = 1
_PROPERTIES_BYTES = 16384  # more than any version's cudaDeviceProp; it begins with the name
_NAME_BYTES = 256

# Without argument types ctypes would cut 64-bit pointers to int. All return cudaError_t.
_SIGNATURES: Dict[str, List[Any]] = {
    "cudaGetDeviceCount": [POINTER(c_int)],
    "cudaSetDevice": [c_int],
    "cudaDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cudaRuntimeGetVersion": [POINTER(c_int)],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaMalloc": [POINTER(c_void_p), c_size_t],
    "cudaFree": [c_void_p],
    "cudaMemcpyAsync": [c_void_p, c_void_p, c_size_t, c_int, c_void_p],
    "cudaStreamCreateWithFlags": [POINTER(c_void_p), c_uint],
    "cudaStreamSynchronize": [c_void_p],
    "cudaStreamDestroy": [c_void_p],
    "cudaStreamBeginCapture": [c_void_p, c_int],
    "cudaStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    # Five arguments up to CUDA 11, three (graph, flags last) from 12: zeros serve both.
    "cudaGraphInstantiate": [POINTER(c_void_p), c_void_p, c_void_p, c_void_p, c_size_t],
    "cudaGraphLaunch": [c_void_p, c_void_p],
    "cudaGraphDestroy": [c_void_p],
    "cudaGraphExecDestroy": [c_void_p],
    "cudaGetLastError": [],
}


class CudaRuntime:
    """The calls that are needed, each checked. A failed one raises BackendError, one line.

    The current device belongs to the calling thread: call ``use_device`` in the one that works.
    Pointers, streams and graphs are plain integers.
    """

    def __init__(self, library: Any) -> None:
        """Declare the functions of a loaded libcudart. Raises AttributeError if it lacks one."""
        self._functions = {}
        for name, argument_types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = argument_types, c_int
            self._functions[name] = function
        self._error_string = library.cudaGetErrorString
        self._error_string.argtypes, self._error_string.restype = [c_int], c_char_p
        self._properties = getattr(library, "cudaGetDeviceProperties", None)
        if self._properties is not None:
            self._properties.argtypes, self._properties.restype = [c_void_p, c_int], c_int

    def device_count(self) -> int:
        """GPUs that CUDA sees; 0 is an error of CUDA's own."""
        count = c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        return count.value

    def use_device(self, index: int) -> None:
        """Make this GPU the calling thread's."""
        self._call("cudaSetDevice", index)

    def device_name(self, index: int) -> str:
        """For example NVIDIA Tegra X1; ``GPU`` where it cannot be asked."""
        buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        if self._properties is None or self._properties(buffer, index) != 0:
            return "GPU"
        return buffer.raw[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")

    def compute_capability(self, index: int) -> str:
        """For example 5.3, a TX1's."""
        return "%d.%d" % (self._attribute(_MAJOR, index), self._attribute(_MINOR, index))

    def is_integrated(self, index: int) -> bool:
        """Whether it shares the host's memory, as a Jetson's does."""
        return self._attribute(_INTEGRATED, index) != 0

    def version(self) -> str:
        """Of the run time, for example 10.2."""
        number = c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(number))
        return "%d.%d" % (number.value // 1000, number.value % 1000 // 10)

    def free_mib(self) -> int:
        """Free memory of the current device in MiB."""
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value // MIB

    def allocate(self, size_bytes: int) -> int:
        """Device memory; give it back with ``free``."""
        pointer = c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), size_bytes, about=" of %d B" % size_bytes)
        return int(pointer.value or 0)

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", pointer)

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        stream = c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return int(stream.value or 0)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Begin to copy a C-contiguous array up; leave it alone until ``synchronize``."""
        address = array.ctypes.data
        self._call("cudaMemcpyAsync", pointer, address, array.nbytes, _HOST_TO_DEVICE, stream)

    def to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Begin to copy down into a C-contiguous array; it is complete after ``synchronize``."""
        address = array.ctypes.data
        self._call("cudaMemcpyAsync", address, pointer, array.nbytes, _DEVICE_TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of the stream is done; other Python threads run meanwhile."""
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Record what ``enqueue`` puts into the stream as a graph that can be launched.

        Raises BackendError where that cannot be recorded; the stream stays usable.
        """
        graph, executable = c_void_p(), c_void_p()
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # A capture that was never ended would leave the stream unusable.
            self._functions["cudaStreamEndCapture"](stream, ctypes.byref(graph))
            self._functions["cudaGetLastError"]()
            if graph.value:
                self._call("cudaGraphDestroy", graph)
            raise
        self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._call("cudaGraphInstantiate", ctypes.byref(executable), graph, None, None, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, executable: int, stream: int) -> None:
        """Put a captured graph's work into the stream."""
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: int) -> None:
        """Give a captured graph back."""
        self._call("cudaGraphExecDestroy", executable)

    def _attribute(self, attribute: int, index: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, index)
        return value.value

    def _call(self, name: str, *arguments: Any, about: str = "") -> None:
        code = self._functions[name](*arguments)
        if code == 0:
            return
        # Errors that pass would otherwise be reported again by the next call.
        self._functions["cudaGetLastError"]()
        meaning = (self._error_string(code) or b"unknown error").decode("ascii", "replace")
        advice = "; " + _ADVICE[code] if code in _ADVICE else ""
        raise BackendError("%s%s: %s (CUDA error %d)%s" % (name, about, meaning, code, advice))


def load_cuda_runtime() -> CudaRuntime:
    """The first libcudart that loads. Raises BackendError that says where it was looked for."""
    refusals: List[str] = []
    for path in _candidates():
        try:
            return CudaRuntime(ctypes.CDLL(path))
        except OSError as error:
            if os.path.isabs(path):
                refusals.append(str(error))
        except AttributeError as error:
            refusals.append("%s lacks a function: %s" % (path, error))
    raise BackendError(
        "libcudart is missing (looked for %s%s); on a Jetson it comes with JetPack's CUDA, "
        "elsewhere install the CUDA run time of your TensorRT, for example with: "
        "pip install nvidia-cuda-runtime-cu12"
        % (", ".join(LIBRARY_NAMES), "".join("; " + line for line in refusals))
    )


def parse_device(wanted: str) -> Optional[int]:
    """Index of the GPU that auto, cuda or cuda:N names; None for anything else."""
    return 0 if wanted == "auto" else gpu_index(wanted)


def choose_device(runtime: CudaRuntime, wanted: str) -> int:
    """Index of the GPU that is asked for. Raises BackendError where there is none."""
    index, count = parse_device(wanted), runtime.device_count()
    if index is None or index >= count:
        raise BackendError(
            "backend tensorrt: device %r is not offered (GPUs here: %d); choose auto, cuda or "
            "cuda:N, or for the cpu another backend" % (wanted, count)
        )
    return index


def _candidates() -> Iterator[str]:
    for name in LIBRARY_NAMES:
        yield name
    for path in _in_wheels():
        yield path
    found = ctypes.util.find_library("cudart")
    if found:
        yield found
    for folder in TOOLKIT_FOLDERS:
        for path in sorted(glob.glob(os.path.join(folder, "libcudart.so.*"))):
            yield path


def _in_wheels() -> List[str]:
    """libcudart in the folders of NVIDIA's wheels: nvidia/cuda_runtime/lib, nvidia/cu13/lib."""
    package = importlib.util.find_spec("nvidia")
    folders: Tuple[str, ...] = ()
    if package is not None and package.submodule_search_locations is not None:
        folders = tuple(package.submodule_search_locations)
    return [
        path
        for folder in folders
        for path in sorted(glob.glob(os.path.join(folder, "*", "lib", "libcudart.so.*")))
    ]
