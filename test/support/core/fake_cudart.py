"""A stand-in for libcudart, as ``ctypes.CDLL`` would give it: a GPU played in host memory.

A stream does its work only when it is synchronised, so that whoever reads or reuses too early is
found out. Arguments pass through ctypes, with the types that the caller declared. The environment
describes the machine: FAKE_CUDA_GPUS=1, FAKE_CUDA_CAPABILITY=5.3, FAKE_CUDA_FREE_MIB=4096,
FAKE_CUDA_INTEGRATED=0; FAKE_CUDA_NO_CAPTURE=1 refuses to record what TensorRT enqueues, and
FAKE_CUDA_FAIL=name:n:code lets the n-th call of a function since ``reset`` fail.
"""

import collections
import ctypes
import itertools
import os
import threading
import traceback

INVALID_VALUE, NO_DEVICE, INVALID_DEVICE, INVALID_HANDLE = 1, 100, 101, 400
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, UNKNOWN = 900, 901, 999
MESSAGES = {
    2: b"out of memory",
    NO_DEVICE: b"no CUDA-capable device is detected",
    CAPTURE_UNSUPPORTED: b"operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED: b"operation failed due to a previous error during capture",
}
TO_DEVICE, TO_HOST = 1, 2
INTEGRATED, MAJOR, MINOR = 18, 75, 76
WITHOUT_DEVICE = ("cudaGet", "cudaSetDevice", "cudaDeviceGetAttribute", "cudaRuntimeGetVersion")


class Refused(Exception):
    """The error code of a call."""


class Stream(object):
    def __init__(self):
        self.queued = []
        self.captured = None  # a list while capturing
        self.is_invalid = False


class Function(object):
    """One function; ``argtypes`` and ``restype`` are the caller's, as with ctypes."""

    argtypes, restype = (), ctypes.c_int

    def __init__(self, name):
        self._name = name

    def __call__(self, *arguments):
        if self._name == "cudaGetErrorString":  # ctypes lets no callback return text
            return MESSAGES.get(arguments[0], b"some error")
        native = ctypes.CFUNCTYPE(self.restype, *self.argtypes)
        return native(lambda *given: CUDART.serve(self._name, given))(*arguments)


class FakeCudart(object):
    def __init__(self):
        self.calls = collections.Counter()
        self.last_error = 0
        self._memory, self._streams, self._graphs, self._executables = {}, {}, {}, {}
        self._handles = itertools.count(1 << 40, 8)  # cut off where taken for an int
        self._thread = threading.local()

    def __getattr__(self, name):
        if name.startswith("cuda") and hasattr(type(self), "_" + name):
            return Function(name)
        raise AttributeError(name)

    def reset(self):
        """Count calls from here on."""
        self.calls.clear()
        self.last_error = 0
        self._thread = threading.local()

    def live(self):
        """How much memory, streams and graphs nobody gave back."""
        return sum(map(len, (self._memory, self._streams, self._graphs, self._executables)))

    def is_on_device(self, address, size):
        return any(at <= address and address + size <= at + len(m) for at, m in self._blocks())

    def enqueue(self, stream, work):
        """Put a call into a stream, as TensorRT does a kernel; an error code."""
        return self.last_error or self.serve("enqueue", (stream, work))

    def serve(self, name, arguments):
        """Count and do a call; its error code."""
        self.calls[name] += 1
        try:
            if name != "cudaStreamEndCapture":
                self._meet_the_failure(name)
            if not name.startswith(WITHOUT_DEVICE) and not hasattr(self._thread, "device"):
                raise Refused(INVALID_DEVICE)  # work belongs to a thread that chose its device
            return getattr(self, "_" + name)(*arguments) or 0
        except Refused as refusal:
            self.last_error = refusal.args[0]
        except Exception:  # ctypes would pass it over
            traceback.print_exc()
            self.last_error = UNKNOWN
        return self.last_error

    def _meet_the_failure(self, name):
        wanted = os.environ.get("FAKE_CUDA_FAIL", "").split(":")
        if wanted[0] == name and int(wanted[1]) == self.calls[name]:
            raise Refused(int(wanted[2]))

    def _blocks(self):
        return list(self._memory.items())

    def _stream(self, handle):
        return _find(self._streams, handle, INVALID_HANDLE)

    def _cudaGetErrorString(self):
        """Served by Function."""

    def _cudaGetLastError(self):
        error, self.last_error = self.last_error, 0
        return error

    def _cudaGetDeviceCount(self, count):
        count[0] = _number("FAKE_CUDA_GPUS", 1)
        if count[0] < 1:
            raise Refused(NO_DEVICE)

    def _cudaSetDevice(self, index):
        if not 0 <= index < _number("FAKE_CUDA_GPUS", 1):
            raise Refused(INVALID_DEVICE)
        self._thread.device = index

    def _cudaDeviceGetAttribute(self, value, attribute, index):
        major, minor = os.environ.get("FAKE_CUDA_CAPABILITY", "5.3").split(".")
        integrated = _number("FAKE_CUDA_INTEGRATED", 0)
        value[0] = {MAJOR: int(major), MINOR: int(minor), INTEGRATED: integrated}[attribute]

    def _cudaGetDeviceProperties(self, properties, index):
        ctypes.memmove(properties, b"Stand-in GPU\0", 13)

    def _cudaRuntimeGetVersion(self, version):
        version[0] = 10020

    def _cudaMemGetInfo(self, free, total):
        free[0] = total[0] = _number("FAKE_CUDA_FREE_MIB", 4096) << 20

    def _cudaMalloc(self, pointer, size):
        block = ctypes.create_string_buffer(b"\xa5" * size, size)
        pointer[0] = ctypes.addressof(block)
        self._memory[pointer[0]] = block

    def _cudaFree(self, pointer):
        _take(self._memory, pointer)

    def _cudaStreamCreateWithFlags(self, stream, flags):
        stream[0] = self._keep(self._streams, Stream())

    def _cudaStreamDestroy(self, stream):
        _take(self._streams, stream)

    def _cudaMemcpyAsync(self, destination, source, size, kind, stream):
        found = self._stream(stream)
        device, host = {TO_DEVICE: (destination, source), TO_HOST: (source, destination)}[kind]
        touched = any(at < host + size and host < at + len(m) for at, m in self._blocks())
        if touched or not self.is_on_device(device, size):
            raise Refused(INVALID_VALUE)
        self._not_while_capturing(found)
        found.queued.append(lambda: ctypes.memmove(destination, source, size))

    def _cudaStreamSynchronize(self, stream):
        found = self._stream(stream)
        self._not_while_capturing(found)
        work, found.queued = found.queued, []
        for call in work:
            call()

    def _enqueue(self, stream, work):
        found = self._stream(stream)
        if _number("FAKE_CUDA_NO_CAPTURE", 0):
            self._not_while_capturing(found)
        (found.queued if found.captured is None else found.captured).append(work)

    def _cudaStreamBeginCapture(self, stream, mode):
        found = self._stream(stream)
        if found.captured is not None or mode not in (0, 1, 2):
            raise Refused(INVALID_VALUE)
        found.captured, found.is_invalid = [], False

    def _cudaStreamEndCapture(self, stream, graph):
        found = self._stream(stream)
        captured, found.captured = found.captured, None  # whether or not anything comes of it
        self._meet_the_failure("cudaStreamEndCapture")
        if captured is None or found.is_invalid:
            raise Refused(CAPTURE_INVALIDATED)
        graph[0] = self._keep(self._graphs, captured)

    def _cudaGraphInstantiate(self, executable, graph, node, log, size):
        if node or log or size:  # later versions read the third argument as flags
            raise Refused(INVALID_VALUE)
        executable[0] = self._keep(self._executables, _find(self._graphs, graph))

    def _cudaGraphLaunch(self, executable, stream):
        self._stream(stream).queued.extend(_find(self._executables, executable))

    def _cudaGraphDestroy(self, graph):
        _take(self._graphs, graph)

    def _cudaGraphExecDestroy(self, executable):
        _take(self._executables, executable)

    def _keep(self, things, thing):
        handle = next(self._handles)
        things[handle] = thing
        return handle

    def _not_while_capturing(self, stream):
        if stream.captured is not None:
            stream.is_invalid = True
            raise Refused(CAPTURE_UNSUPPORTED)


def _find(things, handle, code=INVALID_VALUE):
    if handle not in things:
        raise Refused(code)
    return things[handle]


def _take(things, handle):
    _find(things, handle)
    del things[handle]


def _number(name, otherwise):
    return int(os.environ.get(name, otherwise))


CUDART = FakeCudart()
_CDLL = ctypes.CDLL


def load(path, *arguments, **keywords):
    """In place of ``ctypes.CDLL``: every libcudart of a version is the stand-in."""
    is_cudart = path and os.path.basename(path).startswith("libcudart.so.1")
    return CUDART if is_cudart else _CDLL(path, *arguments, **keywords)
